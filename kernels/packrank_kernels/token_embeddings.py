"""Token embeddings of many documents, in every format that MaxSim reads.

| format | values | besides |
|---|---|---|
| float32, float16, bfloat16 | [T, D], that dtype | |
| int8 | [T, D] int8 | scales |
| 8bit, 4bit, 2bit, 1bit | [T, D * bits / 8] uint8 | scales, codes, codec |

int8: x ~ scale * values. 8bit to 1bit, the residual codes of ColBERTv2: x ~ scale * (centroid +
residual), where a residual is one of 2**bits weights in each dimension.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from packrank_kernels.checks import check_cu_seqlens, check_like, check_shape
from packrank_kernels.packed import BITS, FLOATS, FORMATS, PackedTokens
from packrank_kernels.residual import Codec

# Dimensions whose products of bytes int32 holds, 127 * 127 each, and the offset of one operand.
_MOST_INTEGERS = 1 << 16
# Added and taken away: to the nearest integer, half to even. (torch.round waits for ever in a
# forked child, from 2048 elements on.)
_ROUND = 1.5 * 2**23


@dataclass(frozen=True)
class TokenEmbeddings(PackedTokens):
    """Token embeddings of N documents, T tokens of D dimensions; made by `of`, which checks.

    Attributes:
        codec: of 8bit, 4bit, 2bit and 1bit, else None; the others are those of `PackedTokens`.
    """

    codec: Codec | None = None

    @classmethod
    def of(
        cls,
        values: Tensor,
        cu_seqlens: Tensor,
        scales: Tensor | None = None,
        codes: Tensor | None = None,
        codec: Codec | None = None,
    ) -> "TokenEmbeddings":
        """Check and combine; the format follows from what is given.

        Raises:
            ValueError: shapes, dtypes, devices or offsets disagree.
        """
        name, device = "token embeddings", values.device
        check_shape(name, "values", values, "T", "D")
        if not values.shape[1]:
            raise ValueError(f"{name}: values have no dimensions")
        tokens = len(values)
        check_cu_seqlens(name, "cu_seqlens", cu_seqlens, tokens, torch.int64, device, whole=False)
        named = {dtype: kind for kind, dtype in FLOATS.items()}
        wanted: tuple[str, ...] = ()
        if values.dtype in named:
            kind = named[values.dtype]
        elif values.dtype == torch.int8:
            kind, wanted = "int8", ("scales",)
        elif values.dtype == torch.uint8 and codec is not None:
            kind, wanted = f"{codec.bits}bit", ("scales", "codes", "codec")
            check_shape(name, "values", values, "T", codec.size * codec.bits // 8)
            check_like(name, "codec", codec.rows, torch.uint8, device)
        else:
            raise ValueError(
                f"{name}: values are {values.dtype}"
                f"{' without a codec' if values.dtype == torch.uint8 else ''}, expected float32, "
                "float16, bfloat16, int8, or uint8 with a codec"
            )
        for part, x, dtype in (("scales", scales, torch.float32), ("codes", codes, torch.int32)):
            if (x is None) != (part not in wanted):
                verb = "misses" if x is None else "has"
                raise ValueError(f"{name}: format {kind} {verb} {part}")
            if x is not None:
                check_shape(name, part, x, tokens)
                check_like(name, part, x, dtype, device)
        if codec is not None and "codec" not in wanted:
            raise ValueError(f"{name}: format {kind} has codec")
        made = cls(kind, values, cu_seqlens, scales, codes, codec)
        if kind not in FLOATS and made.size > _MOST_INTEGERS:
            raise ValueError(
                f"{name}: {made.size} dimensions, and sums of {kind} are exact to {_MOST_INTEGERS}"
            )
        parts = (values, cu_seqlens, scales, codes)
        if not all(x is None or x.is_contiguous() for x in parts):
            raise ValueError(f"{name}: every tensor must be contiguous")
        return made

    @classmethod
    def encode(
        cls, documents: Iterable[Tensor], format: str, codec: Codec | None = None
    ) -> "TokenEmbeddings":
        """Documents [L, D] of any floating-point dtype, in a format.

        Args:
            documents: N of them, on one device; at least one.
            format: one of `FORMATS`.
            codec: of 8bit, 4bit, 2bit and 1bit.

        Raises:
            ValueError: no document, an unknown format, a codec that does not fit it, or a value
                that is not finite in int8 or residual codes, which cannot write it. (Beyond its
                range float16 writes infinity.)
        """
        name, every = "token embeddings", list(documents)
        if format not in FORMATS:
            raise ValueError(f"{name}: no format {format!r}; there are {list(FORMATS)}")
        if (None if codec is None else codec.bits) != BITS.get(format):
            wanted = "a codec of its bits" if format in BITS else "no codec"
            raise ValueError(f"{name}: format {format} takes {wanted}")
        if not every:
            raise ValueError(f"{name}: there is no document, and so no number of dimensions")
        x = torch.cat(every)
        lengths = torch.tensor([0, *map(len, every)], dtype=torch.int64, device=x.device)
        cu_seqlens = lengths.cumsum(0)
        if format in FLOATS:
            return cls.of(x.to(FLOATS[format]), cu_seqlens)
        if not x.isfinite().all():
            raise ValueError(f"{name}: a value is not finite, {format} cannot write it")
        if format == "int8":
            values, scales = quantize_int8(x)
            return cls.of(values, cu_seqlens, scales)
        assert codec is not None
        codes, residuals, scales = codec.encode(x)
        return cls.of(residuals, cu_seqlens, scales, codes, codec)

    def to(self, device: torch.device) -> "TokenEmbeddings":
        """A copy on another device; itself where it is there."""
        if device == self.device:
            return self
        return TokenEmbeddings(
            format=self.format,
            values=self.values.to(device),
            cu_seqlens=self.cu_seqlens.to(device),
            scales=None if self.scales is None else self.scales.to(device),
            codes=None if self.codes is None else self.codes.to(device),
            codec=None if self.codec is None else self.codec.to(device),
        )

    def decode(self, document: int) -> Tensor:
        """[L, D] float32: one document's vectors, as near as the format keeps them."""
        if not 0 <= document < len(self):
            raise IndexError(f"document {document} is not among {len(self)}")
        return self._vectors(
            slice(int(self.cu_seqlens[document]), int(self.cu_seqlens[document + 1]))
        )

    def decoded(self, documents: Tensor | None = None) -> "TokenEmbeddings":
        """Some documents, [K] int64, or all, in float32: as near as the format keeps them."""
        rows: slice | Tensor
        if documents is None:
            rows = slice(int(self.cu_seqlens[0]), int(self.cu_seqlens[-1]))
            ends = self.cu_seqlens - self.cu_seqlens[0]
        else:
            starts = self.cu_seqlens[documents]
            lengths = self.cu_seqlens[documents + 1] - starts
            ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
            rows = torch.arange(int(ends[-1]), device=self.device)
            rows += (starts - ends[:-1]).repeat_interleave(lengths)
        return TokenEmbeddings.of(self._vectors(rows).contiguous(), ends)

    def _vectors(self, rows: slice | Tensor) -> Tensor:
        """[., D] float32; NaN where a code is no centroid or a scale is not finite."""
        values = self.values[rows]
        if self.scales is None:
            return values.float()
        scales = self.scales[rows]
        if self.codec is not None:
            assert self.codes is not None
            codes = self.codes[rows]
            known = (codes >= 0) & (codes < len(self.codec.centroids))
            values = self.codec.decode(torch.where(known, codes, 0), values)
            scales = torch.where(known, scales, torch.nan)
        return values.float() * torch.where(scales.isfinite(), scales, torch.nan)[:, None]


def quantize_int8(x: Tensor, least: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows of x as bytes and one scale each: x ~ scale * values.

    scale = max |row| / 127, 1 for a row of zeros; values = x / scale, rounded half to even. The
    arithmetic is float32. A row that holds a NaN or an infinity has a scale that is not finite.

    Args:
        x: [T, D], any floating-point dtype.
        least: [T] float32, what no scale may be below; None for 0.

    Returns:
        [T, D] int8 and [T] float32.
    """
    wide = x.float()
    scales = wide.new_zeros(len(x))
    if x.shape[1]:  # by a tensor: by a number, CUDA would multiply with its reciprocal
        scales = wide.abs().amax(dim=1) / wide.new_full((), 127.0)
    if least is not None:
        scales = torch.maximum(scales, least)
    scales = torch.where(scales == 0, 1.0, scales)
    values = torch.nan_to_num((wide / scales[:, None] + _ROUND) - _ROUND, nan=0.0)
    return values.clamp(-127, 127).to(torch.int8), scales
