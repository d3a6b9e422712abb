"""Memory read or copied as fast as it goes: what other ops' bytes are held against."""

import torch
from torch import Tensor

from packrank_kernels.checks import check_like, check_shape
from packrank_kernels.dispatch import choose
from packrank_kernels.threads import get_num_threads


def stream(
    x: Tensor, out: Tensor | None = None, *, repeats: int = 1, backend: str = "auto"
) -> Tensor:
    """Read every value of x, or copy it; on a CPU each thread a share of its own.

    Args:
        x: [S] float32, contiguous, S at least 1.
        out: [S] likewise, elsewhere in memory: where it is copied to; None: it is read only.
        repeats: how often; of one that stays in a cache, enough to outweigh the call itself.
        backend: "auto", or a name in `dispatch.TABLE["stream"]`.

    Returns:
        The largest value, float32, of x without NaN; or `out`.

    Raises:
        ValueError: shapes or dtypes disagree, repeats is less than 1, or `backend` refuses.

    Cost: repeats * 4 * S bytes read, and as many written to `out`.
    """
    op = "stream"
    check_shape(op, "x", x, "S")
    check_like(op, "x", x, torch.float32, x.device)
    if len(x) < 1 or not x.is_contiguous():
        raise ValueError(f"{op}: x must be contiguous, and hold a value at least")
    if out is not None:
        check_shape(op, "out", out, len(x))
        check_like(op, "out", out, torch.float32, x.device)
        if not out.is_contiguous():
            raise ValueError(f"{op}: out must be contiguous")
        if abs(out.data_ptr() - x.data_ptr()) < x.element_size() * len(x):
            raise ValueError(f"{op}: x and out lie over each other")
    if repeats < 1:
        raise ValueError(f"{op}: repeats is {repeats}, expected at least 1")
    chosen = choose(op, backend, x.device, x.dtype)
    found: Tensor = chosen.run(x, out, get_num_threads(), repeats)
    return found
