"""The scoring head of a classifier: contract, packing, dispatch."""

import torch
from torch import Tensor

from packrank_kernels.checks import check_float, check_like, check_shape
from packrank_kernels.dispatch import choose
from packrank_kernels.layer_norm import check_norm
from packrank_kernels.packed import ACTIVATIONS, PackedHead


def pack_head(
    dense: Tensor,
    dense_bias: Tensor | None,
    activation: str | None,
    norm: tuple[Tensor, Tensor | None, float] | None,
    out: Tensor,
    out_bias: Tensor | None,
    *,
    backend: str = "auto",
) -> PackedHead:
    """Lay a head out for a backend, once, at load.

    Args:
        dense: [C, H] float32.
        dense_bias: [C] float32 or None.
        activation: one of `packed.ACTIVATIONS`, or None.
        norm: (weight, bias or None, eps) of a LayerNorm after the activation, or None.
        out: [labels, C] float32.
        out_bias: [labels] float32 or None.
        backend: "auto", or a name in `dispatch.TABLE["score_head"]`.

    Raises:
        ValueError: shapes or dtypes disagree, or `backend` refuses (the message says why).
    """
    op = "pack_head"
    check_shape(op, "dense", dense, "C", "H")
    inner, size = dense.shape
    check_shape(op, "out", out, "labels", inner)
    device, dtype = dense.device, torch.float32
    check_like(op, "dense", dense, dtype, device)
    check_like(op, "out", out, dtype, device)
    if activation is not None and activation not in ACTIVATIONS:
        names = ", ".join(ACTIVATIONS)
        raise ValueError(f"{op}: activation {activation!r} is none of {names}")
    biases = []
    for name, bias, rows in (("dense_bias", dense_bias, inner), ("out_bias", out_bias, len(out))):
        given = torch.zeros(rows, dtype=dtype, device=device) if bias is None else bias
        check_shape(op, name, given, rows)
        check_like(op, name, given, dtype, device)
        biases.append(given.contiguous())
    weight, offset, eps = (None, None, 0.0) if norm is None else norm
    if weight is not None:
        check_norm(op, weight, offset, inner, device)
    chosen = choose("score_head", backend, device, dtype)
    return PackedHead(
        backend=chosen.name,
        dense=chosen.pack(dense.contiguous(), False),
        dense_bias=biases[0],
        activation=activation,
        norm_weight=None if weight is None else weight.contiguous(),
        norm_bias=None if offset is None else offset.contiguous(),
        norm_eps=eps,
        out=chosen.pack(out.contiguous(), False),
        out_bias=biases[1],
        in_features=size,
        inner_features=inner,
    )


def score_head(hidden: Tensor, head: PackedHead, rows: Tensor | None = None) -> Tensor:
    """Logits of pooled hidden states: out(norm(activation(dense(hidden[rows])))), in float32.

    Args:
        hidden: [T, H] of any floating-point dtype; rows contiguous.
        head: from `pack_head`.
        rows: [N] int32, in [0, T), the rows that are scored; None scores all, N = T.

    Returns:
        [N, labels] float32. Products and statistics are float32; in every backend but the
        reference a row's bits do not depend on the other rows.

    Raises:
        ValueError: shapes or dtypes do not fit the head.

    Cost: 2 * N * C * H operations over one read of the dense weight.
    """
    op = "score_head"
    check_shape(op, "hidden", hidden, "T", head.in_features)
    check_float(op, "hidden", hidden)
    if hidden.device != head.dense.device:
        raise ValueError(f"{op}: hidden is on {hidden.device}, expected {head.dense.device}")
    if head.in_features > 1 and hidden.stride(1) != 1:
        raise ValueError(f"{op}: the rows of hidden must be contiguous")
    if rows is not None:
        check_shape(op, "rows", rows, "N")
        check_like(op, "rows", rows, torch.int32, hidden.device)
        rows = rows.contiguous()
    chosen = choose(op, head.backend, hidden.device, torch.float32)
    out: Tensor = chosen.run(hidden, rows, head)
    return out
