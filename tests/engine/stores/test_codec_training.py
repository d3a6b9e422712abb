"""Codecs are trained by the book, again and again the same, and on however little."""

import re
import sys

import numpy as np
import pytest
import torch
from source_tree import extra
from torch import Tensor

import packrank_kernels
from packrank.errors import InputError
from packrank.stores.codec_training import num_centroids, train_codec


def clustered(tokens: int, size: int = 16, clusters: int = 8, noise: float = 0.1) -> Tensor:
    """Directions around some centers."""
    generator = torch.Generator().manual_seed(5)
    centers = torch.randn(clusters, size, generator=generator)
    centers /= centers.norm(dim=1, keepdim=True)
    which = torch.randint(clusters, (tokens,), generator=generator)
    return centers[which] + noise * torch.randn(tokens, size, generator=generator)


@pytest.mark.parametrize("bits", [2, 4])
def test_buckets_are_quantiles_of_unseen_residuals(bits: int) -> None:
    sample = clustered(4000)
    codec = train_codec(sample.clone(), bits, 32)
    assert codec.centroids.shape == (32, 16) and codec.bits == bits
    assert codec.centroids.norm(dim=1).numpy() == pytest.approx(1, abs=1e-6)
    x = (sample / sample.norm(dim=1, keepdim=True))[:200].double().numpy()
    centroids = codec.centroids.double().numpy()
    residuals = np.sort((x - centroids[(x @ centroids.T).argmax(axis=1)]).ravel())
    for shift, found in ((0.5, codec.bucket_weights), (1.0, codec.bucket_cutoffs)):
        for k, value in enumerate(found.tolist()):
            share = np.searchsorted(residuals, value) / len(residuals)
            assert share == pytest.approx((k + shift) / 2**bits, abs=1e-3)


def test_it_finds_what_there_is_to_find() -> None:
    """A centroid a cluster: what is left is the noise, and 4 bits keep most of that."""
    sample = clustered(4000, noise=0.02)
    codec = train_codec(sample.clone(), 4, 64)
    unit = sample / sample.norm(dim=1, keepdim=True)
    codes, residuals, scales = codec.encode(unit)
    coarse = (codec.centroids[codes.long()] - unit).norm(dim=1)
    fine = (scales[:, None] * codec.decode(codes, residuals) - unit).norm(dim=1)
    assert coarse.mean() < 0.1
    assert fine.mean() < 0.2 * coarse.mean()


@pytest.mark.usefixtures("restored_threads")
def test_the_same_sample_gives_the_same_codec() -> None:
    sample = clustered(20_000, size=48)
    packrank_kernels.set_num_threads(2)
    first = train_codec(sample.clone(), 2, 256)
    for threads in (2, 2, 1):
        packrank_kernels.set_num_threads(threads)
        again = train_codec(sample.clone(), 2, 256)
        assert torch.equal(first.centroids, again.centroids)
        assert torch.equal(first.bucket_weights, again.bucket_weights)
        assert torch.equal(first.bucket_cutoffs, again.bucket_cutoffs)


@pytest.mark.parametrize("tokens", [1, 2, 5, 30, 100])
def test_few_tokens_are_enough(tokens: int, capfd: pytest.CaptureFixture[str]) -> None:
    codec = train_codec(clustered(tokens), 4, 64)
    assert len(codec.centroids) == min(64, tokens - int(0.05 * tokens))
    assert capfd.readouterr() == ("", "")


def test_vectors_of_zeros_do_no_harm() -> None:
    codec = train_codec(torch.zeros(50, 8), 2, 4)
    codes, residuals, scales = codec.encode(torch.zeros(3, 8))
    assert not (scales[:, None] * codec.decode(codes, residuals)).any()


@pytest.mark.parametrize(("tokens", "count"), [(0, 16), (1, 16), (560, 256), (1e6, 8192)])
def test_as_many_centroids_as_colbert_takes(tokens: float, count: int) -> None:
    assert num_centroids(tokens) == count


def test_faiss_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=f"pip install '{re.escape(extra('residual'))}', or"):
        train_codec(clustered(10), 4, 4)
