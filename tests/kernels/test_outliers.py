"""Residual codes of 1, 2, 4 and 8 bits where dimensions outgrow the rest, on every backend."""

import numpy as np
import pytest
import torch

import packrank_kernels
from packrank_kernels import BITS, Codec, TokenEmbeddings

OP = "maxsim"
LENGTHS = [3, 0, 17, 40]
TINY = 1e-30
# Triton's interpreter computes in numpy, which speaks up where infinities meet.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


def unless_refused(op):
    """The op; a call that a backend refuses, or has no kernel for, is skipped."""

    def call(*args, **options):
        try:
            return op(*args, **options)
        except ValueError as error:
            if "cannot run this call" not in str(error) and "no backend" not in str(error):
                raise
            pytest.skip(str(error))

    return call


maxsim = unless_refused(packrank_kernels.maxsim)
matches = unless_refused(packrank_kernels.matches)


def codec_of(bits, size, outlying=(), factor=50.0):
    centroids = torch.nn.functional.normalize(torch.randn(9, size))
    centroids[:, list(outlying)] *= factor
    weights = (torch.randn(2**bits) * 0.1).sort().values
    return Codec.of(centroids, (weights[1:] + weights[:-1]) / 2, weights)


def documents_of(codec, lengths=LENGTHS, device="cpu"):
    vectors = torch.randn(sum(lengths), codec.size)
    vectors *= codec.centroids.abs().amax(dim=0)
    return TokenEmbeddings.encode(vectors.split(lengths), f"{codec.bits}bit", codec).to(device)


