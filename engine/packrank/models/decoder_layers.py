"""Layers of decoders: thin modules over packrank_kernels, for packs with shared prefixes."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from packrank.checkpoint.causal_config import Rope
from packrank.models.layers import MLP, Linear, RotaryTable
from packrank_kernels import Pages, add_rms_norm, attention, paged_attention


@dataclass(frozen=True)
class CausalSpans:
    """Where the sequences of a pack lie on the device.

    Attributes:
        cu_seqlens: [M + 1] int32.
        max_seqlen_q: tokens of the longest sequence by itself.
        max_seqlen_k: of the longest, its prefix included.
        prefix_of: [M] int32, or None where no sequence has a prefix.
        last: [M] int32. Row of each sequence's last token.
        cu_last: [M + 1] int32. 0, 1, ... M: cu_seqlens of the last tokens alone.
        pages: what the sequences' other tokens have left in this layer, where there are any: then
            those of the pack come after them, and max_seqlen_k counts them all.
    """

    cu_seqlens: Tensor
    max_seqlen_q: int
    max_seqlen_k: int
    prefix_of: Tensor | None
    last: Tensor
    cu_last: Tensor
    pages: Pages | None = None


class RMSNorm:
    """RMSNorm of a sum; see `packrank_kernels.add_rms_norm`."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps = weight, eps

    def __call__(
        self, x: Tensor, residual: Tensor | None = None, scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """(normed, total) of scale * x + residual, both [T, H]; scale counts with a residual."""
        if residual is None:
            return add_rms_norm(x, None, self._weight, self._eps)
        return add_rms_norm(x, residual, self._weight, self._eps, scale=scale)

    def heads(self, x: Tensor) -> Tensor:
        """Each head of x [T, H, D] on its own."""
        normed, _ = add_rms_norm(x.reshape(-1, x.shape[2]), None, self._weight, self._eps)
        return normed.view(x.shape)


class Projections:
    """Queries, keys and values of a pack, by one product where that takes no second weight.

    It does where the weight's rows lie as they are, so that some of them are a view. Packed for a
    CPU, they do not; nor does it pay where heads are normed, which copies what is not contiguous.

    Args:
        weight: [num_queries + 2 * num_keys, hidden]. Rows of the three projections.
        bias: of as many, float32, or None.
        num_queries: rows of queries; the rest are of keys and values.
        whole: whether one product may be.
        deterministic: see `packrank_kernels.pack_linear`.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        num_queries: int,
        *,
        whole: bool,
        deterministic: bool,
    ) -> None:
        def part(rows: slice) -> Linear:
            some = None if bias is None else bias[rows]
            return Linear(weight[rows], some, deterministic=deterministic)

        first, second = slice(num_queries), slice(num_queries, None)
        self._num_queries = num_queries
        self._queries, self._rest = part(first), part(second)
        views = self._queries.shares(weight[first]) and self._rest.shares(weight[second])
        self._whole = part(slice(None)) if whole and views else None

    def __call__(self, x: Tensor, asking: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[T, hidden] -> queries of the rows, or of `asking` [M, hidden]; and [T, 2 * num_keys]."""
        if self._whole is None or asking is not None:
            return self._queries(x if asking is None else asking), self._rest(x)
        out = self._whole(x)
        return out[:, : self._num_queries], out[:, self._num_queries :]


@dataclass(frozen=True)
class CausalAttention:
    """Every token attends to itself and to what comes before it, its prefix included.

    Where `causal` is false, to what follows it too.

    Attributes:
        qkv: the projections of queries, keys and values.
        out: the output projection.
        num_heads: H.
        num_key_heads: Hk.
        scale: see `packrank_kernels.attention`; likewise causal, window, softcap, deterministic.
        rotary: of rotary positions.
        q_norm: of each head of queries before rotation, or None; likewise k_norm.
    """

    qkv: Projections
    out: Linear
    num_heads: int
    num_key_heads: int
    scale: float
    rotary: RotaryTable
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    q_norm: RMSNorm | None = None
    k_norm: RMSNorm | None = None
    deterministic: bool = False

    def __call__(self, x: Tensor, spans: CausalSpans, *, last_only: bool) -> Tensor:
        """[T, hidden] -> [T, hidden]; of the last tokens alone, [M, hidden]."""
        q, kv = self.qkv(x, x.index_select(0, spans.last) if last_only else None)
        q = q.view(len(q), self.num_heads, -1)
        k, v = kv.view(len(x), 2, self.num_key_heads, -1).unbind(1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm.heads(q), self.k_norm.heads(k)
        starts = (spans.cu_last if last_only else spans.cu_seqlens, spans.cu_seqlens)
        options: dict[str, Any] = {
            "scale": self.scale,
            "window": self.window,
            "rotary": self.rotary.upto(spans.max_seqlen_k),
            "softcap": self.softcap,
            "max_seqlen_q": 1 if last_only else spans.max_seqlen_q,
            "deterministic": self.deterministic,
        }
        if spans.pages is not None:
            return self.out(paged_attention(q, k, v, spans.pages, *starts, **options).flatten(1))
        y = attention(
            *(q, k, v, *starts),
            # The last token sees all others either way; so counted, its position is the last.
            causal=self.causal or last_only,
            prefix_of=spans.prefix_of,
            max_seqlen_k=spans.max_seqlen_k,
            **options,
        )
        return self.out(y.flatten(1))


@dataclass(frozen=True)
class DecoderLayer:
    """x += attention(norm(x)); x += mlp(norm(x)), the last sum left to the next layer's norm.

    Attributes:
        attention_norm: before attention; mlp_norm: before the MLP.
        after_attention: Gemma 2's, of what attention adds; likewise after_mlp. None elsewhere.
        scale: factor on what is added.
    """

    attention_norm: RMSNorm
    attention: CausalAttention
    after_attention: RMSNorm | None
    mlp_norm: RMSNorm
    mlp: MLP
    after_mlp: RMSNorm | None
    scale: float

    def __call__(
        self, x: Tensor, update: Tensor | None, spans: CausalSpans, *, last_only: bool
    ) -> tuple[Tensor, Tensor]:
        """(x, update) -> (x, update): x + scale * update is the layer's input and output.

        Of the last tokens alone where they are all that is asked for.
        """
        if update is None:
            normed, x = self.attention_norm(x)
        else:
            normed, x = self.attention_norm(update, x, self.scale)
        attended = self.attention(normed, spans, last_only=last_only)
        if self.after_attention is not None:
            attended, _ = self.after_attention(attended)
        if last_only:
            x = x.index_select(0, spans.last)
        normed, x = self.mlp_norm(attended, x, self.scale)
        added = self.mlp(normed)
        if self.after_mlp is not None:
            added, _ = self.after_mlp(added)
        return x, added


def rotary_table(rope: Rope, head_size: int, device: torch.device) -> RotaryTable:
    """Of rotary positions as a config has them, and the size of a head.

    Frequencies are rounded to float32 where transformers rounds them. Source: Su et al. 2021, eq.
    15; "llama3" as Llama 3.1 stretches it.
    """

    def frequencies() -> Tensor:
        exponents = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
        turns = 1.0 / rope.theta**exponents
        if rope.kind == "linear":
            return turns / rope.factor
        if rope.kind == "default":
            return turns
        waves = 2 * math.pi / turns
        # 0 for the longest waves, which are stretched whole, to 1 for the short ones, left alone.
        kept = ((rope.original / waves - rope.low) / (rope.high - rope.low)).clamp(0, 1)
        return (1 - kept) * turns / rope.factor + kept * turns

    return RotaryTable(frequencies, device)
