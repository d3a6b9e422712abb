"""Residual add and RMSNorm: contract, checks, dispatch."""

from torch import Tensor

from packrank_kernels.checks import check_float, check_like, check_shape
from packrank_kernels.dispatch import choose
from packrank_kernels.layer_norm import check_norm


def add_rms_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    *,
    scale: float = 1.0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """RMSNorm of a sum, and the sum.

    total = scale * x + residual;  normed = total / sqrt(mean(total^2) + eps) * weight

    Args:
        x: [T, H] float32, bfloat16 or float16, contiguous.
        residual: [T, H], dtype of x, contiguous; None adds nothing.
        weight: [H] float32. A model whose factor is 1 + w passes that.
        eps: added to the mean of the squares.
        scale: factor on x, as MiniCPM has one on what a layer adds; 1 where residual is None.
        backend: "auto", or a name in `dispatch.TABLE["add_rms_norm"]`.

    Returns:
        (normed, total), both [T, H] in the dtype of x. The mean is float32 over the unrounded sum.
        Where residual is None, total equals x.

    Raises:
        ValueError: shapes or dtypes disagree, or `backend` refuses (the message says why).

    Cost: bound by 3 to 4 passes over [T, H].
    Source: Zhang and Sennrich 2019, eq. 4.
    """
    op = "add_rms_norm"
    check_shape(op, "x", x, "T", "H")
    check_float(op, "x", x)
    if residual is not None:
        check_shape(op, "residual", residual, *x.shape)
        check_like(op, "residual", residual, x.dtype, x.device)
    elif scale != 1.0:
        raise ValueError(f"{op}: scale is {scale} without a residual, expected 1")
    check_norm(op, weight, None, x.shape[1], x.device)
    chosen = choose(op, backend, x.device, x.dtype)
    normed, total = chosen.run(
        x.contiguous(),
        None if residual is None else residual.contiguous(),
        weight.contiguous(),
        eps,
        scale,
    )
    return normed, total
