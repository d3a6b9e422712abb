"""Requests on their way through the two threads: who is taken, who is first, what it took."""

import threading
import time
from typing import Any

import pytest
from held_model import Held, until
from toy_model import Open

from packrank import DeadlineExceeded, Engine, Overloaded
from packrank.serving.source import PairSource, Started


def test_a_full_queue_refuses_and_says_when(toy: Open, held: Held) -> None:
    with Engine(toy(), max_queue_tokens=100) as engine:
        first = engine.submit("q", ["a"] * 1000)  # whatever it has, it counts for a quarter
        assert held.begun.acquire(timeout=10)
        others = [engine.submit("q", ["b"] * 5) for _ in range(3)]
        with pytest.raises(Overloaded, match="no room for 20 more") as raised:
            engine.submit("q", ["a"] * 5)
        assert raised.value.retry_after > 0
        held.let_all_go()
        for one in (first, *others):
            one.result(10)
        until(lambda: engine.queue_tokens == 0)
        assert engine._pump._scheduler.load == 0
        assert engine.submit("q", ["a"]).result(10)
    assert engine.totals.turned_away == {"overloaded": 1}


def test_large_requests_leave_room_for_small_ones(toy: Open, held: Held) -> None:
    with Engine(toy(), max_queue_tokens=100) as engine:
        large = [engine.submit("q", ["a"] * 1000) for _ in range(3)]
        with pytest.raises(Overloaded, match="of the queue's 100 tokens 75 are taken"):
            engine.submit("q", ["a"] * 1000)
        small = [engine.submit("q", ["b"]) for _ in range(6)]
        held.let_all_go()
        for one in (*large, *small):
            assert one.result(30)


def test_a_queue_that_is_too_small_for_anything_takes_one_at_a_time(toy: Open, held: Held) -> None:
    with Engine(toy(), max_queue_tokens=1) as engine:
        first = engine.submit("q", ["a"] * 5)
        with pytest.raises(Overloaded, match="of the queue's 1 tokens 1 are taken"):
            engine.submit("q", ["a"])
        held.let_all_go()
        assert len(first.result(10)) == 5
        until(lambda: not engine.queue_requests)
        assert engine.submit("q", ["a"]).result(10)


def test_one_key_does_not_take_all_of_the_queue(toy: Open, held: Held) -> None:
    with Engine(toy(), max_queue_tokens=400) as engine:
        answers = []
        with pytest.raises(Overloaded, match="no room for 4 more of who has some there"):
            for _ in range(1000):
                answers.append(engine.submit("q", ["a"], caller="many"))
        assert 290 < engine.queue_tokens <= 310
        other = engine.submit("q", ["b"] * 4, caller="few")
        held.let_all_go()
        assert other.result(10) and all(one.result(10) for one in answers)


def test_a_small_request_does_not_wait_for_a_large_one(toy: Open, held: Held) -> None:
    """Its turn comes after the pack that runs, and no bulk is packed with it."""
    with Engine(toy(budget_tokens=100)) as engine:
        large = engine.submit("q", ["a"] * 2000)
        assert held.begun.acquire(timeout=10)
        small = engine.submit("q", ["b"] * 3)
        until(lambda: any(len(one.pairs) == 3 and one.parts for one in engine._pump._scheduler))
        held.go.release(2)
        assert len(small.result(10)) == 3
        assert held.packs[1] == [5] * 3
        assert not large.done()
        held.let_all_go()
        assert len(large.result(30)) == 2000


def test_a_small_request_does_not_wait_for_long_documents_to_be_read(
    toy: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are tokenized whole, however little of them the model reads."""
    read, lengths = PairSource.read, list[list[int]]()
    begun, go = threading.Event(), threading.Event()

    def held(source: PairSource, pairs: Any) -> Any:
        lengths.append([len(document) for _, document in pairs])
        begun.set()
        assert go.wait(10)
        return read(source, pairs)

    monkeypatch.setattr(PairSource, "read", held)
    with Engine(toy(), max_queue_tokens=1_000_000) as engine:
        large = engine.submit("q", ["a " * 10_000] * 48)
        assert engine.queue_tokens == 48 * (6670 // 16)
        assert begun.wait(10)
        small = engine.submit("q", ["b"] * 48)
        go.set()
        assert len(small.result(10)) == 48 and len(large.result(60)) == 48
        assert engine.queue_tokens == 0
    assert lengths[:3] == [[20_000], [1] * 48, [20_000]] and len(lengths) == 49


def test_priorities_go_first(toy: Open, held: Held) -> None:
    done: list[str] = []
    with Engine(toy(budget_tokens=5)) as engine:
        first = engine.submit("q", ["a"])
        assert held.begun.acquire(timeout=10)
        asked = {"later": 9, "now": 0, "soon": 1}
        for name, priority in asked.items():
            future = engine.submit("q", ["a"] * 2, priority=priority)
            future.add_done_callback(lambda _, name=name: done.append(name))
        until(lambda: engine._pump._scheduler.ready >= 15)
        held.let_all_go()
        first.result(10)
        until(lambda: len(done) == 3)
    assert done == ["now", "soon", "later"]


def test_time_counts_once_where_several_packs_are_under_way(
    toy: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a device that takes them one after the other, as a stream does."""
    start, free = PairSource.start, [0.0]

    def started(source: PairSource, some: Any) -> Started:
        result = start(source, some)
        free[0] = ends = max(free[0], time.monotonic()) + 0.05

        def when_it_ends() -> Any:
            time.sleep(max(ends - time.monotonic(), 0.0))
            return result()

        return when_it_ends

    monkeypatch.setattr(PairSource, "start", started)
    with Engine(toy(budget_tokens=10)) as engine:
        engine._pump._depth = 3
        begun = time.monotonic()
        answer = engine.submit("q", ["a"] * 20)
        assert answer.result(10)
        seconds = time.monotonic() - begun
    assert 10 * 0.05 <= engine.totals.forward_s <= seconds
    assert answer.usage.forward_s == pytest.approx(engine.totals.forward_s)
    assert answer.usage.queue_s == pytest.approx(seconds - answer.usage.forward_s, abs=0.05)


def test_what_a_request_waited_for_is_known_of_one_that_failed(toy: Open, held: Held) -> None:
    with Engine(toy()) as engine:
        first, late = engine.submit("q", ["a"]), engine.submit("q", ["a"], timeout=0.1)
        assert isinstance(late.exception(10), DeadlineExceeded)
        assert 0.09 < late.usage.queue_s < 5
        held.let_all_go()
        assert first.result(10)
