"""Batches by way of a cluster, in order and whole, whatever fails; Ray is in tests/peers/ray."""

import asyncio
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from packrank import Reranker
from packrank.errors import InputError, JobError
from packrank.jobs import cluster as cluster_file
from packrank.jobs import node as node_file
from packrank.jobs.cluster import Cluster, Scores
from packrank.jobs.node import Feed, or_raised, pickled


class RayError(Exception):
    pass


class FakeRay:
    """As much of Ray as `Scores` asks for; what is put is what comes."""

    class exceptions:
        RayError = RayError

    def put(self, held: Any) -> Any:
        return held

    def kill(self, feed: "FakeFeed") -> None:
        feed.is_killed = True


class FakeFeed:
    def __init__(self) -> None:
        self.held: dict[int, Any] = {}
        self.is_killed = False
        self.put = self
        self.put.remote = self.held.__setitem__


class FakeCluster:
    """Scores a pair by its document's length; fails before the batches of some numbers, once."""

    num_tokens = 0

    def __init__(self, failing: list[int]) -> None:
        self._ray, self.failing = FakeRay(), failing
        self.begun: list[range] = []
        self.feeds: list[FakeFeed] = []
        self.closed = 0

    def size(self) -> int:
        return 1

    def feed(self) -> FakeFeed:
        self.feeds.append(FakeFeed())
        return self.feeds[-1]

    def begin(self, feed: FakeFeed, numbers: range, cutoff_layer: int | None) -> Iterator[Any]:
        self.begun.append(numbers)
        try:
            for number in numbers:
                if number in self.failing:
                    self.failing.remove(number)
                    raise RayError("a node died\nwith a trace")
                [pairs] = feed.held.pop(number)
                yield self.row(number, pairs)
        finally:
            self.closed += 1

    def row(self, number: int, pairs: list[Any]) -> dict[str, list[Any]]:
        logits = np.array([[len(document)] for _, document in pairs], dtype=np.float32)
        return {"number": [number], "content": [pickled((logits, {0: "why"}, 7))]}


def batches(count: int) -> list[list[tuple[str, str]]]:
    return [[("q", "d" * (n + 1)), ("q", "")] for n in range(count)]


def found(cluster: Any, count: int) -> list[float]:
    stream = Scores(cluster, iter(batches(count)), None)
    return [logits[0, 0].item() for logits, _ in stream]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_file, "_PAUSES", (0.0, 0.0))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
@pytest.mark.parametrize("failing", [[], [0], [0, 0], [2, 3], [8, 8]])
def test_batches_come_in_order_whatever_fails(
    monkeypatch: pytest.MonkeyPatch, count: int, failing: list[int]
) -> None:
    for numbers in (2, 5, 100):
        monkeypatch.setattr(cluster_file, "_NUMBERS", numbers)
        cluster = FakeCluster(list(failing))
        assert found(cluster, count) == [n + 1 for n in range(count)]
        assert cluster.num_tokens == 7 * count
        assert all(feed.is_killed for feed in cluster.feeds)
        assert cluster.closed == len(cluster.begun)
        assert all(len(held.held) <= 4 for held in cluster.feeds)


def test_what_fails_again_and_again_ends_in_a_sentence() -> None:
    cluster = FakeCluster([1, 1, 1])
    with pytest.raises(JobError, match=r"^the cluster has failed 3 times in a row: a node died$"):
        found(cluster, 4)
    assert [numbers.start for numbers in cluster.begun] == [0, 1, 1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (lambda number, pairs: {"number": [9], "content": [b""]}, "gave batch 9 in the place of 0"),
        (
            lambda number, pairs: {
                "number": [number],
                "content": [pickled((np.zeros((1, 1), np.float32), {}, 0))],
            },
            "gave 1 logits of 2 pairs",
        ),
        (
            lambda number, pairs: {"number": [0], "content": [pickled(InputError("no head"))]},
            "^no head$",
        ),
    ],
)
def test_a_row_that_is_not_the_next_is_never_taken(row: Any, words: str) -> None:
    cluster = FakeCluster([])
    cluster.row = row  # type: ignore[method-assign]
    with pytest.raises((JobError, InputError), match=words):
        found(cluster, 2)


def test_a_dataset_that_ends_early_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster([])
    monkeypatch.setattr(cluster, "begin", lambda *_: (row for row in ()))
    with pytest.raises(JobError, match="Ray ended before batch 0"):
        found(cluster, 2)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_node_scores_a_batch_in_pieces_also_one_of_no_pairs(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    """As of rows none of which can be scored."""
    folder = shutil.copytree(checkpoint("Bert", num_labels=1), tmp_path / "model")
    save_tokenizer(folder, "red fox")
    model, pairs = Reranker(folder, device="cpu"), [("red", "fox " * (n + 1)) for n in range(count)]
    ray = SimpleNamespace(get=lambda held: held, exceptions=FakeRay.exceptions)
    monkeypatch.setattr(node_file, "imported", lambda: ray)
    monkeypatch.setattr(node_file, "_PIECE", 2)
    feed = SimpleNamespace(take=SimpleNamespace(remote=lambda number: [pairs]))
    node = node_file.Batches(feed, str(folder), {"device": "cpu"}, None, model.identity)
    [content] = node({"item": [0]})["content"]
    logits, failures, tokens = or_raised(content)
    np.testing.assert_array_equal(logits, model.score(pairs, activation="identity")[:, None])
    assert not failures and tokens == model.num_tokens


def test_the_feed_gives_each_batch_once_whoever_comes_first() -> None:
    async def asked() -> list[Any]:
        feed = Feed()
        early = asyncio.ensure_future(feed.take(1))
        await asyncio.sleep(0)
        await feed.put(0, ["a"])
        await feed.put(1, ["b"])
        return [await early, await feed.take(0), feed._held]

    assert asyncio.run(asked()) == [["b"], ["a"], {}]


def test_an_error_that_cannot_travel_becomes_one_that_can() -> None:
    error = ValueError(lambda: None)
    with pytest.raises(RuntimeError, match="ValueError: <function"):
        or_raised(pickled(error))


def test_without_ray_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'packrank\[ray\]'"):
        Cluster("model")
