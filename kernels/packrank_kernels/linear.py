"""Linear layers with their activation: contract, packing, dispatch."""

import torch
from torch import Tensor

from packrank_kernels.checks import check_float, check_like, check_shape
from packrank_kernels.dispatch import choose
from packrank_kernels.packed import ACTIVATIONS, PackedLinear


def pack_linear(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    gated: bool = False,
    wide: bool = False,
    deterministic: bool = False,
    backend: str = "auto",
) -> PackedLinear:
    """Lay a weight out for a backend, once, at load.

    Args:
        weight: [N, K] float32, bfloat16 or float16; [2N, K] if gated.
        bias: [N] float32 ([2N] if gated), or None.
        activation: one of `packed.ACTIVATIONS`, or None. "gelu" is the exact (erf) form.
        gated: see `PackedLinear`.
        wide: likewise.
        deterministic: the bits of a row must not depend on the other rows. Kernels for the CPU
            always promise it.
        backend: "auto", or a name in `dispatch.TABLE["linear"]`.

    Raises:
        ValueError: shapes or dtypes disagree, the activation is unknown, or `backend` refuses (the
            message says why).
    """
    op = "pack_linear"
    check_shape(op, "weight", weight, "N", "K")
    check_float(op, "weight", weight)
    rows, in_features = weight.shape
    if gated and rows % 2:
        raise ValueError(f"{op}: a gated weight has an even number of rows, got {rows}")
    if bias is None:
        bias = torch.zeros(rows, dtype=torch.float32, device=weight.device)
    check_shape(op, "bias", bias, rows)
    check_like(op, "bias", bias, torch.float32, weight.device)
    if activation is not None and activation not in ACTIVATIONS:
        names = ", ".join(ACTIVATIONS)
        raise ValueError(f"{op}: activation {activation!r} is none of {names}")
    chosen = choose(
        "linear",
        backend,
        weight.device,
        weight.dtype,
        in_features=in_features,
        out_features=rows // 2 if gated else rows,
        activation=activation,
        gated=gated,
        wide=wide,
        deterministic=deterministic,
    )
    return PackedLinear(
        backend=chosen.name,
        data=chosen.pack(weight.contiguous(), gated),
        bias=(bias.to(weight.dtype) if chosen.narrow_bias else bias).contiguous(),
        activation=activation,
        in_features=in_features,
        out_features=rows // 2 if gated else rows,
        gated=gated,
        dtype=weight.dtype,
        wide=wide,
    )


def linear(x: Tensor, layer: PackedLinear) -> Tensor:
    """A linear layer and its activation, one pass over the output.

    out = activation(x weightᵀ + bias), or, gated, activation(first half) * second half.

    Args:
        x: [T, K], dtype of the layer, rows contiguous.
        layer: from `pack_linear`.

    Returns:
        [T, N], dtype of x, or float32 of a wide layer. Products are summed in float32; in every
        backend but the reference and cublas in an order that depends on K alone, so a row's bits do
        not depend on the other rows, on T, or on the number of threads. cublas may round parts of a
        sum to the dtype of x, as far as
        torch.backends.cuda.matmul.allow_*_reduced_precision_reduction lets it.

    Raises:
        ValueError: shapes or dtypes do not fit the layer.

    Cost: 2 * T * K * N operations (twice that if gated); bound by them.
    """
    op = "linear"
    check_shape(op, "x", x, "T", layer.in_features)
    check_like(op, "x", x, layer.dtype, layer.data.device)
    if layer.in_features > 1 and x.stride(1) != 1:
        raise ValueError(f"{op}: the rows of x must be contiguous")
    chosen = choose(op, layer.backend, x.device, x.dtype)
    form = {"wide": True} if layer.wide else {}
    out: Tensor = chosen.run(x, layer.data, layer.bias, layer.activation, layer.gated, **form)
    return out
