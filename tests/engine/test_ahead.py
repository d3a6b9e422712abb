"""An iterator that is run ahead."""

import threading
from collections.abc import Iterator

import pytest

from packrank.ahead import Ahead


def test_items_come_in_order_and_no_more_are_made_than_wanted() -> None:
    made: list[int] = []
    taken = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for n in range(50):
            made.append(n)
            taken.release()
            yield n

    with Ahead(items(), 2, "items") as ahead:
        for _ in range(2):
            assert taken.acquire(timeout=10)
        assert not taken.acquire(timeout=0.05) and made == [0, 1]
        assert list(ahead) == list(range(50))
        assert list(ahead) == []
    assert ahead.busy > 0 and ahead.waited >= 0


def test_an_error_comes_after_what_was_made_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    ahead = Ahead(items(), 5, "items")
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)
    assert list(ahead) == []


def test_closed_it_ends_the_thread_the_iterator_and_who_waits() -> None:
    ended, blocked = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        try:
            yield 1
            blocked.wait(10)
            yield 2
        finally:
            ended.set()

    ahead = Ahead(items(), 1, "items")
    assert next(ahead) == 1
    waiting = threading.Thread(target=lambda: list(ahead))
    waiting.start()
    closing = threading.Thread(target=ahead.close)
    closing.start()
    waiting.join(10)
    assert not waiting.is_alive()
    blocked.set()
    closing.join(10)
    assert ended.wait(10)
    assert list(ahead) == []
