"""MaxSim of every format on every backend, against numpy: floats in bounds, integers to the bit."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import packrank_kernels
from packrank_kernels import Codec, TokenEmbeddings
from packrank_kernels.dispatch import TABLE
from packrank_kernels.packed import Queries
from packrank_kernels.testing import cu_seqlens

OP = "maxsim"
FLOATS = [
    pytest.param("float32", torch.float32, id="float32"),
    pytest.param("float16", torch.float16, id="float16"),
    pytest.param("bfloat16", torch.bfloat16, id="bfloat16"),
]
INTEGERS = ["int8", "4bit", "2bit"]
FORMATS = [*FLOATS, *(pytest.param(x, torch.int8, id=x) for x in INTEGERS)]
LENGTHS = [3, 0, 1, 5, 17, 64, 130, 2, 0, 12]
NAN, INF = float("nan"), float("inf")
# Triton's interpreter computes in numpy, which speaks up where infinities meet.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


def maxsim(*args, **options):
    """The op; a test of a size that a backend refuses is skipped."""
    try:
        return packrank_kernels.maxsim(*args, **options)
    except ValueError as error:
        if "cannot run this call" not in str(error):
            raise
        pytest.skip(str(error))


def colbert_bytes(buckets, bits):
    """ColBERT's own packing: the bits of each bucket lowest first, then eight to a byte."""
    return np.packbits((buckets[..., None] >> np.arange(bits)) & 1).reshape(len(buckets), -1)


def integer_codec(bits, size, centroids=11):
    """A codec whose step is 1, so that its integers are the numbers given here."""
    centers = torch.randint(-90, 91, (centroids, size)).float()
    weights = torch.randperm(73)[: 2**bits].sort().values.float() - 36
    centers[0, 0], weights[0] = 90.0, -36.0
    return Codec.of(centers, (weights[1:] + weights[:-1]) / 2, weights)


def make(format, lengths, size, device="cpu"):
    """(documents, their vectors [T, D] float64 without scales, scales [T] float32 or None)."""
    total, starts = sum(lengths), cu_seqlens(lengths, torch.int64)
    if format not in INTEGERS:
        values = torch.randn(total, size).to(getattr(torch, format))
        return TokenEmbeddings.of(values, starts).to(device), values.double().numpy(), None
    scales = torch.rand(total) * torch.tensor([1e-3, 1.0, 50.0])[torch.randint(3, (total,))]
    if format == "int8":
        values = torch.randint(-127, 128, (total, size), dtype=torch.int8)
        documents = TokenEmbeddings.of(values, starts, scales)
        return documents.to(device), values.double().numpy(), scales.numpy()
    bits = int(format[0])
    codec = integer_codec(bits, size)
    assert codec.step == 1.0
    codes = torch.randint(len(codec.centroids), (total,), dtype=torch.int32)
    buckets = torch.randint(2**bits, (total, size))
    vectors = codec.centroids[codes.long()] + codec.bucket_weights[buckets]
    values = torch.from_numpy(colbert_bytes(buckets.numpy(), bits))
    documents = TokenEmbeddings.of(values, starts, scales, codes, codec)
    return documents.to(device), vectors.double().numpy(), scales.numpy()


def quantized(query):
    """(integers [Q, D] float64, scales [Q] float32) as the contract says."""
    x = query.float().numpy()
    scales = np.abs(x).max(axis=1) / np.float32(127)
    scales = np.where(scales == 0, np.float32(1), scales)
    return np.rint(x / scales[:, None]).astype(np.float64), scales


def summed(terms):
    """[Q] float32 -> float32, 32 lanes and then halves."""
    lanes = np.zeros(32, np.float32)
    for i in range(0, len(terms), 32):
        part = terms[i : i + 32]
        lanes[: len(part)] += part
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return lanes[0]


def exact(query, vectors, scales, rows):
    """The score of an integer format, to the bit: products in float64, which holds them exactly."""
    if rows.start == rows.stop:
        return np.float32(-np.inf)
    integers, u = quantized(query)
    similarities = (integers @ vectors[rows].T).astype(np.float32) * scales[rows]
    return summed(similarities.max(axis=1) * u)


def expected(query, vectors, scales, starts):
    """[N] scores, and by how much they may be off.

    A float32 sum of D products is off by D units of 2^-24 of the sum of their magnitudes, twice
    that where the processor cuts or rounds in pairs; the sum over Q tokens adds Q units.
    """
    spans = [slice(int(a), int(b)) for a, b in pairwise(starts)]
    if scales is not None:
        return np.array([exact(query, vectors, scales, x) for x in spans], np.float32), 0.0
    x = query.double().numpy()
    scores, bounds = [], []
    for rows in spans:
        if rows.start == rows.stop:
            scores.append(-np.inf)
            bounds.append(0.0)
            continue
        best = (x @ vectors[rows].T).max(axis=1)
        size = (np.abs(x) @ np.abs(vectors[rows]).T).max(axis=1)
        scores.append(best.sum())
        bounds.append(2.0**-23 * ((x.shape[1] + 2) * size.sum() + (len(x) + 5) * size.sum()))
    return np.array(scores), np.array(bounds)


