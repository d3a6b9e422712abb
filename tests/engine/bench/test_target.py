"""What became of queries, whoever settles them and when."""

from collections.abc import Sequence
from concurrent.futures import Future

import pytest

from packrank.bench.load.clock import VirtualClock
from packrank.bench.load.target import Tally

REQUEST = ("query", ["document"])


class Given:
    """Answers by the futures that it was made with."""

    def __init__(self, *futures: Future[object]) -> None:
        self._futures = list(futures)

    def submit(self, query: str, documents: Sequence[str]) -> Future[object]:
        return self._futures.pop(0)


def test_it_is_settled_once_nothing_is_open() -> None:
    first, second, third = Future[object](), Future[object](), Future[object]()
    tally = Tally(Given(first, second, third), VirtualClock())
    assert tally.settled().done()
    tally.send(REQUEST)
    early = tally.settled()
    tally.send(REQUEST)
    second.set_result(1)
    assert not early.done()
    first.set_exception(ValueError("no"))
    assert early.done()
    tally.send(REQUEST)
    assert not tally.settled().done()
    tally.cancel()
    assert tally.settled().done()
    assert [answer.failure for answer in tally.answers] == ["ValueError: no", None, "cancelled"]


def test_a_latency_begins_when_a_query_was_due() -> None:
    clock, future = VirtualClock(), Future[object]()
    tally = Tally(Given(future), clock)
    clock.sleep_until(5.0)
    answer = tally.send(REQUEST, due=3.0)
    assert (answer.due, answer.sent, answer.settled, answer.latency) == (3.0, 5.0, None, None)
    clock.at(9.0, lambda: future.set_result(1))
    assert clock.wait(tally.settled())
    assert (answer.settled, answer.latency, answer.failure) == (9.0, 6.0, None)


def test_two_queries_may_share_a_future() -> None:
    """As of a target that answers one text once."""
    shared = Future[object]()
    tally = Tally(Given(shared, shared), VirtualClock())
    tally.send(REQUEST)
    tally.send(REQUEST)
    shared.set_result(1)
    assert [answer.latency for answer in tally.answers] == [0.0, 0.0]
    assert tally.settled().done()


def test_a_target_may_answer_at_once_or_refuse() -> None:
    done = Future[object]()
    done.set_result(1)
    tally = Tally(Given(done), VirtualClock())
    assert tally.send(REQUEST).latency == 0.0
    answer = tally.send(REQUEST)  # it has no future left
    assert answer.failure == "IndexError: pop from empty list"
    assert answer.latency is None


def test_ctrl_c_is_no_failure() -> None:
    class Interrupted:
        def submit(self, query: str, documents: Sequence[str]) -> Future[object]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tally(Interrupted(), VirtualClock()).send(REQUEST)
