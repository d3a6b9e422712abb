import pytest
import torch

from packrank_kernels import embed_layer_norm, reference
from packrank_kernels.testing import assert_close

OP = "embed_layer_norm"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [5, 48, 100, 384])
@pytest.mark.parametrize("tables", ["token", "token+type", "token+position", "all", "all, type 0"])
def test_equals_definition(backend, device, dtype, size, tables):
    def make_table(rows):
        return torch.randn(rows, size, device=device).to(dtype)

    def make_ids(rows):
        return torch.randint(0, rows, (30,), dtype=torch.int32, device=device)

    has_positions = "position" in tables or "all" in tables
    has_types = "type" in tables or "all" in tables
    args = (
        make_ids(40),
        make_ids(30) if has_positions else None,
        make_ids(2) if has_types and tables != "all, type 0" else None,
        make_table(40),
        make_table(30) if has_positions else None,
        make_table(2) if has_types else None,
        torch.randn(size, device=device),
        torch.randn(size, device=device) if has_types else None,
        1e-12,
    )
    wide = [x.double() if x is not None and x.is_floating_point() else x for x in args[:-1]]
    out = embed_layer_norm(*args, backend=backend)
    assert out.dtype == dtype
    assert_close(out, reference.embed_layer_norm(*wide, 1e-12))


def test_views_are_read_as_they_are(backend, device):
    ids = torch.randint(0, 50, (90, 2), dtype=torch.int32, device=device)
    table = torch.randn(16, 50, device=device).T
    weight = torch.ones(1, device=device).expand(16)
    args = (ids[:, 0], None, None, table, None, None, weight, weight, 1e-12)
    assert_close(embed_layer_norm(*args, backend=backend), reference.embed_layer_norm(*args))


def test_no_tokens(backend, device):
    ids = torch.zeros(0, dtype=torch.int32, device=device)
    table, ones = torch.ones(3, 8, device=device), torch.ones(8, device=device)
    out = embed_layer_norm(ids, None, None, table, None, None, ones, None, 1, backend=backend)
    assert out.shape == (0, 8)


def test_refusals():
    ones, ids = torch.ones(8), torch.tensor([0, 5], dtype=torch.int32)
    with pytest.raises(IndexError, match=r"token_ids spans 0..5, its table has 5 rows"):
        embed_layer_norm(ids, None, None, torch.randn(5, 8), None, None, ones, None, 1e-5)
    with pytest.raises(ValueError, match="type_table has no rows"):
        embed_layer_norm(ids, None, None, torch.randn(6, 8), None, torch.randn(0, 8), ones, None, 1)
    with pytest.raises(ValueError, match="positions and position_table must come together"):
        embed_layer_norm(ids, ids, None, torch.randn(6, 8), None, None, ones, None, 1e-5)
