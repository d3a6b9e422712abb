"""Documents that are scored in runs have the scores and the order that they have in one piece."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import packrank_kernels
from packrank import InputError, Store
from packrank.stores import runs, streaming
from packrank.stores.pinned import CopyStream
from packrank.stores.streaming import maxsim, place, upload
from packrank_kernels import BITS, FORMATS, Codec, TokenEmbeddings, TopK

SIZE = 24
# One document is larger than a run, and runs end between documents, at them and in empty ones.
LENGTHS = [3, 0, 1, 40, 0, 0, 5, 7, 2, 2, 9, 0, 1, 1, 30, 0]
RUNS = (1, 700, 1000, 1 << 20)


def documents_in(format: str) -> TokenEmbeddings:
    x = torch.nn.functional.normalize(torch.randn(sum(LENGTHS), SIZE))
    x[50:60] = x[40:50]  # equal scores, in documents of different runs
    codec = None
    if format in BITS:
        levels = 2 ** int(format[0])
        weights = torch.linspace(-0.2, 0.2, levels)
        codec = Codec.of(x[:7].clone(), (weights[1:] + weights[:-1]) / 2, weights)
    return TokenEmbeddings.encode(x.split(LENGTHS), format, codec)


class SlowCopies(CopyStream):
    """A device whose copies are over when somebody waits for them, and no sooner."""

    class Event:
        def __init__(self, copies: "SlowCopies") -> None:
            self.copies, self.time, self.is_known = copies, next(copies.clock), False

        def synchronize(self) -> None:
            self.copies.wait(self)
            self.is_known = True

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.clock = itertools.count()
        self.waiting: list[tuple[SlowCopies.Event, Tensor, Tensor]] = []
        self.waited: dict[int, int] = {}  # when what was copied to an address began to be read
        self.last: dict[int, SlowCopies.Event] = {}  # copy out of an address
        self.bytes = self.runs = self.buffers = 0

    def buffer(self, size: int) -> Tensor:
        self.buffers += 1
        return torch.full((size,), 255, dtype=torch.uint8)

    def mark(self) -> Any:
        return self.Event(self)

    def copy(self, source: Tensor, target: Tensor, after: Any) -> Any:
        assert after.time > self.waited.get(target.data_ptr(), -1), "it may still be read"
        last = self.last.get(source.data_ptr())
        assert last is None or last.is_known, "it may still be copied"
        self.waiting.append((self.Event(self), source, target))
        self.last[source.data_ptr()] = self.waiting[-1][0]
        self.bytes += len(source)
        self.runs += 1
        return self.waiting[-1][0]

    def wait(self, event: Any) -> None:
        while self.waiting and self.waiting[0][0].time <= event.time:
            _, source, target = self.waiting.pop(0)
            target.copy_(source)
            self.waited[target.data_ptr()] = next(self.clock)


def assert_same(found: object, expected: object) -> None:
    if isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)
    elif isinstance(expected, TopK):
        assert isinstance(found, TopK)
        assert torch.equal(found.indices, expected.indices)
        assert torch.equal(found.scores, expected.scores)
    else:
        assert isinstance(found, Tensor) and isinstance(expected, Tensor)
        assert torch.equal(found, expected)


def candidates_of(kind: str) -> Tensor | list[Tensor] | None:
    """Of two queries: in any order, with repetitions, none at all."""
    one = torch.tensor([15, 3, 3, 14, 0, 8, 9, 8, 2])
    return {"all": None, "shared": one, "own": [one[:4], torch.tensor([7, 1, 10, 6, 11, 12, 3])]}[
        kind
    ]


@pytest.mark.parametrize("run_bytes", RUNS)
@pytest.mark.parametrize("kind", ["all", "shared", "own"])
@pytest.mark.parametrize("format", FORMATS)
def test_runs_have_the_scores_of_the_whole(
    format: str, kind: str, run_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, candidates = documents_in(format), candidates_of(kind)
    queries = [torch.randn(5, SIZE), torch.randn(33, SIZE)]
    monkeypatch.setattr(streaming, "RUN_BYTES", run_bytes)
    for top_k in (None, 1, 3, 100):
        expected = packrank_kernels.maxsim(queries, documents, candidates, top_k)
        copies = SlowCopies()
        assert_same(upload(queries, documents, candidates, top_k, copies, run_bytes), expected)
        assert (copies.runs > 1) == (run_bytes < 1 << 20)
        assert_same(maxsim(queries, documents, candidates, top_k), expected)
        if kind != "own":
            alone = packrank_kernels.maxsim(queries[1], documents, candidates, top_k)
            assert_same(
                upload(queries[1], documents, candidates, top_k, SlowCopies(), run_bytes), alone
            )
            assert_same(maxsim(queries[1], documents, candidates, top_k), alone)


@pytest.mark.parametrize("run_bytes", RUNS[:2])
@pytest.mark.parametrize("kind", ["all", "shared", "own"])
@pytest.mark.parametrize("format", ["float16", "4bit"])
def test_exact_scores_in_runs(
    format: str, kind: str, run_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, candidates = documents_in(format), candidates_of(kind)
    queries = [torch.randn(5, SIZE), torch.randn(33, SIZE)]
    monkeypatch.setattr(streaming, "RUN_BYTES", run_bytes)
    for top_k in (None, 3):
        expected = packrank_kernels.maxsim(queries, documents, candidates, top_k, exact=True)
        copies = SlowCopies()
        found = upload(queries, documents, candidates, top_k, copies, run_bytes, True)
        assert_same(found, expected)
        assert_same(maxsim(queries, documents, candidates, top_k, exact=True), expected)


def test_the_best_are_scored_anew() -> None:
    """The format's own scores choose candidates, exact scores their order."""
    documents = documents_in("1bit")
    queries = [torch.randn(5, SIZE), torch.randn(33, SIZE)]
    assert_same(
        maxsim(queries, documents, top_k=3, exact=len(documents)),
        packrank_kernels.maxsim(queries, documents, top_k=3, exact=True),
    )
    chosen = packrank_kernels.maxsim(queries[1], documents, top_k=6)
    assert isinstance(chosen, TopK)
    found = maxsim(queries[1], documents, top_k=3, exact=6)
    assert_same(
        found, packrank_kernels.maxsim(queries[1], documents, chosen.indices, 3, exact=True)
    )
    own = [torch.tensor([3, 0]), torch.tensor([3])]
    few = maxsim(queries, documents, own, 2, exact=5)
    assert isinstance(few, TopK)
    assert sorted(few.indices[0].tolist()) == [0, 3]
    assert few.indices[1].tolist() == [3, -1]
    for exact, top_k, message in (
        (2, 3, "exact is 2 and top_k 3"),
        (2, None, "give a top_k of at most that"),
        (0, 3, "exact is 0, expected True, False or a whole number"),
        ("all", 3, "exact is 'all', expected True, False or a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            maxsim(queries, documents, None, top_k, exact=exact)  # type: ignore[arg-type]


def test_ties_go_to_the_lower_document_across_runs() -> None:
    documents = TokenEmbeddings.encode([torch.ones(1, 4)] * 50, "float32")
    found = upload(torch.ones(2, 4), documents, None, 30, SlowCopies(), 300)
    assert isinstance(found, TopK)
    assert found.indices.tolist() == list(range(30))
    chosen = torch.tensor([40, 7, 7, 30, 2])
    found = upload(torch.ones(2, 4), documents, chosen, 4, SlowCopies(), 20)
    assert isinstance(found, TopK)
    assert found.indices.tolist() == [2, 7, 7, 30]


def test_nan_ranks_last_and_queries_with_fewer_candidates_end_in_none() -> None:
    parts = [torch.full((1, 4), value) for value in (1.0, float("nan"), 3.0, 2.0, -1.0)]
    documents = TokenEmbeddings.encode(parts, "float32")
    queries = [torch.ones(1, 4)] * 2
    own = [torch.tensor([0, 1, 4, 2]), torch.tensor([3])]
    found = upload(queries, documents, own, 3, SlowCopies(), 16)
    assert isinstance(found, TopK)
    assert found.indices.tolist() == [[2, 0, 4], [3, -1, -1]]
    assert found.scores.tolist() == [[12, 4, -4], [8, -np.inf, -np.inf]]
    whole = upload(queries[0], documents, None, 5, SlowCopies(), 16)
    assert isinstance(whole, TopK)
    assert whole.indices.tolist() == [2, 3, 0, 4, 1]
    assert whole.scores[-1].isnan()


def test_of_candidates_only_their_rows_are_copied() -> None:
    documents = TokenEmbeddings.encode([torch.randn(100, 16)] * 50, "float32")
    copies = SlowCopies()
    upload(torch.randn(3, 16), documents, torch.tensor([7, 30, 7, 7]), None, copies, 1 << 20)
    assert 2 * 100 * 64 <= copies.bytes < 2 * 100 * 64 + 1024
    copies = SlowCopies()
    upload(torch.randn(3, 16), documents, None, None, copies, 20_000)
    assert copies.runs > 12
    assert copies.buffers == 2, "two pinned buffers, however many runs"


@pytest.mark.parametrize("candidates", [None, torch.zeros(0, dtype=torch.int64)])
@pytest.mark.parametrize("top_k", [None, 2])
def test_nothing_to_score(candidates: Tensor | None, top_k: int | None) -> None:
    some = documents_in("int8")
    documents = some if candidates is not None else some.slice(4, 4)
    query = torch.randn(3, SIZE)
    expected = packrank_kernels.maxsim(query, documents, candidates, top_k)
    assert_same(upload(query, documents, candidates, top_k, SlowCopies(), 100), expected)
    assert_same(maxsim(query, documents, candidates, top_k), expected)


def test_documents_may_be_tensors_or_a_store(tmp_path: Path) -> None:
    x = torch.randn(sum(LENGTHS), SIZE).bfloat16()
    embeddings = TokenEmbeddings.encode(x.split(LENGTHS), "bfloat16")
    query = torch.randn(4, SIZE)
    expected = packrank_kernels.maxsim(query, embeddings)
    assert_same(maxsim(query, list(x.split(LENGTHS))), expected)
    store = Store(tmp_path, embeddings, [str(i) for i in range(len(LENGTHS))])
    assert_same(maxsim(query, store, device="cpu"), expected)
    assert_same(maxsim([query] * 2, []), torch.zeros(2, 0))


def test_pages_are_asked_for_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "values"
    rows = np.random.default_rng(0).standard_normal((4096, 64)).astype(np.float32)
    rows.tofile(path)
    mapped = np.memmap(path, np.float32, mode="r+").reshape(rows.shape)
    cu_seqlens = torch.arange(0, 4097, 64)
    documents = TokenEmbeddings.of(torch.from_numpy(mapped), cu_seqlens)
    asked: list[tuple[int, int]] = []
    ask = runs._will_need
    monkeypatch.setattr(
        runs,
        "_will_need",
        lambda d, first, last: asked.append((first, last)) or ask(d, first, last),
    )
    found: list[int] = []
    for start, _, _ in runs.in_runs(documents, None, 1 << 17):
        assert asked[-1][1] == 4096 or asked[-1][0] > cu_seqlens[start]
        found.append(start)
    assert len(found) > 4
    assert asked[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(asked))


@pytest.mark.parametrize(("free", "moves"), [(2 * 132 * 104, True), (2 * 132 * 104 - 1, False)])
def test_documents_stay_on_a_device_that_has_twice_the_room(
    monkeypatch: pytest.MonkeyPatch, free: int, moves: bool
) -> None:
    documents = TokenEmbeddings.encode([torch.randn(104, 128)], "int8")
    monkeypatch.setattr(streaming, "_free_memory", lambda device: free)
    moved: list[torch.device] = []
    monkeypatch.setattr(TokenEmbeddings, "to", lambda self, device: moved.append(device) or self)
    place(documents, torch.device("cuda"))
    assert bool(moved) == moves
    place(documents, torch.device("cpu"))
    assert len(moved) == moves


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": torch.randn(3, 7)}, r"query has shape \[3, 7\], expected \[Q, 24\]"),
        ({"candidates": torch.tensor([1, 16])}, "candidate 16 is not among 16 documents"),
        ({"candidates": torch.tensor([-1])}, "candidate -1 is not among 16 documents"),
        ({"candidates": [torch.tensor([1])]}, "1 lists of candidates for a single query"),
        ({"top_k": 0}, "top_k is 0"),
        ({"device": "cuda:77"}, "device 'cuda:77' is not here"),
        ({"candidates": [1, 99]}, "candidate 99 is not among 16 documents"),
        ({"queries": 3}, "queries is a int, expected a sequence of tensors"),
        ({"documents": "store"}, "documents is a str, expected a sequence of"),
        ({"documents": [torch.zeros(3, 2), torch.zeros(3, 4)]}, "documents differ"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    given = {"queries": torch.randn(3, SIZE), "documents": documents_in("int8")} | arguments
    with pytest.raises(InputError, match=message):
        maxsim(**given)


@pytest.mark.parametrize(
    "candidates", [torch.tensor([1, 16]), torch.tensor([-1]), torch.tensor([1], dtype=torch.int32)]
)
def test_an_upload_refuses_before_it_copies(candidates: Tensor) -> None:
    copies = SlowCopies()
    with pytest.raises(InputError, match="candidate"):
        upload(torch.randn(3, SIZE), documents_in("int8"), candidates, None, copies, 100)
    assert copies.runs == 0


def test_candidates_may_be_numbers() -> None:
    documents, query = documents_in("int8"), torch.randn(5, SIZE)
    expected = maxsim(query, documents, torch.tensor([8, 3]))
    assert isinstance(expected, Tensor)
    for candidates in ([8, 3], (8, 3), np.array([8, 3])):
        scores = maxsim(query, documents, candidates)  # type: ignore[arg-type]
        assert isinstance(scores, Tensor)
        assert torch.equal(scores, expected)
