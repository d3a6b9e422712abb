"""Thin modules over packrank_kernels: a layer holds weights, and calls ops on a pack."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from packrank.models.program import Array
from packrank.models.relative import RelativeTable
from packrank.request import Int32
from packrank_kernels import (
    add_layer_norm,
    attention,
    embed_layer_norm,
    linear,
    pack_head,
    pack_linear,
    score_head,
)

Rotary = tuple[Tensor, Tensor]

_POSITIONS = 1024  # of a rotary table, made at a time


@dataclass(frozen=True)
class Spans:
    """Where the sequences of a pack lie, and which of their tokens serve as keys.

    Attributes:
        cu_seqlens: [N + 1] int32.
        max_seqlen: tokens of the longest sequence, or more.
        first: [N] int32. Row of each sequence's first token; of an empty one, some row.
        cu_first: [N + 1] int32. 0, 1, ... N: cu_seqlens of the first tokens alone.
        key_rows: [Tk] int64, or None where every token is a key.
        cu_seqlens_k: [N + 1] int32. As cu_seqlens, of the keys.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    first: Tensor
    cu_first: Tensor
    key_rows: Tensor | None
    cu_seqlens_k: Tensor

    @classmethod
    def of(cls, cu_seqlens: Tensor, num_tokens: int, max_seqlen: int) -> "Spans":
        """Spans of a pack, from where its sequences start; T may be more than they fill."""
        return cls(
            cu_seqlens=cu_seqlens,
            max_seqlen=max_seqlen,
            first=cu_seqlens[:-1].clamp(max=num_tokens - 1),
            cu_first=torch.arange(len(cu_seqlens), dtype=torch.int32, device=cu_seqlens.device),
            key_rows=None,
            cu_seqlens_k=cu_seqlens,
        )

    def with_keys(self, key_rows: Tensor, cu_seqlens_k: Tensor) -> "Spans":
        """The same where only some tokens are keys: `key_arrays` on the device, int32."""
        return replace(self, key_rows=key_rows.long(), cu_seqlens_k=cu_seqlens_k)


def key_arrays(cu_seqlens: Int32, num_keys: Int32) -> dict[str, Array]:
    """`key_rows` and `cu_seqlens_k` of `Spans`.

    Only the first num_keys[n] tokens of sequence n are keys.
    """
    lengths = np.diff(cu_seqlens)
    counts = np.minimum(num_keys, lengths)
    is_key = offsets(cu_seqlens) < np.repeat(counts, lengths)
    starts = np.append(np.int32(0), np.cumsum(counts, dtype=np.int32))
    return {
        "key_rows": Array(np.flatnonzero(is_key).astype(np.int32), "token"),
        "cu_seqlens_k": Array(starts, "start"),
    }


def offsets(cu_seqlens: Int32) -> Int32:
    """[T] int32: how far each token of a pack stands from its sequence's first."""
    starts = np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))
    return np.arange(cu_seqlens[-1], dtype=np.int32) - starts


class Linear:
    """A linear layer and the activation after it; see `packrank_kernels.linear`."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        activation: str | None = None,
        gated: bool = False,
        wide: bool = False,
        deterministic: bool = False,
    ) -> None:
        self._packed = pack_linear(
            weight, bias, activation=activation, gated=gated, wide=wide, deterministic=deterministic
        )

    def __call__(self, x: Tensor) -> Tensor:
        """[T, K] -> [T, N]."""
        return linear(x, self._packed)

    def shares(self, weight: Tensor) -> bool:
        """Whether this weight's memory is read as it is, from its first row on."""
        return self._packed.data.data_ptr() == weight.data_ptr()


class LayerNorm:
    """LayerNorm of a sum; see `packrank_kernels.add_layer_norm`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, eps: float) -> None:
        self.weight, self.bias, self.eps = weight, bias, eps

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(normed, total) of x + residual, both [T, H]."""
        return add_layer_norm(x, residual, self.weight, self.bias, self.eps)


