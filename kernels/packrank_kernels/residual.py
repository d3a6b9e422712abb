"""Residual codes of ColBERTv2: a centroid, and a few bits a dimension for what is left.

A byte holds 8 / bits neighbouring dimensions, the first in its highest bits, and the bits of each
bucket lie lowest first (ColBERT and fast-plaid write them so). MaxSim reads the *field*, the bits
as they lie, and tables here are indexed by field.

MaxSim multiplies integers: centroids and bucket weights are rounded to multiples of one step, so
small that a centroid and a weight add up to a byte. q . (c + r) = q . c + q . r holds exactly then,
so every kernel has the same bits whether it adds before the product or after it.

Source: Santhanam et al. 2022 (ColBERTv2), section 3.3; colbert/indexing/codecs/residual.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from packrank_kernels.checks import check_shape
from packrank_kernels.linear import linear, pack_linear
from packrank_kernels.packed import PackedCodec

# Elements of one block of centroid scores: 64 MB.
_BLOCK = 1 << 24


@dataclass(frozen=True)
class Codec(PackedCodec):
    """Centroids and buckets of one collection; made by `of`, which checks.

    Attributes:
        centroids: [C, D] float32.
        bucket_cutoffs: [2**bits - 1] float32, rising.
        bucket_weights: [2**bits] float32, by bucket.
        bits: of a dimension, 2 or 4; step, rows and weights are those of `PackedCodec`.
    """

    centroids: Tensor
    bucket_cutoffs: Tensor
    bucket_weights: Tensor

    @classmethod
    def of(cls, centroids: Tensor, bucket_cutoffs: Tensor, bucket_weights: Tensor) -> "Codec":
        """Check, and work the integers out.

        Raises:
            ValueError: shapes disagree, a value is not finite, or the bits are not 2 or 4.
        """
        name = "codec"
        check_shape(name, "centroids", centroids, "C", "D")
        check_shape(name, "bucket_weights", bucket_weights, "2**bits")
        bits = {4: 2, 16: 4}.get(len(bucket_weights))
        if bits is None:
            raise ValueError(f"{name}: {len(bucket_weights)} bucket weights, expected 4 or 16")
        check_shape(name, "bucket_cutoffs", bucket_cutoffs, 2**bits - 1)
        count, size = centroids.shape
        if not count or not size or size % (8 // bits):
            raise ValueError(
                f"{name}: centroids are {list(centroids.shape)}, expected at least one, "
                f"of a multiple of {8 // bits} dimensions"
            )
        wide, cutoffs, buckets = (
            x.float().contiguous() for x in (centroids, bucket_cutoffs, bucket_weights)
        )
        if not all(x.isfinite().all() for x in (wide, cutoffs, buckets)):
            raise ValueError(f"{name}: a value is not finite")
        if (cutoffs.diff() < 0).any():
            raise ValueError(f"{name}: bucket_cutoffs fall")
        # 126, not 127: two roundings may add half a step each. By a tensor: by a number, CUDA would
        # multiply with its reciprocal.
        step = (wide.abs().amax() + buckets.abs().amax()) / wide.new_full((), 126.0)
        step = torch.where(step == 0, 1.0, step)
        if not torch.finfo(torch.float32).tiny <= step < torch.inf:
            raise ValueError(f"{name}: the largest value is {126 * float(step):g}, out of range")
        centers, weights = (wide / step).round(), (buckets / step).round()
        offset = weights.abs().amax()
        planes = to_planes(centers + (128.0 - offset), 8 // bits).to(torch.uint8)
        fields = (weights + offset).to(torch.uint8)[
            _reverse(torch.arange(2**bits), bits).to(wide.device)
        ]
        return cls(
            centroids=wide,
            bucket_cutoffs=cutoffs,
            bucket_weights=buckets,
            bits=bits,
            step=float(step),
            rows=planes.contiguous(),
            weights=fields.contiguous(),
        )

    def to(self, device: torch.device) -> "Codec":
        """A copy on another device."""
        return Codec(
            centroids=self.centroids.to(device),
            bucket_cutoffs=self.bucket_cutoffs.to(device),
            bucket_weights=self.bucket_weights.to(device),
            bits=self.bits,
            step=self.step,
            rows=self.rows.to(device),
            weights=self.weights.to(device),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, packed residuals and scales of rows of x.

        The nearest centroid is the one with the largest product, the first of equals; a value on a
        cutoff goes to the lower bucket. scale = |x| / |centroid + residual|.

        Args:
            x: [T, D], any floating-point dtype, finite.

        Returns:
            [T] int32, [T, D * bits / 8] uint8, [T] float32.
        """
        wide = x.float().contiguous()
        layer = pack_linear(self.centroids, deterministic=True)
        rows = max(_BLOCK // len(self.centroids), 1)
        blocks = [linear(part, layer).argmax(dim=1) for part in torch.split(wide, rows)]
        codes = torch.cat(blocks) if blocks else wide.new_zeros(0, dtype=torch.int64)
        centers = self.centroids[codes]
        buckets = torch.bucketize(wide - centers, self.bucket_cutoffs, out_int32=True)
        residuals = pack_buckets(buckets.to(torch.uint8), self.bits)
        scales = _ratio(wide.norm(dim=1), centers + self.bucket_weights[buckets])
        return codes.to(torch.int32), residuals, scales

    def decode(self, codes: Tensor, residuals: Tensor) -> Tensor:
        """[T, D] float32, centroid + residual, not yet scaled."""
        buckets = unpack_buckets(residuals, self.bits)
        return self.centroids[codes] + self.bucket_weights[buckets.int()]

    def scales(self, codes: Tensor, residuals: Tensor) -> Tensor:
        """[T] float32, 1 / |centroid + residual|; 0 where that is 0."""
        return _ratio(1.0, self.decode(codes, residuals))


def pack_buckets(buckets: Tensor, bits: int) -> Tensor:
    """[T, D] uint8 below 2**bits -> [T, D * bits / 8] uint8."""
    per_byte = 8 // bits
    fields = _reverse(buckets, bits).view(len(buckets), buckets.shape[1] // per_byte, per_byte)
    packed = torch.zeros_like(fields[..., 0])
    for place in range(per_byte):
        packed |= fields[..., place] << (8 - bits * (place + 1))
    return packed


def unpack_buckets(packed: Tensor, bits: int) -> Tensor:
    """[T, D * bits / 8] uint8 -> [T, D] uint8 below 2**bits."""
    shifts = range(8 - bits, -1, -bits)
    fields = torch.stack([(packed >> shift) & (2**bits - 1) for shift in shifts], dim=-1)
    return _reverse(fields.flatten(1), bits)


def to_planes(x: Tensor, per_byte: int) -> Tensor:
    """Columns of x [T, D] in the order of `PackedCodec.rows`."""
    planes = x.view(len(x), x.shape[1] // per_byte, per_byte)
    return planes.transpose(1, 2).reshape(x.shape)


def _ratio(norms: Tensor | float, vectors: Tensor) -> Tensor:
    lengths = vectors.norm(dim=1)
    return torch.where(lengths > 0, norms / lengths, 0.0).float()


def _reverse(fields: Tensor, bits: int) -> Tensor:
    """uint8 below 2**bits, each with its bits in the other order."""
    out = torch.zeros_like(fields)
    for bit in range(bits):
        out |= ((fields >> bit) & 1) << (bits - 1 - bit)
    return out