def check(scores, query, made, starts=None):
    documents, vectors, scales = made
    rounded = query if scales is not None else query.to(documents.values.dtype)
    starts = documents.cu_seqlens.cpu().numpy() if starts is None else starts
    want, bound = expected(rounded.cpu(), vectors, scales, starts)
    found = scores.cpu().numpy()
    assert found.dtype == np.float32
    if scales is not None:
        np.testing.assert_array_equal(found, want)
        return
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(want))
    finite = np.isfinite(want)
    assert (np.abs(found[finite] - want[finite]) <= bound[finite]).all()


@pytest.mark.parametrize(("format", "dtype"), FORMATS)
@pytest.mark.parametrize(("query_tokens", "size"), [(1, 32), (33, 48), (70, 128)])
def test_equals_numpy(backend, device, format, dtype, query_tokens, size):
    made = make(format, LENGTHS, size, device)
    query = torch.randn(query_tokens, size, device=device)
    check(maxsim(query, made[0], backend=backend), query, made)


@pytest.mark.parametrize(("format", "dtype"), FORMATS)
def test_fuzz(backend, device, format, dtype, thorough):
    """Any sizes, lengths as skewed as Zipf's; what a round multiplies is bounded."""
    rng = np.random.default_rng(7)
    is_interpreted = backend == "triton" and device.type == "cpu"
    rounds, longest, work = (1, 64, 5e5) if is_interpreted else (4, 1024, 5e6)
    rounds *= 20 if thorough else 1
    (chosen,) = [b for b in TABLE[OP] if b.name == backend]
    sizes = [16, 48, 96, 128, 320, 768, 1024]
    sizes = [size for size in sizes if chosen.why_not(device, dtype, size=size) is None]
    for _ in range(rounds):
        size = int(rng.choice(sizes[:4] if is_interpreted and format == "float32" else sizes))
        query_tokens = int(np.exp(rng.uniform(0, np.log(longest))))
        room = work / size / max(query_tokens, 16)
        lengths = np.minimum(rng.zipf(1.3, 8) * 7 - 7, 4096)
        lengths = rng.permutation(np.where(lengths.cumsum() > room, 3, lengths)).tolist()
        made = make(format, lengths, size, device)
        query = torch.randn(query_tokens, size, device=device)
        query *= torch.rand(query_tokens, 1, device=device) * 3
        check(maxsim(query, made[0], backend=backend), query, made)


@pytest.mark.parametrize("size", [1, 13, 37])
@pytest.mark.parametrize("format", ["float32", "float16", "int8"])
def test_rows_that_start_anywhere(backend, device, format, size):
    made = make(format, [5, 0, 40], size, device)
    query = torch.randn(3, size, device=device)
    check(maxsim(query, made[0], backend=backend), query, made)


@pytest.mark.parametrize(("format", "dtype"), FORMATS)
def test_a_slice_keeps_its_rows(backend, device, format, dtype):
    documents, vectors, scales = make(format, LENGTHS, 32, device)
    query = torch.randn(5, 32, device=device)
    for start, stop in [(3, 7), (6, 10)]:
        part = documents.slice(start, stop)
        scores = maxsim(query, part, backend=backend)
        check(scores, query, (part, vectors, scales))


@pytest.mark.parametrize(("format", "dtype"), FORMATS)
def test_order_and_company_do_not_move_bits(backend, device, format, dtype):
    if backend == "reference" and format not in INTEGERS:
        pytest.skip("PyTorch's matmul promises nothing")
    documents, *_ = make(format, LENGTHS, 32, device)
    queries = [torch.randn(n, 32, device=device) for n in (32, 40)]
    together = maxsim(queries, documents, backend=backend)
    assert together.shape == (2, len(LENGTHS))
    order = torch.randperm(len(LENGTHS), device=device)
    shuffled = maxsim(queries[0], documents, order, backend=backend)
    assert torch.equal(shuffled, together[0, order])
    for m, query in enumerate(queries[1:], start=1):
        some = torch.tensor([6, 3, 6], device=device)
        alone = maxsim(query, documents, some, backend=backend)
        assert torch.equal(alone, together[m, some])


