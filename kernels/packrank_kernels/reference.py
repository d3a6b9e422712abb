"""Every op in plain PyTorch: the definition of the right answer.

Arithmetic runs in float32 (float64 for float64 inputs) and is rounded once, to the dtype of the
output. Nothing here is fast, and nothing here is shared with the kernels it judges.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    scale: float,
    window: int | None,
    rotary: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """softmax(scale * q kᵀ) v within each sequence; see `attention.attention`."""
    out = q.new_zeros(q.shape)
    starts_q, starts_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for n in range(len(starts_q) - 1):
        rows_q = slice(starts_q[n], starts_q[n + 1])
        rows_k = slice(starts_k[n], starts_k[n + 1])
        qn, kn, vn = (_wide(x) for x in (q[rows_q], k[rows_k], v[rows_k]))
        if not len(qn) or not len(kn):
            continue
        if rotary is not None:
            qn, kn = _rotate(qn, *rotary), _rotate(kn, *rotary)
        scores = torch.einsum("qhd,khd->hqk", qn, kn) * scale
        if window is not None:
            i = torch.arange(len(qn), device=q.device)[:, None]
            j = torch.arange(len(kn), device=q.device)[None, :]
            scores = scores.masked_fill((i - j).abs() > window, float("-inf"))
            # A query whose window holds no key attends to nothing: its row is zero.
            weights = torch.nan_to_num(scores.softmax(-1), nan=0.0)
            weights = torch.where(scores.isnan().any(-1, keepdim=True), torch.nan, weights)
        else:
            weights = scores.softmax(-1)
        out[rows_q] = torch.einsum("hqk,khd->qhd", weights, vn).to(q.dtype)
    return out


def add_layer_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """(LayerNorm(x + residual), x + residual); see `layer_norm.add_layer_norm`."""
    total = _wide(x) if residual is None else _wide(x) + _wide(residual)
    return _layer_norm(total, weight, bias, eps).to(x.dtype), total.to(x.dtype)


def embed_layer_norm(
    token_ids: Tensor,
    positions: Tensor | None,
    token_types: Tensor | None,
    token_table: Tensor,
    position_table: Tensor | None,
    type_table: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """LayerNorm(token + position + type); see `embedding.embed_layer_norm`."""
    total = _wide(token_table[token_ids.long()])
    if position_table is not None and positions is not None:
        total = total + _wide(position_table[positions.long()])
    if type_table is not None:
        rows = torch.zeros_like(token_ids) if token_types is None else token_types
        total = total + _wide(type_table[rows.long()])
    return _layer_norm(total, weight, bias, eps).to(token_table.dtype)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, gated: bool
) -> Tensor:
    """activation(x weightᵀ + bias), or its gated form; see `linear.linear`."""
    y = _wide(x) @ _wide(weight).T
    if bias is not None:
        y = y + bias
    activate = ACTIVATIONS[activation] if activation else lambda value: value
    if gated:
        first, second = y.chunk(2, dim=-1)
        return (activate(first) * second).to(x.dtype)
    return activate(y).to(x.dtype)


def maxsim(query: Tensor, docs: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Sum over query tokens of the largest dot product in each document; see `maxsim.maxsim`."""
    starts = cu_seqlens.tolist()
    scores = docs.new_full((len(starts) - 1,), float("-inf"), dtype=torch.float32)
    for n in range(len(starts) - 1):
        doc = _wide(docs[starts[n] : starts[n + 1]])
        if len(doc):
            scores[n] = (_wide(query) @ doc.T).amax(dim=1).sum()
    return scores


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    y = (x - mean) * torch.rsqrt(variance + eps) * weight
    return y if bias is None else y + bias


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [L, H, D], row i at position i, halves form (rotate_half)."""
    c, s = cos[: len(x), None, :], sin[: len(x), None, :]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * c - second * s, second * c + first * s], dim=-1)