class Embeddings:
    """Tables of tokens, positions and token types, and the norm of their sum.

    Args:
        tokens: [V, E].
        positions: [P, E] or None.
        types: likewise.
        norm: of the sum.
        project: of the sum before its norm, or None.
    """

    def __init__(
        self,
        tokens: Tensor,
        positions: Tensor | None,
        types: Tensor | None,
        norm: LayerNorm,
        project: Linear | None = None,
    ) -> None:
        self._tokens, self._positions, self._types = tokens, positions, types
        self._norm, self._project = norm, project

    def __call__(
        self, token_ids: Tensor, positions: Tensor | None, token_types: Tensor | None
    ) -> Tensor:
        """[T] ids -> [T, E], or as wide as they are projected to."""
        norm, tables = self._norm, (self._tokens, self._positions, self._types)
        if self._project is not None:
            ids = (token_ids, positions, token_types)
            looked_up = [
                table.index_select(0, rows).float()
                for table, rows in zip(tables, ids, strict=True)
                if table is not None and rows is not None
            ]
            total = sum(looked_up[1:], looked_up[0]).to(self._tokens.dtype)
            return norm(self._project(total))[0]
        return embed_layer_norm(
            token_ids, positions, token_types, *tables, norm.weight, norm.bias, norm.eps
        )


class SelfAttention:
    """Every token attends within its sequence, queries, keys and values from one product.

    Args:
        weight: [3 * hidden, hidden]. Rows of the query, key and value projections.
        bias: [3 * hidden] float32 or None.
        out: the output projection.
        num_heads: H.
        window: see `packrank_kernels.attention`; likewise deterministic.
        rotary: of rotary positions; None: there are none.
        scale: see `packrank_kernels.attention`.
        relative: of relative positions; None: there are none.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        out: Linear,
        num_heads: int,
        *,
        window: int | None = None,
        rotary: "RotaryTable | None" = None,
        scale: float | None = None,
        relative: RelativeTable | None = None,
        deterministic: bool = False,
    ) -> None:
        self._deterministic = deterministic
        self._load(weight, bias)
        self._out, self._num_heads = out, num_heads
        self._window, self._rotary = window, rotary
        self._scale, self._relative = scale, relative

    def _load(self, weight: Tensor, bias: Tensor | None) -> None:
        self._qkv = Linear(weight, bias, deterministic=self._deterministic)

    def queried(self, x: Tensor, spans: Spans) -> Tensor:
        """The rows of x that `__call__` answers for."""
        return x

    def __call__(self, x: Tensor, spans: Spans) -> Tensor:
        """[T, hidden] -> [T, hidden]."""
        q, k, v = self._qkv(x).view(len(x), 3, self._num_heads, -1).unbind(1)
        return self._attend(q, k, v, spans.cu_seqlens, spans.max_seqlen, spans)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        max_seqlen_q: int,
        spans: Spans,
    ) -> Tensor:
        if spans.key_rows is not None:
            k, v = k[spans.key_rows], v[spans.key_rows]
        rotary = None if self._rotary is None else self._rotary.upto(spans.max_seqlen)
        y = attention(
            q,
            k,
            v,
            cu_seqlens_q,
            spans.cu_seqlens_k,
            scale=self._scale,
            window=self._window,
            rotary=rotary,
            relative=None if self._relative is None else self._relative.upto(spans.max_seqlen),
            max_seqlen_q=max_seqlen_q,
            max_seqlen_k=spans.max_seqlen,
            deterministic=self._deterministic,
        )
        return self._out(y.flatten(1))


class FirstTokenAttention(SelfAttention):
    """Only first tokens attend, to all of their sequence: what a classifier's last layer needs."""

    def _load(self, weight: Tensor, bias: Tensor | None) -> None:
        size = len(weight) // 3
        fixed = self._deterministic
        self._q = Linear(weight[:size], None if bias is None else bias[:size], deterministic=fixed)
        self._kv = Linear(weight[size:], None if bias is None else bias[size:], deterministic=fixed)

    def queried(self, x: Tensor, spans: Spans) -> Tensor:
        """[T, hidden] -> [N, hidden]."""
        return x.index_select(0, spans.first)

    def __call__(self, x: Tensor, spans: Spans) -> Tensor:
        """[T, hidden] -> [N, hidden]."""
        q = self._q(self.queried(x, spans)).view(len(spans.first), self._num_heads, -1)
        k, v = self._kv(x).view(len(x), 2, self._num_heads, -1).unbind(1)
        return self._attend(q, k, v, spans.cu_first, 1, spans)


