import pytest
import torch

from packrank_kernels import add_layer_norm, reference
from packrank_kernels.testing import assert_close

OP = "add_layer_norm"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 5, 16, 48, 100, 384])
@pytest.mark.parametrize("with_residual", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["scale", "bias"])
def test_equals_definition(backend, device, dtype, size, with_residual, with_bias):
    x = (torch.randn(70, size, device=device) * 3 + 2).to(dtype)
    residual = torch.randn(70, size, device=device).to(dtype) if with_residual else None
    weight = torch.randn(size, device=device)
    bias = torch.randn(size, device=device) if with_bias else None
    normed, total = add_layer_norm(x, residual, weight, bias, 1e-5, backend=backend)
    wide = residual.double() if with_residual else None
    expected = reference.add_layer_norm(x.double(), wide, weight, bias, 1e-5)
    assert_close(normed, expected[0])
    assert_close(total, expected[1])
    assert normed.dtype == total.dtype == dtype


@pytest.mark.parametrize("size", [2500, 5000])
def test_long_rows(backend, device, size):
    x, residual = torch.randn(2, 3, size, device=device)
    weight, bias = torch.randn(2, size, device=device)
    normed, total = add_layer_norm(x, residual, weight, bias, 1e-5, backend=backend)
    expected = reference.add_layer_norm(x.double(), residual.double(), weight, bias, 1e-5)
    assert_close(normed, expected[0])
    assert_close(total, expected[1])


def test_mean_far_from_zero(backend, device):
    x = torch.randn(3, 200, device=device) + 1000
    ones = torch.ones(200, device=device)
    normed, _ = add_layer_norm(x, None, ones, None, 1e-12, backend=backend)
    # The inputs' own grid at 1000 is 6e-5: a two-pass variance keeps that, a one-pass would not.
    expected, _ = reference.add_layer_norm(x.double(), None, ones, None, 1e-12)
    assert_close(normed, expected, tolerance=1e-4)


def test_views_are_read_as_they_are(backend, device):
    weight = torch.ones(1, device=device).expand(16)
    x = torch.randn(16, 30, device=device).T
    normed, _ = add_layer_norm(x, x, weight, weight, 1e-12, backend=backend)
    assert_close(normed, reference.add_layer_norm(x, x, weight, weight, 1e-12)[0])


def test_row_does_not_depend_on_company(backend, device):
    if backend == "reference":
        pytest.skip("the definition promises values, not bits")
    x, residual = torch.randn(2, 23, 100, device=device)
    weight, bias = torch.randn(2, 100, device=device)
    whole = add_layer_norm(x, residual, weight, bias, 1e-5, backend=backend)
    for rows in (slice(0, 1), slice(3, 9), slice(22, 23)):
        part = add_layer_norm(x[rows], residual[rows], weight, bias, 1e-5, backend=backend)
        assert all(torch.equal(p, w[rows]) for p, w in zip(part, whole, strict=True))


def test_nan_stays_in_its_row(backend, device):
    x = torch.randn(20, 48, device=device)
    x[7, 3] = float("nan")
    ones = torch.ones(48, device=device)
    normed, _ = add_layer_norm(x, x, ones, ones, 1e-5, backend=backend)
    assert normed[7].isnan().all()
    assert normed.isnan().sum() == 48


def test_no_rows(backend, device):
    x, ones = torch.zeros(0, 8, device=device), torch.ones(8, device=device)
    normed, total = add_layer_norm(x, x, ones, None, 1e-5, backend=backend)
    assert normed.shape == total.shape == (0, 8)


def test_refusals():
    x, ones = torch.randn(2, 8), torch.ones(8)
    with pytest.raises(ValueError, match=r"residual has shape \[1, 8\], expected \[2, 8\]"):
        add_layer_norm(x, x[:1], ones, None, 1e-5)
    with pytest.raises(ValueError, match=r"weight is torch.bfloat16, expected torch.float32"):
        add_layer_norm(x, None, ones.bfloat16(), None, 1e-5)