@pytest.mark.parametrize("format", ["float32", "int8", "4bit"])
def test_several_queries(backend, device, format):
    made = make(format, LENGTHS, 32, device)
    documents, starts = made[0], np.cumsum([0, *LENGTHS])
    queries = [torch.randn(n, 32, device=device) for n in (4, 4, 0, 33)]
    dense = maxsim(queries, documents, backend=backend)
    shared = torch.tensor([9, 0, 9, 1, 4], device=device)
    own = [torch.tensor(x, dtype=torch.int64, device=device) for x in ([3, 3], [], [0, 1], [6, 0])]
    by_shared = maxsim(queries, documents, shared, backend=backend)
    by_own = maxsim(queries, documents, own, backend=backend)
    assert dense.shape == (4, 10)
    assert by_shared.shape == (4, 5)
    assert [len(x) for x in by_own] == [2, 0, 2, 2]
    for m, query in enumerate(queries):
        if not len(query):
            want = [-INF if n == 0 else 0.0 for n in LENGTHS]
            assert dense[m].tolist() == want
        else:
            check(dense[m], query, made, starts)
        if format in INTEGERS or backend != "reference":
            assert torch.equal(by_shared[m], dense[m, shared])
            assert torch.equal(by_own[m], dense[m, own[m]])


@pytest.mark.parametrize("format", ["float32", "int8", "4bit"])
def test_nothing_to_score(backend, device, format):
    documents, *_ = make(format, [2, 0, 3], 32, device)
    query, none = torch.randn(3, 32, device=device), torch.tensor([], dtype=torch.int64).to(device)
    assert maxsim(query[:0], documents, backend=backend).tolist() == [0.0, -INF, 0.0]
    assert maxsim(query, documents.slice(1, 1), backend=backend).shape == (0,)
    assert maxsim([query] * 2, documents, none, backend=backend).shape == (2, 0)
    assert maxsim([], documents, backend=backend).shape == (0, 3)
    assert maxsim([], documents, [], backend=backend) == []
    assert maxsim(query, documents, none, top_k=3, backend=backend).indices.shape == (0,)


@pytest.mark.parametrize(("format", "dtype"), FLOATS)
def test_all_similarities_negative(backend, device, format, dtype):
    values = (-torch.rand(30, 8) - 0.1).to(dtype)
    documents = TokenEmbeddings.of(values, cu_seqlens([7, 20, 3], torch.int64)).to(device)
    query = torch.ones(5, 8, device=device)
    scores = maxsim(query, documents, backend=backend)
    assert (scores < 0).all(), "padding would have lifted them to 0"
    check(scores, query, (documents, values.double().numpy(), None))


@pytest.mark.parametrize("format", ["int8", "4bit", "2bit"])
def test_the_scale_counts_in_the_maximum(backend, device, format):
    """A spiky vector's integers are small where the query looks; a tiny one's are large."""
    tiny, spiky = torch.full((1, 64), 0.01), torch.ones(1, 64)
    spiky[0, 0] = 100.0
    codec = None
    if format != "int8":
        bits = int(format[0])
        centroids = torch.nn.functional.normalize(torch.cat([tiny, spiky]))
        codec = Codec.of(centroids, torch.linspace(-1, 1, 2**bits - 1), torch.zeros(2**bits))
    document = torch.cat([tiny, spiky])
    documents = TokenEmbeddings.encode([document], format, codec).to(device)
    query = torch.ones(3, 64, device=device)
    query[:, 0] = 0.0
    score = maxsim(query, documents, backend=backend)
    # 63 from the spiky token, 0.63 from the tiny one; the spike's integers leave 1/127 of a step.
    assert score.item() > 3 * 63 * 0.5


@pytest.mark.parametrize("value", [NAN, -NAN, INF, -INF])
@pytest.mark.parametrize("token", [0, 102])
def test_not_finite(backend, device, value, token):
    values, lengths = torch.rand(143, 8), [103, 40]
    values[token, 2] = value
    documents = TokenEmbeddings.of(values, cu_seqlens(lengths, torch.int64)).to(device)
    query = torch.rand(20, 8, device=device) + 0.1
    scores = maxsim(query, documents, backend=backend)
    assert scores[1].isfinite()
    if value == -INF:
        assert scores[0].isfinite(), "another token has the maximum"
    else:
        assert scores[0].isnan() if value != value else scores[0] == value


@pytest.mark.parametrize("format", INTEGERS)
def test_a_scale_that_is_not_finite(backend, device, format):
    documents, vectors, scales = make(format, [70, 3, 3, 3, 0], 32, device)
    assert documents.scales is not None
    documents.scales[[66, 71, 73]] = torch.tensor([NAN, INF, -INF], device=device)
    query = torch.rand(20, 32, device=device)
    scores, nothing = maxsim([query, query[:0]], documents, backend=backend)
    assert nothing.tolist() == [0.0, 0.0, 0.0, 0.0, -INF]
    assert scores[:3].isnan().all()
    assert scores[3] == exact(query.cpu(), vectors, scales, slice(76, 79))
    assert scores[4] == -INF


