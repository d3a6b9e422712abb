"""The queue before a reranker: real threads, in order, and no future that is never set."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import pytest

from packrank.bench.load.queue import Queue
from packrank.bench.load.server import Server, Terms
from packrank.bench.load.workloads import single_stream

PATIENCE = 30.0  # seconds after which a test would hang


class Gate:
    """A reranker that ranks when it may, and says what it was given."""

    def __init__(self) -> None:
        self.began, self.may = threading.Semaphore(0), threading.Semaphore(0)
        self.took: list[str] = []

    def rank(self, query: str, documents: Sequence[str]) -> int:
        self.took.append(query)
        self.began.release()
        assert self.may.acquire(timeout=PATIENCE)
        if query == "bad":
            raise ValueError("no such text")
        if query == "worse":
            raise SystemExit(3)
        return len(documents)

    def open(self, count: int = 1) -> None:
        for _ in range(count):
            self.may.release()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open(100)


def test_queries_are_answered_in_their_order(gate: Gate) -> None:
    with Queue(gate) as queue:
        futures = [queue.submit(str(n), ["text"] * n) for n in range(20)]
        assert not any(future.done() for future in futures)
        gate.open(20)
        assert [future.result(PATIENCE) for future in futures] == list(range(20))
    assert gate.took == [str(n) for n in range(20)]


@pytest.mark.parametrize(("query", "error"), [("bad", ValueError), ("worse", SystemExit)])
def test_an_exception_goes_to_its_future_and_the_queue_goes_on(
    gate: Gate, query: str, error: type[BaseException]
) -> None:
    gate.open(2)
    with Queue(gate) as queue:
        futures = queue.submit(query, []), queue.submit("good", ["a"])
        with pytest.raises(error):
            futures[0].result(PATIENCE)
        assert futures[1].result(PATIENCE) == 1


def test_close_ends_the_thread_and_fails_what_waits(gate: Gate) -> None:
    before = threading.active_count()
    queue = Queue(gate)
    futures = [queue.submit(str(n), ["a"]) for n in range(3)]
    assert gate.began.acquire(timeout=PATIENCE)
    futures[2].cancel()
    again: list[str] = []

    def callback(future: Future[object]) -> None:
        with pytest.raises(RuntimeError, match="the queue is closed"):
            queue.submit("from a callback", [])
        again.append("called")
        gate.open()  # not before: what is under way is waited for

    futures[1].add_done_callback(callback)
    queue.close()
    assert again == ["called"]
    assert futures[0].result(0) == 1
    with pytest.raises(RuntimeError, match="closed before its turn"):
        futures[1].result(0)
    assert futures[2].cancelled()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="the queue is closed"):
        queue.submit("late", [])
    queue.close()


def test_what_is_cancelled_is_not_ranked(gate: Gate) -> None:
    with Queue(gate) as queue:
        first, second, third = (queue.submit(name, []) for name in ("one", "two", "three"))
        assert gate.began.acquire(timeout=PATIENCE)
        assert second.cancel()
        assert not first.cancel()
        gate.open(2)
        third.result(PATIENCE)
    assert gate.took == ["one", "three"]


def test_a_callback_may_close_the_queue(gate: Gate) -> None:
    queue, closed = Queue(gate), threading.Event()

    def close(_: Future[object]) -> None:
        queue.close()
        closed.set()

    queue.submit("one", []).add_done_callback(close)
    gate.open()
    assert closed.wait(PATIENCE)


def test_ctrl_c_leaves_the_queue_closed(gate: Gate) -> None:
    with pytest.raises(KeyboardInterrupt), Queue(gate) as queue:
        waiting = queue.submit("one", [])
        gate.open()
        raise KeyboardInterrupt
    assert waiting.done()
    with pytest.raises(RuntimeError):
        queue.submit("two", [])


class Instant:
    """Ranks at once."""

    def rank(self, query: str, documents: Sequence[str]) -> int:
        return len(documents)


def test_the_workloads_run_on_it() -> None:
    """By the machine's clock; how long anything takes is left open."""
    requests = [("one", ["a", "b"]), ("two", ["c"])]
    with Queue(Instant()) as queue:
        stream = single_stream(queue, requests, seconds=0.0, least_count=9, warm_up_s=0.0)
        assert (len(stream.latencies), stream.failures) == (9, [])
        assert min(stream.latencies) > 0
        terms = Terms(1e6, seconds=0.0, least_count=120, warm_up_s=0.0)
        point = Server(queue, requests, terms).point(2000.0)
        assert (point.count, len(point.latencies)) == (120, 120)
        assert min(point.latencies) > 0
