"""MaxSim of the CUDA C++ module: its source run on a processor, and on a device."""

import contextlib
import ctypes
import struct
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from packrank_kernels import maxsim, reference
from packrank_kernels.backend import cuda_maxsim
from packrank_kernels.packed import FLOATS, Queries
from packrank_kernels.residual import Codec, to_planes
from packrank_kernels.token_embeddings import TokenEmbeddings, quantize_int8

CUDA = torch.device("cuda")
LENGTHS = [3, 0, 1, 17, 70, 5, 16, 0, 31, 0]

needs_device = pytest.mark.skipif(
    not torch.cuda.is_available() or cuda_maxsim.why_not(CUDA, torch.float16) is not None,
    reason="needs a CUDA device of compute capability 9.0 and the module for it",
)


def documents_of(lengths, kind, size):
    parts = [torch.nn.functional.normalize(torch.randn(n, size), dim=1) for n in lengths]
    codec = None
    if kind in ("4bit", "2bit"):
        count = 2 ** int(kind[0])
        cutoffs, weights = torch.linspace(-0.1, 0.1, count - 1), 0.08 * torch.randn(count)
        codec = Codec.of(torch.randn(5, size) * size**-0.5, cutoffs, weights)
    return TokenEmbeddings.encode(parts, kind, codec)


def queries_of(lengths, documents):
    """As packrank_kernels.maxsim makes them, of random rows."""
    rows = torch.randn(sum(lengths), documents.size)
    starts = (0, *torch.tensor(lengths).cumsum(0).tolist())
    if documents.format in FLOATS:
        return Queries(rows.to(documents.values.dtype), None, starts)
    values, weights = quantize_int8(rows)
    if documents.codec is not None:
        values = to_planes(values, 8 // documents.codec.bits)
        weights = weights * documents.codec.step
    return Queries(values, weights, starts)


@pytest.fixture(scope="module")
def emulated(emulation):
    """emulated(queries, documents, candidates, owners, panel=..., ...): as the kernel scores them.

    Under sanitizers, threads, copies and products in random order; see tests/cuda.
    """
    program = emulation("maxsim_driver.cpp", "-O0", "-ffp-contract=off")
    seeds = iter(range(1000))

    def run(
        queries, documents, candidates=None, owners=None, *, panel, group=None, warpgroups=1,
        stages=2, multiprocessors=1, toward_zero=False,
    ):  # fmt: skip
        starts, codec = torch.tensor(queries.starts, dtype=torch.int32), documents.codec
        columns = int(starts[-1]) if owners is None else int(starts.diff().max())
        count = len(documents) if candidates is None else len(candidates)
        rows = None
        if candidates is not None:
            rows = cuda_maxsim.row_starts(candidates, documents.cu_seqlens)
        numbers = [
            cuda_maxsim.FORMATS[documents.format], documents.size, len(starts) - 1, starts[-1],
            columns, owners is not None, multiprocessors, panel, group or panel, warpgroups,
            stages, count, len(documents), 0 if codec is None else len(codec.rows),
        ]  # fmt: skip
        case = b"".join(struct.pack("<q", int(x)) for x in numbers)
        for x in (
            queries.values, queries.weights, starts if len(starts) > 2 else None, documents.values,
            documents.scales, documents.codes, codec and codec.rows_by_word,
            codec and codec.weights, candidates, owners, documents.cu_seqlens, rows,
        ):  # fmt: skip
            data = None if x is None else x.contiguous().view(torch.uint8).numpy().tobytes()
            case += struct.pack("<q", -1 if data is None else len(data)) + (data or b"")
        command = [program, str(next(seeds)), str(int(toward_zero))]
        result = subprocess.run(command, input=case, capture_output=True)
        assert result.returncode == 0, result.stderr.decode()
        scores = torch.frombuffer(bytearray(result.stdout), dtype=torch.float32)
        return scores if owners is not None else scores.view(-1, count)

    return run


def check(actual, queries, documents, candidates=None, owners=None, *, toward_zero=False):
    """Integer formats have the reference's bits, floats are within their error bound.

    |error| <= Q (D + Q) 2^-24 max|q| max|d|: products are exact, sums are rounded. Where tensor
    cores round toward zero, 17 terms and a sum for 16 dimensions: Q (9/4 D + Q).
    """
    expected = reference.maxsim(queries, documents, candidates, owners)
    if documents.format not in FLOATS:
        assert torch.equal(actual.isnan(), expected.isnan())
        assert torch.equal(actual.nan_to_num(nan=0.0), expected.nan_to_num(nan=0.0))
        return
    wide = Queries(queries.values.double(), None, queries.starts)
    exact = replace(documents, values=documents.values.double())
    expected = reference.maxsim(wide, exact, candidates, owners)
    longest = max(b - a for a, b in zip(queries.starts, queries.starts[1:], strict=False))
    rows = exact.values.nan_to_num(0, 0, 0)
    norms = wide.values.norm(dim=1).max() * rows.norm(dim=1).max()
    size = documents.size * (9 / 4 if toward_zero else 1)
    bound = float(longest * (size + longest) * 2**-24 * norms)
    assert torch.allclose(actual.double(), expected.double(), 0, bound, equal_nan=True)


CASES = [
    ("float16", 64, 32), ("float16", 120, 128), ("float16", 264, 64), ("bfloat16", 128, 32),
    ("int8", 128, 128), ("int8", 160, 64), ("int8", 288, 32), ("4bit", 128, 32),
    ("4bit", 160, 128), ("2bit", 96, 64), ("2bit", 128, 32), ("2bit", 256, 32),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "size", "panel"), CASES)
