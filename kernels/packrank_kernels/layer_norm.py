"""Residual add and LayerNorm: contract, checks, dispatch."""

import torch
from torch import Tensor

from packrank_kernels.checks import check_float, check_like, check_shape
from packrank_kernels.dispatch import choose


def add_layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """LayerNorm of a sum, and the sum: post-norm layers use the first, pre-norm layers both.

    total = x + residual;  normed = (total - mean) / sqrt(variance + eps) * weight + bias

    Args:
        x: [T, H] float32, bfloat16 or float16, contiguous.
        residual: [T, H], dtype of x, contiguous; None adds nothing.
        weight: [H] float32.
        bias: [H] float32 or None.
        eps: added to the variance.
        backend: "auto", or a name in `dispatch.TABLE["add_layer_norm"]`.

    Returns:
        (normed, total), both [T, H] in the dtype of x. Statistics are float32 over the unrounded
        sum. Where residual is None, total equals x.

    Raises:
        ValueError: shapes or dtypes disagree, or `backend` refuses (the message says why).

    Cost: bound by 3 to 4 passes over [T, H].
    Source: Ba et al. 2016, eq. 4.
    """
    op = "add_layer_norm"
    check_shape(op, "x", x, "T", "H")
    check_float(op, "x", x)
    if residual is not None:
        check_shape(op, "residual", residual, *x.shape)
        check_like(op, "residual", residual, x.dtype, x.device)
    check_norm(op, weight, bias, x.shape[1], x.device)
    chosen = choose(op, backend, x.device, x.dtype)
    normed, total = chosen.run(
        x.contiguous(),
        None if residual is None else residual.contiguous(),
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        eps,
    )
    return normed, total


def check_norm(
    op: str, weight: Tensor, bias: Tensor | None, size: int, device: torch.device
) -> None:
    """Raise unless weight and bias are float32 [size]."""
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None:
            check_shape(op, name, vector, size)
            check_like(op, name, vector, torch.float32, device)