@dataclass(frozen=True)
class MLP:
    """Two linear layers; the first is activated, and gated where its weight is."""

    up: Linear
    down: Linear

    def __call__(self, x: Tensor) -> Tensor:
        """[T, hidden] -> [T, hidden]."""
        return self.down(self.up(x))


@dataclass(frozen=True)
class PostNormLayer:
    """x = norm(x + attention(x)); x = norm(x + mlp(x))."""

    attention: SelfAttention
    attention_norm: LayerNorm
    mlp: MLP
    mlp_norm: LayerNorm

    def __call__(self, x: Tensor, spans: Spans) -> Tensor:
        """[T, hidden] -> a row for each that the attention answers for."""
        x, _ = self.attention_norm(self.attention(x, spans), self.attention.queried(x, spans))
        x, _ = self.mlp_norm(self.mlp(x), x)
        return x


@dataclass(frozen=True)
class PreNormLayer:
    """x += attention(norm(x)); x += mlp(norm(x)), the last sum left to the next layer's norm."""

    attention_norm: LayerNorm | None
    attention: SelfAttention
    mlp_norm: LayerNorm
    mlp: MLP

    def __call__(self, x: Tensor, update: Tensor | None, spans: Spans) -> tuple[Tensor, Tensor]:
        """(x, update) -> (x, update), their sum being the layer's input and output.

        A first layer without a norm takes no update.
        """
        if self.attention_norm is None:
            normed = x
        else:
            normed, x = self.attention_norm(x, update)
        attended = self.attention(normed, spans)
        normed, x = self.mlp_norm(attended, self.attention.queried(x, spans))
        return x, self.mlp(normed)


class Head:
    """Logits from pooled hidden states, in float32 whatever the encoder's dtype.

    Args:
        dense: [inner, hidden] float32, and its bias or None.
        activation: after the dense layer.
        norm: after the activation, or None.
        out: [num_labels, inner] float32, and its bias.
    """

    def __init__(
        self,
        dense: tuple[Tensor, Tensor | None],
        activation: str | None,
        norm: LayerNorm | None,
        out: tuple[Tensor, Tensor | None],
    ) -> None:
        parts = None if norm is None else (norm.weight, norm.bias, norm.eps)
        self._packed = pack_head(*dense, activation, parts, *out)

    def __call__(self, pooled: Tensor) -> Tensor:
        """[N, hidden] -> [N, num_labels] float32."""
        return score_head(pooled, self._packed)


class RotaryTable:
    """Cosines and sines of positions from 0, as far as sequences have come; threads may share it.

    What config.json says of positions is not taken at its word: a table of them all could fill
    memory, and most would never be read.

    Args:
        frequencies: makes [head_size / 2] float32, when the first sequence comes.
        device: where the table lies.
    """

    def __init__(self, frequencies: Callable[[], Tensor], device: torch.device) -> None:
        self._frequencies, self._device = frequencies, device
        # All that were made: graphs on a device go on reading those that they were captured with.
        self._made: list[Rotary] = []

    def upto(self, length: int) -> Rotary:
        """(cos, sin), each [at least `length`, head_size / 2] float32."""
        last = self._made[-1] if self._made else None
        if last is None or len(last[0]) < length:
            count = max(-(-length // _POSITIONS), 2 * len(last[0]) // _POSITIONS if last else 1)
            last = self._make(count)
            self._made.append(last)
        return last

    def _make(self, count: int) -> Rotary:
        """So many blocks, each made alike, so that a position's bits do not hang on the others."""
        frequencies = self._frequencies()
        angles = [
            torch.arange(start, start + _POSITIONS, dtype=torch.float32)[:, None] * frequencies
            for start in range(0, count * _POSITIONS, _POSITIONS)
        ]
        cos, sin = torch.cat([x.cos() for x in angles]), torch.cat([x.sin() for x in angles])
        return cos.to(self._device), sin.to(self._device)


def rotary_table(theta: float, head_size: int, device: torch.device) -> RotaryTable:
    """Of a base and the size of a head.

    Frequencies are rounded to float32 as transformers rounds them: at position 8000 the angle
    hangs on it. Source: Su et al. 2021, eq. 15.
    """

    def frequencies() -> Tensor:
        exponents = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
        return 1.0 / theta**exponents

    return RotaryTable(frequencies, device)