def test_equals_the_reference(emulated, kind, size, panel):
    """Documents of every length side by side, queries that share a pass or need several."""
    documents = documents_of(LENGTHS, kind, size)
    one = queries_of([5], documents)
    nearest = emulated(one, documents, panel=panel, stages=4)
    check(nearest, one, documents)
    scores = emulated(one, documents, panel=panel, stages=4, toward_zero=True)
    check(scores, one, documents, toward_zero=True)
    assert torch.equal(scores, nearest) == (kind not in FLOATS)
    many = queries_of([3, 0, panel + 1], documents)
    scores = emulated(many, documents, panel=panel, group=2 * panel, warpgroups=2, stages=3)
    check(scores, many, documents)


def test_weights_with_their_highest_bit(emulated):
    """Buckets that reach farther than centroids: the table is read otherwise."""
    parts = [torch.nn.functional.normalize(torch.randn(n, 128), dim=1) for n in LENGTHS]
    weights = torch.linspace(-0.3, 0.3, 16)
    codec = Codec.of(0.02 * torch.randn(5, 128), weights[1:] - 0.02, weights)
    documents = TokenEmbeddings.encode(parts, "4bit", codec)
    assert codec.weights.max() > 127
    queries = queries_of([5], documents)
    check(emulated(queries, documents, panel=32, stages=3), queries, documents)


@pytest.mark.parametrize(("kind", "size", "panel"), [CASES[4], CASES[6], CASES[7], CASES[10]])
def test_the_largest_sums(emulated, kind, size, panel):
    """Bytes as large as there are, of either sign: how sums begin leaves room for them."""
    documents = documents_of([1, 20, 16, 3], kind, size)
    if documents.codec is None:
        documents.values[:] = torch.tensor([-128, 127]).repeat(20)[:, None]
    else:
        documents.codec.rows[::2] = 0
        documents.codec.rows[1::2] = 255 - documents.codec.weights.max()
    queries = queries_of([4, 3], documents)
    queries.values[:] = torch.tensor([-127, 127, 0, 127, 127, -127, 127])[:, None]
    check(emulated(queries, documents, panel=panel), queries, documents)


