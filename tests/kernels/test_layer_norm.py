import pytest
import torch

from packrank_kernels import add_layer_norm, embed_layer_norm, reference
from packrank_kernels.dispatch import TABLE
from packrank_kernels.testing import assert_close

BACKENDS = {b.name: b for b in TABLE["add_layer_norm"]}
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=BACKENDS)
def backend(request):
    reason = BACKENDS[request.param].why_not(torch.device("cpu"), torch.float32)
    if reason:
        pytest.skip(reason)
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 5, 16, 48, 100, 384])
@pytest.mark.parametrize("with_residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["scale", "bias"])
def test_add_layer_norm(backend, dtype, size, with_residual, with_bias):
    x = (torch.randn(70, size) * 3 + 2).to(dtype)
    residual = torch.randn(70, size).to(dtype) if with_residual else None
    weight, bias = torch.randn(size), torch.randn(size) if with_bias else None
    normed, total = add_layer_norm(x, residual, weight, bias, 1e-5, backend=backend)
    expected = reference.add_layer_norm(
        x.double(), residual.double() if with_residual else None, weight, bias, 1e-5
    )
    assert_close(normed, expected[0])
    assert_close(total, expected[1])


def test_mean_far_from_zero(backend):
    x = torch.randn(3, 200) + 1000
    normed, _ = add_layer_norm(x, None, torch.ones(200), None, 1e-12, backend=backend)
    # The inputs' own grid at 1000 is 6e-5: a two-pass variance keeps that, a one-pass would not.
    expected, _ = reference.add_layer_norm(x.double(), None, torch.ones(200), None, 1e-12)
    assert_close(normed, expected, tolerance=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [5, 48, 100])
@pytest.mark.parametrize("tables", ["token", "token+type", "token+position", "all", "all, type 0"])
def test_embed_layer_norm(backend, dtype, size, tables):
    ids = torch.randint(0, 50, (90,), dtype=torch.int32)
    token_table = torch.randn(50, size).to(dtype)
    position_table = (
        torch.randn(30, size).to(dtype) if "position" in tables or "all" in tables else None
    )
    positions = None if position_table is None else torch.randint(0, 30, (90,), dtype=torch.int32)
    type_table = torch.randn(2, size).to(dtype) if "type" in tables or "all" in tables else None
    types = torch.randint(0, 2, (90,), dtype=torch.int32) if type_table is not None else None
    if tables == "all, type 0":
        types = None
    weight, bias = torch.randn(size), torch.randn(size)
    args = (ids, positions, types, token_table, position_table, type_table, weight, bias, 1e-12)
    assert_close(embed_layer_norm(*args, backend=backend), reference.embed_layer_norm(*args))


def test_views_are_read_as_they_are(backend):
    ids = torch.randint(0, 50, (90, 2), dtype=torch.int32)
    table = torch.randn(16, 50).T
    weight = torch.ones(1).expand(16)
    args = (ids[:, 0], None, None, table, None, None, weight, weight, 1e-12)
    assert_close(embed_layer_norm(*args, backend=backend), reference.embed_layer_norm(*args))
    x = torch.randn(16, 30).T
    normed, _ = add_layer_norm(x, x, weight, weight, 1e-12, backend=backend)
    assert_close(normed, reference.add_layer_norm(x, x, weight, weight, 1e-12)[0])


def test_no_rows(backend):
    normed, total = add_layer_norm(
        torch.zeros(0, 8), None, torch.ones(8), None, 1e-5, backend=backend
    )
    assert normed.shape == total.shape == (0, 8)


def test_refusals():
    x, ones = torch.randn(2, 8), torch.ones(8)
    with pytest.raises(ValueError, match=r"residual has shape \[1, 8\], expected \[2, 8\]"):
        add_layer_norm(x, x[:1], ones, None, 1e-5)
    with pytest.raises(ValueError, match=r"weight is torch.bfloat16, expected torch.float32"):
        add_layer_norm(x, None, ones.bfloat16(), None, 1e-5)
    ids = torch.tensor([0, 5], dtype=torch.int32)
    with pytest.raises(IndexError, match=r"token_ids spans 0..5, its table has 5 rows"):
        embed_layer_norm(ids, None, None, torch.randn(5, 8), None, None, ones, None, 1e-5)
    with pytest.raises(ValueError, match="type_table has no rows"):
        embed_layer_norm(ids, None, None, torch.randn(6, 8), None, torch.randn(0, 8), ones, None, 1)
    with pytest.raises(ValueError, match="positions and position_table must come together"):
        embed_layer_norm(ids, ids, None, torch.randn(6, 8), None, None, ones, None, 1e-5)
