import numpy as np
import pytest
import torch

from packrank_kernels import add_rms_norm, reference
from packrank_kernels.testing import assert_close

OP = "add_rms_norm"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [1, 5, 48, 100, 384, 5000])
@pytest.mark.parametrize("with_residual", [False, True], ids=["alone", "residual"])
def test_equals_definition(backend, device, dtype, size, with_residual):
    x = (torch.randn(13, size, device=device) * 3 + 2).to(dtype)
    residual = torch.randn(13, size, device=device).to(dtype) if with_residual else None
    weight = torch.randn(size, device=device)
    normed, total = add_rms_norm(x, residual, weight, 1e-5, backend=backend)
    wide = residual.double() if with_residual else None
    expected = reference.add_rms_norm(x.double(), wide, weight, 1e-5, 1.0)
    assert_close(normed, expected[0])
    assert_close(total, expected[1])
    assert normed.dtype == total.dtype == dtype


def test_by_hand(backend, device):
    x = torch.tensor([[1.0, 7.0], [0.0, 0.0]], device=device)
    weight = torch.tensor([2.0, 3.0], device=device)
    normed, total = add_rms_norm(x, x, weight, 1e-30, backend=backend)
    # The sum is (2, 14), its root mean square 10.
    assert_close(normed, torch.tensor([[0.4, 4.2], [0.0, 0.0]]).to(device))
    assert torch.equal(total, 2 * x)


def test_mean_stays(backend, device):
    x = torch.full((2, 30), 5.0, device=device)
    normed, _ = add_rms_norm(x, None, torch.ones(30, device=device), 1e-6, backend=backend)
    assert_close(normed, torch.ones(2, 30).to(device))


def test_views_are_read_as_they_are(backend, device):
    weight = torch.ones(1, device=device).expand(16)
    x = torch.randn(16, 30, device=device).T
    normed, _ = add_rms_norm(x, x, weight, 1e-6, backend=backend)
    assert_close(normed, reference.add_rms_norm(x, x, weight, 1e-6, 1.0)[0])


def test_no_rows(backend, device):
    x, ones = torch.zeros(0, 8, device=device), torch.ones(8, device=device)
    normed, total = add_rms_norm(x, x, ones, 1e-5, backend=backend)
    assert normed.shape == total.shape == (0, 8)


def test_refusals():
    x, ones = torch.randn(2, 8), torch.ones(8)
    with pytest.raises(ValueError, match=r"residual has shape \[1, 8\], expected \[2, 8\]"):
        add_rms_norm(x, x[:1], ones, 1e-5)
    with pytest.raises(ValueError, match=r"weight has shape \[8\], expected \[7\]"):
        add_rms_norm(x[:, :7], None, ones, 1e-5)
    with pytest.raises(ValueError, match=r"scale is 2\.0 without a residual, expected 1"):
        add_rms_norm(x, None, ones, 1e-5, scale=2.0)
    with pytest.raises(ValueError, match=r"cannot run this call: the tensors are torch.float64"):
        add_rms_norm(x.double(), None, ones, 1e-5, backend="scalar")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [1, 31, 33, 100])
def test_scaled(backend, device, dtype, size):
    x, residual = torch.randn(2, 7, size, device=device).to(dtype)
    weight = torch.randn(size, device=device)
    normed, total = add_rms_norm(x, residual, weight, 1e-3, scale=0.22, backend=backend)
    x, residual = (y.cpu().double().numpy() for y in (x, residual))
    wide = 0.22 * x + residual
    squares = (wide**2).mean(-1, keepdims=True)
    expected = wide / np.sqrt(squares + 1e-3) * weight.cpu().double().numpy()
    assert_close(total.cpu(), torch.from_numpy(wide))
    assert_close(normed.cpu(), torch.from_numpy(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_statistics_are_of_the_unrounded_sum(backend, device, dtype):
    # large + 1 rounds to large. Over the rounded sums the first element would be half a step more,
    # and so round up.
    step = torch.finfo(dtype).eps
    large = 2 / step
    x, residual = torch.full((2, 1, 64), large, device=device, dtype=dtype)
    residual[:] = 1.0
    x[0, 0], residual[0, 0] = 1.0, 0.0
    mean_square = (63 * (large + 1) ** 2 + 1) / 64
    weight = torch.full((64,), (1 + 0.3 * step) * mean_square**0.5, device=device)
    normed, total = add_rms_norm(x, residual, weight, 1e-3, backend=backend)
    assert (total[0, 1:] == large).all()
    assert normed[0, 0] == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_row_does_not_depend_on_company(backend, device, dtype):
    # On a CPU several tasks of rows; in the interpreter that would take long.
    rows = 3 if backend == "triton" and device.type == "cpu" else 1500
    x, residual = torch.randn(2, rows, 130, device=device).to(dtype)
    weight = torch.randn(130, device=device)
    together = add_rms_norm(x, residual, weight, 1e-6, scale=0.3, backend=backend)
    for row in (0, rows // 2, rows - 1):
        one = slice(row, row + 1)
        alone = add_rms_norm(x[one], residual[one], weight, 1e-6, scale=0.3, backend=backend)
        for a, b in zip(alone, together, strict=True):
            assert torch.equal(a, b[one])
