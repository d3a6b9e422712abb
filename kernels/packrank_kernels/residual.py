"""Residual codes of ColBERTv2: a centroid, and a few bits a dimension for what is left.

A byte holds 8 / bits neighbouring dimensions (bits is 1, 2, 4 or 8), the first in its highest bits,
and the bits of each bucket lie lowest first (ColBERT and fast-plaid write them so). MaxSim reads
the *field*, the bits as they lie, and tables here are indexed by field.

MaxSim multiplies integers: centroids and bucket weights are rounded to multiples of one step, so
small that a centroid and a weight add up to a byte. q . (c + r) = q . c + q . r holds exactly then,
so every kernel has the same bits whether it adds before the product or after it.

One step is as good for all dimensions as a step for each: in a product of bytes, what a smaller
step gives a dimension of the documents it takes from the same of the query. But a dimension that
outgrows the rest by far, as encoders have them, would leave the others a few steps each, of
documents and of queries, and its own step is coarse beside what the others add. So up to
`_MOST_OUTLIERS` such *outlying* dimensions are multiplied in float32, and the step is the rest's.

Source: Santhanam et al. 2022 (ColBERTv2), section 3.3; colbert/indexing/codecs/residual.py.
Dettmers et al. 2022 (LLM.int8()), section 3.2, for outlying dimensions.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from packrank_kernels.checks import check_shape
from packrank_kernels.linear import linear, pack_linear
from packrank_kernels.packed import BITS, PackedCodec, PackedOutliers

# Elements of one block of centroid scores: 64 MB.
_BLOCK = 1 << 24
# Each costs MaxSim about as much as 8 dimensions in integers.
_MOST_OUTLIERS = 8
# A dimension outlies whose largest value is so many times the root mean square of the median
# dimension; in vectors without such dimensions, largest values are some 4 to 6 times that.
_OUTLYING = 8.0
# The largest value of an outlying dimension in steps, at most: float32 must hold its products.
_MOST_STEPS = 2.0**30


@dataclass(frozen=True)
class Codec(PackedCodec):
    """Centroids and buckets of one collection; made by `of`, which checks.

    Attributes:
        centroids: [C, D] float32.
        bucket_cutoffs: [2**bits - 1] float32, rising.
        bucket_weights: [2**bits] float32, by bucket.
        bits: of a dimension: 1, 2, 4 or 8; the others are those of `PackedCodec`.
    """

    centroids: Tensor
    bucket_cutoffs: Tensor
    bucket_weights: Tensor

    @classmethod
    def of(cls, centroids: Tensor, bucket_cutoffs: Tensor, bucket_weights: Tensor) -> "Codec":
        """Check, and work the integers out.

        Raises:
            ValueError: shapes disagree, a value is not finite, or the bits are not 1, 2, 4 or 8.
        """
        name = "codec"
        check_shape(name, "centroids", centroids, "C", "D")
        check_shape(name, "bucket_weights", bucket_weights, "2**bits")
        bits = {2**bits: bits for bits in BITS.values()}.get(len(bucket_weights))
        if bits is None:
            raise ValueError(
                f"{name}: {len(bucket_weights)} bucket weights, expected 2, 4, 16 or 256"
            )
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
        order = _reverse(torch.arange(2**bits), bits).to(wide.device)
        places = to_planes(torch.arange(size)[None], 8 // bits)[0].argsort()
        outlying = _outlying(wide, buckets)
        inside = wide.clone()
        inside[:, outlying] = 0.0
        # 126, not 127: two roundings may add half a step each. By a tensor: by a number, CUDA would
        # multiply with its reciprocal.
        step = (inside.abs().amax() + buckets.abs().amax()) / wide.new_full((), 126.0)
        step = torch.maximum(step, (wide.abs().amax() + buckets.abs().amax()) / _MOST_STEPS)
        step = torch.where(step == 0, 1.0, step)
        if not torch.finfo(torch.float32).tiny <= step < torch.inf:
            raise ValueError(f"{name}: the largest value is {126 * float(step):g}, out of range")
        centers, weights = (inside / step).round(), (buckets / step).round()
        offset = weights.abs().amax()
        planes = to_planes(centers + (128.0 - offset), 8 // bits).to(torch.uint8)
        fields = (weights + offset).to(torch.uint8)[order]
        outliers = None
        if outlying:
            outliers = PackedOutliers(
                columns=places[outlying].to(wide.device, torch.int32),
                rows=(wide[:, outlying] / step).contiguous(),
                weights=(buckets / step)[order].contiguous(),
            )
        return cls(
            centroids=wide,
            bucket_cutoffs=cutoffs,
            bucket_weights=buckets,
            bits=bits,
            step=float(step),
            rows=planes.contiguous(),
            weights=fields.contiguous(),
            outliers=outliers,
        )

    def to(self, device: torch.device) -> "Codec":
        """A copy on another device."""
        outliers = self.outliers
        return replace(
            self,
            centroids=self.centroids.to(device),
            bucket_cutoffs=self.bucket_cutoffs.to(device),
            bucket_weights=self.bucket_weights.to(device),
            rows=self.rows.to(device),
            weights=self.weights.to(device),
            outliers=outliers
            and PackedOutliers(
                columns=outliers.columns.to(device),
                rows=outliers.rows.to(device),
                weights=outliers.weights.to(device),
            ),
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


def _outlying(centroids: Tensor, weights: Tensor) -> list[int]:
    """Dimensions that outgrow the rest, the largest first, on every device the same."""
    # On a CPU: a sum may differ from device to device.
    x, w = centroids.cpu().numpy(), weights.cpu().numpy().astype(np.float64)
    largest = np.abs(x).max(axis=0).astype(np.float64)
    power = np.einsum("cd,cd->d", x, x, dtype=np.float64) / len(x) + np.square(w).mean()
    used = power[largest > 0]
    if not len(used):
        return []
    largest += np.abs(w).max()
    order = np.argsort(-largest, kind="stable")[: min(_MOST_OUTLIERS, len(largest) - 1)]
    return [int(d) for d in order if largest[d] > _OUTLYING * np.sqrt(np.median(used))]


def _ratio(norms: Tensor | float, vectors: Tensor) -> Tensor:
    lengths = vectors.norm(dim=1)
    return torch.where(lengths > 0, norms / lengths, 0.0).float()


def _reverse(fields: Tensor, bits: int) -> Tensor:
    """uint8 below 2**bits, each with its bits in the other order."""
    out = torch.zeros_like(fields)
    for bit in range(bits):
        out |= ((fields >> bit) & 1) << (bits - 1 - bit)
    return out