@pytest.mark.parametrize(("kind", "size", "panel"), [CASES[0], CASES[6], CASES[7], CASES[9]])
def test_candidates(emulated, kind, size, panel):
    """In any order, again and again, each for all queries or for its own; and of a slice."""
    documents = documents_of(LENGTHS, kind, size)
    queries = queries_of([33, 1, 9], documents)
    candidates = torch.randint(0, len(LENGTHS), (14,))
    scores = emulated(queries, documents, candidates, panel=panel, stages=4)
    check(scores, queries, documents, candidates)
    owners = torch.randint(0, 3, (14,), dtype=torch.int32)
    for own in (owners, owners.sort().values):
        scores = emulated(queries, documents, candidates, own, panel=panel, multiprocessors=2)
        check(scores, queries, documents, candidates, own)
    part = documents.slice(3, 8)
    some = torch.tensor([2, -1, 4, 5, 99, 0])
    check(emulated(queries, part, panel=panel), queries, part)
    check(emulated(queries, part, some, panel=panel), queries, part, some)


@pytest.mark.parametrize(
    ("kind", "size", "panel"),
    [("float16", 64, 32), ("int8", 64, 128), ("4bit", 128, 32), ("2bit", 96, 64)],
)
def test_a_document_across_many_ranges(emulated, kind, size, panel):
    """The split changes no bit, however products are rounded."""
    documents = documents_of([7, 300, 2], kind, size)
    queries = queries_of([3, panel - 5], documents)
    for toward_zero in (False, True) if kind in FLOATS else (False,):
        options = {"panel": panel, "toward_zero": toward_zero}
        whole = emulated(queries, documents, group=2 * panel, **options)
        check(whole, queries, documents, toward_zero=toward_zero)
        cut = emulated(queries, documents, warpgroups=2, multiprocessors=3, **options)
        assert torch.equal(cut, whole)


def test_nothing_to_score(emulated):
    documents = documents_of([0, 4, 0], "float16", 64)
    queries = queries_of([3, 5], documents)
    empty = torch.tensor([2, 0, 3])
    scores = emulated(queries, documents, empty, panel=32)
    assert torch.equal(scores[:, :2], torch.full((2, 2), -torch.inf))
    assert scores[:, 2].isnan().all()
    none = queries_of([0, 0], documents)
    scores = emulated(none, documents, panel=32)
    assert torch.equal(scores, torch.tensor([[-torch.inf, 0.0, -torch.inf]] * 2))


@pytest.mark.parametrize("kind", ["float16", "int8", "4bit"])
def test_not_finite(emulated, kind):
    """NaN reaches the score of its document and of no other; so does a code without centroid."""
    documents = documents_of([40, 40, 40], kind, 128 if kind == "4bit" else 64)
    queries = queries_of([5, 20], documents)
    panel = 128 if kind == "int8" else 32
    if documents.scales is None:
        documents.values[17, 3] = torch.nan
        documents.values[100, 1] = -torch.inf
        queries.values.abs_()
    else:
        documents.scales[17] = torch.inf
    scores = emulated(queries, documents, panel=panel)
    assert scores.isnan().tolist() == [[True, False, False]] * 2
    check(scores[:, 1:], queries, documents.slice(1, 3))
    if documents.codes is not None:
        documents.codes[50], documents.codes[119] = 5, -1
        scores = emulated(queries, documents, panel=panel)
        assert scores.isnan().all()


