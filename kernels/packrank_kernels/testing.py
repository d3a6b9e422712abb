"""What tests and benchmarks share: comparison by dtype, and ragged packs to try."""

import numpy as np
import torch
from torch import Tensor

# Relative to the largest magnitude of the expected result. float32: sums of up to a few thousand
# products in another order. bfloat16: one rounding of the output (2^-9) and of what it is made of;
# float16: the same, 8 times finer.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def assert_close(actual: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
    """Raise, naming the worst element, unless actual is expected to within a tolerance.

    The error is measured against the largest finite magnitude of `expected`; infinities and NaN
    must agree exactly.
    """
    if actual.shape != expected.shape:
        raise AssertionError(f"shape {list(actual.shape)}, expected {list(expected.shape)}")
    if tolerance is None:
        tolerance = TOLERANCE[actual.dtype]
    a, e = actual.double(), expected.double()
    finite = e.isfinite()
    same = torch.equal(torch.nan_to_num(a[~finite]), torch.nan_to_num(e[~finite]))
    if not same or not a[finite].isfinite().all() or (a.isnan() != e.isnan()).any():
        raise AssertionError("infinities or NaN do not agree")
    if not finite.any():
        return
    error = torch.where(finite, (a - e).abs(), 0.0)
    scale = e[finite].abs().max().clamp_min(1e-30)
    worst = float(error.max() / scale)
    if worst > tolerance:
        where = np.unravel_index(int(error.argmax()), error.shape)
        index = tuple(int(i) for i in where)
        raise AssertionError(
            f"error {worst:.3g} of the largest magnitude exceeds {tolerance:.3g}; "
            f"worst at {index}: {a[index].item():.9g}, expected {e[index].item():.9g}"
        )


def cu_seqlens(lengths: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
    """[0, l0, l0 + l1, ...] for these lengths."""
    return torch.tensor([0, *np.cumsum(lengths, dtype=np.int64).tolist()], dtype=dtype)
