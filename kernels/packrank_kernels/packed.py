"""What backends read: weights, queries and documents in their order, and nothing that makes them.

Ops check and pack, backends compute. What goes from one to the other is here, below both.
"""

import functools
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

# Names of activations; `reference.ACTIVATE` says what they are.
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "tanh")

# Formats of token embeddings: those of floating-point numbers, and bits of residual codes.
FLOATS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
BITS = {"8bit": 8, "4bit": 4, "2bit": 2, "1bit": 1}
FORMATS = (*FLOATS, "int8", *BITS)

_Tokens = TypeVar("_Tokens", bound="PackedTokens")


@dataclass(frozen=True)
class RelativePositions:
    """What the distance between a query and a key adds to their product in attention.

    Of positions i and j it is row t = rows[P - 1 + i - j] of each table that there is: the softmax
    sees scale * (q[i] . k[j] + q[i] . keys[t] + queries[t] . k[j]) + bias[t], in float32.

    Attributes:
        keys: [R, H, D] contiguous, dtype of q, or None.
        queries: likewise.
        rows: [2P - 1] int32, each a row of the tables. P is at least the longest sequence.
        bias: [R, H] contiguous, float32, a number a head; or None. It is not scaled.
    """

    keys: Tensor | None
    queries: Tensor | None
    rows: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Pages:
    """Keys and values of sequences that grow, spread over pages of S tokens.

    Those of the token at position t of sequence n lie in row t % S of page table[n, t // S].

    Attributes:
        keys: [P, S, Hk, D], rotated where there are rotary positions. Any strides, the last
            dimension contiguous; a head's side by side, as of [P, Hk, S, D] transposed, are read
            fastest.
        values: [P, S, Hk, D], likewise, of the same dtype.
        table: [N, M] int32 contiguous. Entries past a sequence's length may be anything.
        lengths: [N] int32 contiguous. Tokens of each sequence.
    """

    keys: Tensor
    values: Tensor
    table: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class PackedLinear:
    """Weight and bias of one layer in the order a backend reads them.

    Attributes:
        backend: who packed it, and runs it.
        data: the weight in that backend's own layout.
        bias: [N] float32 ([2N] if gated), or in the weight's dtype where the backend reads it so;
            zeros where the layer has none.
        activation: one of `ACTIVATIONS`, or None.
        in_features: K.
        out_features: N.
        gated: the first N rows of the weight are activated, the second N multiply them.
        dtype: of the weight, and of what the layer reads and writes.
        wide: what the layer writes is float32, as it was summed.
    """

    backend: str
    data: Tensor
    bias: Tensor
    activation: str | None
    in_features: int
    out_features: int
    gated: bool
    dtype: torch.dtype
    wide: bool = False


@dataclass(frozen=True)
class PackedHead:
    """A head's weights in the order a backend reads them; all float32.

    Attributes:
        backend: who packed it, and runs it.
        dense: [C, H] in that backend's own layout.
        dense_bias: [C].
        activation: after the dense layer; one of `ACTIVATIONS`, or None.
        norm_weight: [C] of the LayerNorm after the activation, or None where there is none.
        norm_bias: [C] or None.
        norm_eps: added to the variance.
        out: [labels, C] in the backend's own layout.
        out_bias: [labels].
        in_features: H.
        inner_features: C.
    """

    backend: str
    dense: Tensor
    dense_bias: Tensor
    activation: str | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    norm_eps: float
    out: Tensor
    out_bias: Tensor
    in_features: int
    inner_features: int


@dataclass(frozen=True)
class PackedOutliers:
    """Dimensions of residual codes whose products are float32's; see `Codec`.

    Attributes:
        columns: [E] int32, which ones, as `PackedCodec.rows` has them.
        rows: [C, E] float32, centroid / step.
        weights: [2**bits] float32, weight / step, by field.
    """

    columns: Tensor
    rows: Tensor
    weights: Tensor