def test_refusals(monkeypatch):
    def why_not(device="cuda", dtype=torch.float16, **facts):
        return cuda_maxsim.why_not(torch.device(device), dtype, **facts)

    monkeypatch.setattr(cuda_maxsim, "_missing", "it is not built")
    assert why_not() == "it is not built"
    monkeypatch.setattr(cuda_maxsim, "_missing", None)
    limits = SimpleNamespace(MAXSIM_MOST_ROW_BYTES=2048)
    monkeypatch.setattr(cuda_maxsim, "_cuda", limits, raising=False)
    assert why_not("cpu").endswith("is loaded, but the tensors are on cpu, not on a CUDA device")
    for capability in ((8, 9), (10, 0)):
        monkeypatch.setattr(cuda_maxsim, "_capability", lambda device, c=capability: c)
        assert why_not().startswith("it needs compute capability 9.0, the device has")
    monkeypatch.setattr(cuda_maxsim, "_capability", lambda device: (9, 0))
    assert why_not(dtype=torch.float32).startswith("the tensors are torch.float32, not")
    assert why_not(size=100) == "the size is 100, not a multiple of 8"
    assert why_not(dtype=torch.int8, size=48) == "the size is 48, not a multiple of 32"
    assert why_not(size=1032) == "the size is 1032, more than 1024"
    assert why_not(dtype=torch.bfloat16, size=1024) is None
    assert why_not(dtype=torch.int8, size=2048) is None
    assert why_not(dtype=torch.int8) is None
    for kind, outlies, reason in (
        ("4bit", False, None),
        ("4bit", True, "dimensions of the documents' codec outlie, and it multiplies bytes alone"),
        ("1bit", False, "the documents are in 1bit, not float16, bfloat16, int8, 4bit, 2bit"),
        ("8bit", False, "the documents are in 8bit, not float16, bfloat16, int8, 4bit, 2bit"),
    ):
        assert why_not(dtype=torch.int8, size=128, format=kind, outlies=outlies) == reason


@pytest.fixture
def no_device(monkeypatch):
    """What stands between the function and the module, where there is no device."""
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    stream = SimpleNamespace(cuda_stream=0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)


def test_many_documents_or_queries_come_in_parts(no_device, monkeypatch):
    """Three documents at a time, whose scores go to their place; and queries of so many tokens."""
    seen = []

    def numbers(address, count):
        return (ctypes.c_int64 * count).from_address(address)

    def score(*args):
        starts, (cu_seqlens, _), (ids, owners, _), count, (*_, out), stride = args[5], *args[8:13]
        seen.append(starts)
        found = numbers(ids or cu_seqlens, count)
        queries = 1 if owners else len(starts) - 1
        scores = (ctypes.c_float * ((queries - 1) * stride + count)).from_address(out)
        for m in range(queries):
            own = (ctypes.c_int32 * count).from_address(owners) if owners else [m] * count
            scores[m * stride : m * stride + count] = [10 * own[k] + found[k] for k in range(count)]

    fake = SimpleNamespace(maxsim_plan=lambda *args: (32, 8), maxsim=score)
    monkeypatch.setattr(cuda_maxsim, "_cuda", fake, raising=False)
    monkeypatch.setattr(cuda_maxsim, "_MAXIMA_AT_ONCE", 3 * 32)
    documents = documents_of([1] * 8, "float16", 16)
    queries = queries_of([1, 2], documents)
    both = torch.tensor([[0.0], [10.0]])
    scores = cuda_maxsim.maxsim(queries, documents, None, None)
    assert torch.equal(scores, both + torch.arange(8))
    ids = torch.tensor([7, 2, 2, 5])
    assert torch.equal(cuda_maxsim.maxsim(queries, documents, ids, None), both + ids)
    owners = torch.tensor([1, 0, 0, 1], dtype=torch.int32)
    assert cuda_maxsim.maxsim(queries, documents, ids, owners).tolist() == [17, 2, 2, 15]
    monkeypatch.setattr(cuda_maxsim, "_COLUMNS_AT_ONCE", 6)
    seen.clear()
    scores = cuda_maxsim.maxsim(queries_of([4, 1, 2, 9], documents), documents, ids[:1], None)
    assert torch.equal(scores, torch.tensor([[7.0], [17.0], [7.0], [7.0]]))
    assert seen == [(0, 4, 5), (0, 2), (0, 9)]
    one = queries_of([3], documents)
    assert cuda_maxsim.maxsim(one, documents, ids, 0 * owners).tolist() == ids.tolist()


