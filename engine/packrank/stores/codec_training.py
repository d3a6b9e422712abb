"""Codecs of residual codes, trained on a sample of token vectors.

Centroids by k-means of directions, buckets by quantiles of what centroids leave of vectors that the
k-means has not seen.

Source: Santhanam et al. 2022 (ColBERTv2), section 3.3; colbert/indexing/collection_indexer.py.
"""

import math

import numpy as np
import torch
from torch import Tensor

from packrank.errors import InputError
from packrank_kernels import Codec, get_num_threads, linear, pack_linear

_SEED = 123
_ITERATIONS = 4
_HELD_OUT = 0.05
_MOST_HELD_OUT = 50_000
# Rows whose scores of all centroids are alive at once.
_ROWS_AT_ONCE = 1024


def num_centroids(num_tokens: float) -> int:
    """How many ColBERT takes for a collection of so many tokens."""
    return 1 << max(math.floor(math.log2(16 * math.sqrt(max(num_tokens, 1)))), 0)


def check_faiss() -> None:
    """Raise InputError where the library that trains is not installed."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        raise InputError(
            "formats 8bit to 1bit are trained by faiss, which is not installed; "
            "pip install 'faiss-cpu>=1.12', or take --format int8"
        ) from None


def train_codec(sample: Tensor, bits: int, centroids: int) -> Codec:
    """A codec for vectors like those of a sample.

    The same sample gives the same codec: seeds are fixed, and the k-means adds the vectors of a
    centroid in their order, whatever threads do. Its products are its BLAS's, so another processor
    or number of threads may round otherwise.

    Args:
        sample: [T, D] float32 on the CPU, finite, in no particular order; T at least 1. Its rows
            are brought to length 1, in place.
        bits: 1, 2, 4 or 8.
        centroids: how many; fewer where the sample has fewer vectors.

    Raises:
        InputError: faiss is not installed.
    """
    check_faiss()
    import faiss

    sample /= torch.linalg.vector_norm(sample, dim=1, keepdim=True).clamp_min(1e-12)
    held_out = min(int(len(sample) * _HELD_OUT), _MOST_HELD_OUT)
    seen = sample[held_out:]
    count = min(centroids, len(seen))
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(get_num_threads())
    try:
        kmeans = faiss.Kmeans(
            sample.shape[1],
            count,
            niter=_ITERATIONS,
            seed=_SEED,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=len(seen),
        )
        kmeans.train(seen.numpy())
    finally:
        faiss.omp_set_num_threads(before)
    centers = torch.from_numpy(kmeans.centroids)
    centers /= torch.linalg.vector_norm(centers, dim=1, keepdim=True).clamp_min(1e-12)
    unseen = sample[:held_out] if held_out else sample
    layer = pack_linear(centers, None)
    residuals = np.concatenate(
        [
            (rows - centers[linear(rows, layer).argmax(dim=1)]).flatten().numpy()
            for rows in torch.split(unseen, _ROWS_AT_ONCE)
        ]
    )
    steps = np.arange(2 ** (bits + 1))[1:] / 2 ** (bits + 1)
    quantiles = torch.from_numpy(np.quantile(residuals, steps).astype(np.float32))
    return Codec.of(centers, quantiles[1::2], quantiles[0::2])