@dataclass(frozen=True)
class PackedCodec:
    """The integer tables of residual codes; see `Codec`.

    Attributes:
        bits: of a dimension: 1, 2, 4 or 8.
        step: what the integers below are multiples of.
        rows: [C, D] uint8. centroid / step, rounded, plus 128 - offset; dimension k lies at
            (k % per_byte) * (D / per_byte) + k // per_byte, so that the dimensions of one field of
            neighbouring bytes are neighbours.
        weights: [2**bits] uint8, by field. weight / step, rounded, plus offset. rows + weights is
            the integer vector plus 128, and never leaves a byte.
        outliers: of other dimensions, whose integers nobody multiplies; None where there are none.
    """

    bits: int
    step: float
    rows: Tensor
    weights: Tensor
    outliers: PackedOutliers | None

    def __post_init__(self) -> None:
        # Now, on the stream of all else here: what a later call queues other streams may not see.
        if self.rows.is_cuda and self.bits in (2, 4) and self.size % 32 == 0:
            self.rows_by_word  # noqa: B018

    @property
    def size(self) -> int:
        """D."""
        return self.rows.shape[1]

    @functools.cached_property
    def rows_by_word(self) -> Tensor:
        """[C, D] uint8: rows as the CUDA kernel adds weights to them, of 2 or 4 bits.

        Words of four bytes; 32 bytes belong to 4 * bits bytes of fields, and a word to two bytes of
        those, whose lower fields of four nibbles it has, the lowest nibble first, or the upper.
        """
        place = torch.arange(self.size, device=self.rows.device)
        word, fields = place % 32 // 4, 4 // self.bits
        nibble = word % 2 * 4 + place % 4
        byte = place // 32 * 4 * self.bits + word // (2 * fields) * 4 + nibble // 2
        shift = nibble % 2 * 4 + word // 2 % fields * self.bits
        plane = (8 - self.bits - shift) // self.bits
        return self.rows[:, plane * (self.size * self.bits // 8) + byte].contiguous()


@dataclass(frozen=True)
class PackedTokens:
    """Token embeddings of N documents, T tokens of D dimensions; see `TokenEmbeddings`.

    Attributes:
        format: one of `FORMATS`.
        values: [T, D] in the format's dtype; of residual codes [T, D * bits / 8] uint8.
        cu_seqlens: [N + 1] int64. Rows of document n start at cu_seqlens[n] and end before
            cu_seqlens[n + 1]. It need not start at 0: a slice of documents shares their values.
        scales: [T] float32, or None.
        codes: [T] int32, which centroid, or None.
        codec: or None.
    """

    format: str
    values: Tensor
    cu_seqlens: Tensor
    scales: Tensor | None = None
    codes: Tensor | None = None
    codec: PackedCodec | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.cu_seqlens) - 1

    @property
    def size(self) -> int:
        """D."""
        return self.values.shape[1] if self.codec is None else self.codec.size

    @property
    def device(self) -> torch.device:
        """Where all of it is."""
        return self.values.device

    @property
    def bytes_per_token(self) -> float:
        """What a token takes, codec and offsets not counted."""
        parts = (self.values, self.scales, self.codes)
        row = (
            x[:0].element_size() * (x.shape[1] if x.ndim == 2 else 1)
            for x in parts
            if x is not None
        )
        return float(sum(row))

    def slice(self: _Tokens, start: int, stop: int) -> _Tokens:
        """Documents [start, stop), 0 <= start <= stop <= N, sharing memory."""
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"documents [{start}, {stop}) are not among {len(self)}")
        return replace(self, cu_seqlens=self.cu_seqlens[start : stop + 1])


@dataclass(frozen=True)
class Queries:
    """Queries as backends read them.

    Attributes:
        values: [R, D] rows of all queries: of the documents' dtype, or int8, its columns in the
            order of `PackedCodec.rows` where the documents have a codec.
        weights: [R] float32, u_i; None where they are 1.
        starts: M + 1 numbers: rows of query m are [starts[m], starts[m + 1]).
        outliers: [R, E] float32, query / scale in the outlying dimensions of the documents' codec,
            where `values` are 0; None where it has none.
    """

    values: Tensor
    weights: Tensor | None
    starts: tuple[int, ...]
    outliers: Tensor | None = None

    def get_device(self) -> int:
        """As of a tensor."""
        return self.values.get_device()