def test_a_failure_of_cuda_is_told_in_its_words(no_device, monkeypatch):
    """Where there is no device: all arguments arrive, and the first call of CUDA's is refused."""
    if torch.cuda.is_available() or cuda_maxsim._missing is not None:
        pytest.skip("needs the module, and no device for it")
    documents = documents_of([3, 4], "4bit", 64)
    queries = queries_of([2, 1], documents)
    with pytest.raises(RuntimeError, match=r"maxsim: number of multiprocessors: .*CUDA"):
        cuda_maxsim.maxsim(queries, documents, None, None)
    module = SimpleNamespace(maxsim_plan=lambda *args: (32, 8), maxsim=cuda_maxsim._cuda.maxsim)
    monkeypatch.setattr(cuda_maxsim, "_cuda", module)
    with pytest.raises(RuntimeError, match=r"maxsim: number of multiprocessors: .*CUDA"):
        cuda_maxsim.maxsim(queries, documents, torch.tensor([1]), None)


@pytest.mark.gpu
@needs_device
@pytest.mark.parametrize("kind", cuda_maxsim.FORMATS)
@pytest.mark.parametrize("size", [32, 96, 128, 256, 1024])
def test_on_a_device(kind, size):
    documents = documents_of([*LENGTHS, 3000, *[7] * 500], kind, size)
    moved = documents.to(CUDA)
    for lengths in ([1], [32], [100, 3], [700], [33] * 40):
        queries = [torch.randn(n, size) for n in lengths]
        candidates = torch.randint(0, len(documents), (300,))
        for ids in (None, candidates):
            on_it = None if ids is None else ids.to(CUDA)
            scores = maxsim([q.to(CUDA) for q in queries], moved, on_it, backend="cuda").cpu()
            expected = maxsim(queries, documents, ids, backend="auto")
            if kind in FLOATS:
                assert torch.allclose(scores, expected, rtol=1e-3, atol=1e-2)
            else:
                assert torch.equal(scores, expected)
        own = [candidates[m :: len(lengths)].to(CUDA) for m in range(len(lengths))]
        parts = maxsim([q.to(CUDA) for q in queries], moved, own, backend="cuda")
        for m, part in enumerate(parts):
            assert torch.equal(part.cpu(), scores[m, m :: len(lengths)])


@pytest.mark.gpu
@needs_device
@pytest.mark.parametrize("kind", cuda_maxsim.FORMATS)
def test_documents_that_leave_the_cache_first(monkeypatch, kind):
    documents = documents_of([180] * 100, kind, 128).to(CUDA)
    query = torch.randn(32, 128, device=CUDA)
    scores = maxsim(query, documents, backend="cuda")
    monkeypatch.setattr(cuda_maxsim, "EVICTS_FIRST", True)
    assert torch.equal(maxsim(query, documents, backend="cuda"), scores)


@pytest.mark.gpu
@needs_device
def test_a_graph_follows_the_documents():
    """Captured once, replayed with other documents and candidates."""
    documents = documents_of([40, 0, 24], "float16", 64).to(CUDA)
    query = torch.randn(32, 64, device=CUDA)
    candidates = torch.tensor([2, 0], device=CUDA)

    def run():
        whole = maxsim(query, documents, backend="cuda")
        return whole, maxsim(query, documents, candidates, backend="cuda")

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    documents.cu_seqlens.copy_(torch.tensor([0, 3, 64, 64]))
    candidates.copy_(torch.tensor([1, 1]))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(out, run(), strict=True))


@pytest.mark.gpu
@needs_device
def test_offsets_past_2_to_the_31():
    few = documents_of([0, 20, 300, 7], "int8", 128)
    before = 2**24
    values = torch.zeros(before + 327, 128, dtype=torch.int8, device=CUDA)
    scales = torch.ones(before + 327, device=CUDA)
    values[before:], scales[before:] = few.values.to(CUDA), few.scales.to(CUDA)
    starts = torch.cat([torch.tensor([0]), few.cu_seqlens + before]).to(CUDA)
    documents = TokenEmbeddings.of(values, starts, scales)
    query = torch.randn(32, 128)
    expected = maxsim(query, few)
    whole = maxsim(query.to(CUDA), documents, backend="cuda")
    assert whole[0] == 0
    assert torch.equal(whole[1:].cpu(), expected)
    some = torch.tensor([4, 2], device=CUDA)
    scores = maxsim(query.to(CUDA), documents, some, backend="cuda")
    assert torch.equal(scores.cpu(), expected[[3, 1]])