@pytest.mark.parametrize("format", ["4bit", "2bit"])
def test_a_code_that_is_no_centroid(backend, device, format):
    documents, vectors, scales = make(format, [7, 7, 7, 7, 7], 32, device)
    assert documents.codes is not None
    documents.codes[[0, 8, 20, 27]] = torch.tensor(
        [-1, 11, 2**31 - 1, -(2**31)], dtype=torch.int32, device=device
    )
    query = torch.rand(2, 32, device=device)
    scores = maxsim(query, documents, backend=backend)
    assert scores[:4].isnan().all()
    assert scores[4] == exact(query.cpu(), vectors, scales, slice(28, 35))


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("format", ["float32", "float16", "int8", "2bit"])
def test_a_query_that_is_not_finite(backend, device, format, value):
    documents, *_ = make(format, [69, 1, 0], 32, device)
    queries = [torch.rand(20, 32, device=device) for _ in range(2)]
    queries[1][19, 0] = value
    scores = maxsim(queries, documents, backend=backend)
    assert scores[0, :2].isfinite().all()
    assert not scores[1, :2].isfinite().any()
    if value != value or format in INTEGERS:
        assert scores[1, :2].isnan().all()
    assert (scores[:, 2] == -INF).all()


def test_a_candidate_that_is_no_document_on_a_device(device, backend):
    """The op looks at candidates on a CPU and refuses; a device must not read elsewhere."""
    if backend not in ("triton", "reference"):
        pytest.skip("runs on a CPU only")
    run = next(b.run for b in TABLE[OP] if b.name == backend)
    documents, *_ = make("int8", [5, 0, 2], 32, device)
    values = torch.randint(-127, 128, (4, 32), dtype=torch.int8, device=device)
    queries = Queries(values, torch.ones(4, device=device), (0, 4))
    ids = torch.tensor([0, -1, 1, 3, 2, 2**40, -(2**63), 2**63 - 1], device=device)
    scores = run(queries, documents, ids, None)[0].cpu()
    assert scores.isnan().tolist() == [False, True, False, True, False, True, True, True]
    assert scores[[0, 4]].isfinite().all()
    assert scores[2] == -INF


@pytest.mark.parametrize("format", ["float16", "int8", "4bit"])
def test_past_two_to_the_31_elements(backend, device, format, tmp_path):
    """Three documents, the one between them as large as addresses ask; the files are holes."""
    if device.type != "cpu":
        pytest.skip("a device has no holes")
    size = 128
    width = size // 2 if format == "4bit" else size
    total = 2**31 // width + 200
    near, far = slice(0, 5), slice(total - 100, total)
    made = make(format, [5, 100], size)
    small = made[0]

    def spread(x, name):
        if x is None:
            return None
        path = tmp_path / name
        with open(path, "wb") as file:
            file.truncate(total * x[0].numel() * x.element_size())
        large = torch.from_file(str(path), False, total * x[0].numel(), dtype=x.dtype)
        large = large.view(total, *x.shape[1:])
        large[near], large[far] = x[:5], x[5:]
        return large

    parts = [spread(getattr(small, name), name) for name in ("values", "scales", "codes")]
    starts = torch.tensor([0, 5, total - 100, total])
    documents = TokenEmbeddings.of(parts[0], starts, *parts[1:], small.codec)
    query = torch.randn(3, size)
    scores = maxsim(query, documents, torch.tensor([0, 2]), backend=backend)
    check(scores, query, made)


def test_refusals():
    documents, *_ = make("int8", [2, 3], 8)
    query = torch.randn(3, 8)
    with pytest.raises(ValueError, match=r"query has shape \[3, 7\], expected \[Q, 8\]"):
        maxsim(query[:, :7], documents)
    with pytest.raises(ValueError, match=r"query is torch.int64, expected a floating-point dtype"):
        maxsim(query.long(), documents)
    for candidate in (-1, 2):
        with pytest.raises(ValueError, match=f"candidate {candidate} is not among 2 documents"):
            maxsim(query, documents, torch.tensor([0, candidate, 1]))
    with pytest.raises(ValueError, match=r"candidates is torch.int32, expected torch.int64"):
        maxsim(query, documents, torch.tensor([0], dtype=torch.int32))
    with pytest.raises(ValueError, match="2 lists of candidates for a single query"):
        maxsim(query, documents, [torch.tensor([0])] * 2)
    with pytest.raises(ValueError, match="1 lists of candidates for 2 queries"):
        maxsim([query] * 2, documents, [torch.tensor([0])])
    with pytest.raises(ValueError, match="no backend 'none'; there are: auto, avx512"):
        maxsim(query, documents, backend="none")