def outlying_dimensions(codec):
    """Columns of planes, counted one dimension at a time."""
    if codec.outliers is None:
        return []
    per_byte = 8 // codec.bits
    places = [(k % per_byte) * (codec.size // per_byte) + k // per_byte for k in range(codec.size)]
    return [places.index(column) for column in codec.outliers.columns.tolist()]


def summed(terms):
    """[Q] float32 -> float32, 32 lanes and then halves."""
    lanes = np.zeros(32, np.float32)
    for i in range(0, len(terms), 32):
        part = terms[i : i + 32]
        lanes[: len(part)] += part
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return lanes[0]


def expected(query, documents, index):
    """A score, worked out from the codec's own numbers in the order that the op promises."""
    codec, step = documents.codec, np.float32(documents.codec.step)
    rows = slice(int(documents.cu_seqlens[index]), int(documents.cu_seqlens[index + 1]))
    if rows.start == rows.stop:
        return np.float32(-np.inf)
    outlying = outlying_dimensions(codec)
    inside = [k for k in range(codec.size) if k not in outlying]
    x = query.cpu().float().numpy()
    u = np.abs(x[:, inside]).max(axis=1) / np.float32(127)
    if outlying:
        u = np.maximum(u, np.abs(x[:, outlying]).max(axis=1) / np.float32(2**30))
    u = np.where(u == 0, np.float32(1), u)
    integers = np.rint(x[:, inside] / u[:, None]).astype(np.float64)
    stream = np.unpackbits(documents.values[rows].cpu().numpy(), axis=1)
    stream = stream.reshape(len(stream), -1, codec.bits)
    buckets = (stream << np.arange(codec.bits)).sum(axis=2)
    codes = documents.codes[rows].cpu().numpy()
    centroids, weights = codec.centroids.cpu().numpy(), codec.bucket_weights.cpu().numpy()
    whole = np.rint(centroids / step)[codes] + np.rint(weights / step)[buckets]
    s = (integers @ whole[:, inside].astype(np.float64).T).astype(np.float32)
    for k in outlying:
        v = (centroids[:, k] / step)[codes] + (weights / step)[buckets[:, k]]
        s = s + (x[:, k] / u)[:, None] * v
    s = s * documents.scales[rows].cpu().numpy()
    return summed(s.max(axis=1) * (u * step))


@pytest.mark.parametrize("bits", BITS.values())
@pytest.mark.parametrize(("size", "outlying"), [(8, ()), (24, (7,)), (128, (0, 127, 65))])
def test_bits_of_the_definition(backend, device, bits, size, outlying):
    documents = documents_of(codec_of(bits, size, outlying), device=device)
    assert sorted(outlying_dimensions(documents.codec)) == sorted(outlying)
    queries = [torch.randn(n, size, device=device) for n in (1, 34)]
    scores = maxsim(queries, documents, backend=backend)
    for query, found in zip(queries, scores, strict=True):
        want = [expected(query, documents, n) for n in range(len(LENGTHS))]
        np.testing.assert_array_equal(found.cpu().numpy(), want)
    if backend == "triton" and device.type == "cpu" and size > 8:
        return  # its interpreter takes seconds
    own = [torch.tensor(ids, device=device) for ids in ([3, 1], [0, 2, 2])]
    for m, found in enumerate(maxsim(queries, documents, own, backend=backend)):
        assert torch.equal(found, scores[m, own[m]])


@pytest.mark.parametrize("size", [8, 64])
def test_matches_sum_to_the_score(backend, device, size):
    documents = documents_of(codec_of(4, size, [2]), device=device)
    query, ids = torch.randn(5, size, device=device), torch.tensor([3, 1, 0], device=device)
    scores = maxsim(query, documents, ids, backend=backend)
    found = matches(query, documents, ids, backend=backend)
    assert [summed(row) for row in found.scores.cpu().numpy()] == scores.tolist()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite(backend, device, value):
    documents = documents_of(codec_of(2, 32, [3]), [3, 4, 0], device)
    for dimension in (3, 4):
        query = torch.ones(4, 32, device=device)
        query[1, dimension] = value
        scores = maxsim(query, documents, backend=backend)
        assert scores[:2].isnan().all()
        assert scores[2] == -torch.inf
    assert documents.codes is not None
    documents.codes[[1, 3]] = torch.tensor([-1, 9], dtype=torch.int32, device=device)
    scores = maxsim(torch.ones(4, 32, device=device), documents, backend=backend)
    assert scores[:2].isnan().all()


def test_extreme_ratios(backend, device):
    """All but one dimension as good as nothing, or nothing; a query of one dimension alone."""
    is_interpreted = backend == "triton" and device.type == "cpu"
    for rest in (TINY, 0.0)[: 1 if is_interpreted else 2]:
        centroids = torch.full((3, 16), rest)
        centroids[:, 9] = torch.tensor([1.0, -1.0, 0.5])
        weights = torch.linspace(-1, 1, 4) * rest
        codec = Codec.of(centroids, torch.linspace(-1, 1, 3) * rest, weights)
        vectors = centroids[[0, 1, 2, 2]]
        documents = TokenEmbeddings.encode(vectors.split([1, 1, 2]), "2bit", codec).to(device)
        for other in (0.0, 1.0, TINY)[: 2 if is_interpreted else 3]:
            query = torch.full((2, 16), other, device=device)
            query[0, 9] = 1.0
            query[1, 9] = 0.0
            wanted = query[0].double().cpu() @ vectors.double().T
            scores = maxsim(query, documents, backend=backend)
            np.testing.assert_allclose(scores.cpu(), wanted[[0, 1, 2]], rtol=1e-5)


def test_which_dimensions_outlie():
    def outlying(centroids, bits=4, spread=0.05):
        weights = torch.linspace(-spread, spread, 2**bits)
        return sorted(outlying_dimensions(Codec.of(centroids, weights[1:] - 1e-3, weights)))

    plain = torch.nn.functional.normalize(torch.randn(300, 128))
    assert outlying(plain) == []
    assert outlying(torch.ones(300, 128)) == [], "all equal"
    assert outlying(torch.zeros(300, 128)) == []
    padded = plain.clone()
    padded[:, 40:] = 0.0
    assert outlying(padded) == [], "dimensions of zeros are none to compare with"
    for factor in (20.0, 1e10):
        many = plain.clone()
        many[:, [5, 17, 99]] *= factor
        assert outlying(many) == [5, 17, 99]
        assert outlying(many, bits=1) == [5, 17, 99]
    steady = plain.clone()
    steady[:, 8] = 3.0
    assert outlying(steady) == [8], "whatever its variance"
    assert outlying(plain[:, :8] * torch.tensor([1.0] * 5 + [50.0] * 3)) == [5, 6, 7]
    assert len(outlying(plain * torch.logspace(0, -4, 128), spread=0.0)) == 8, "no more than that"
    assert outlying(torch.ones(2, 1), bits=8) == [], "the only dimension is no outlier"


def dominated(rng, kind, count, size=64):
    """Unit vectors of a few topics; dimension 5 has .95 of their length, or three others share."""
    topics = rng.standard_normal((30, size))
    x = topics[rng.integers(30, size=count)] + 0.8 * rng.standard_normal((count, size))
    x *= (1 - 0.95**2) ** 0.5 / np.linalg.norm(x, axis=1, keepdims=True)
    if kind == "three":
        x[:, [5, 30, 50]] = 0.7, -0.5, 0.4
    else:
        x[:, 5] = 0.95 * (rng.choice([-1, 1], count) if kind == "either sign" else 1)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["steady", "either sign", "three"])
@pytest.mark.parametrize("bits", [2, 4])
def test_as_good_as_decoded_vectors(kind, bits):
    """In bytes alone scores are off by .15, up to nine tenths of what they differ by."""
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(dominated(rng, kind, 3000)).float()
    queries = torch.from_numpy(dominated(rng, kind, 320)).float().split(32)
    centers = vectors[:64].clone()
    left = vectors - centers[(vectors @ centers.T).argmax(dim=1)]
    quantiles = torch.quantile(left.flatten(), torch.arange(1, 2 ** (bits + 1)) / 2 ** (bits + 1))
    codec = Codec.of(centers, quantiles[1::2].contiguous(), quantiles[::2].contiguous())
    documents = TokenEmbeddings.encode(vectors.split(30), f"{bits}bit", codec)
    decoded = torch.stack([documents.decode(n) for n in range(len(documents))]).double()
    for query in queries:
        found = maxsim(query, documents)
        want = (query.double() @ decoded.transpose(1, 2)).amax(dim=2).sum(dim=1)
        assert (found - want).abs().max() < 0.01
        assert (found - want).std() < 0.08 * want.std()
