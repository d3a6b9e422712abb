"""Virtual time passes by events; the machine's is waited for."""

import threading
from concurrent.futures import Future

import pytest

from packrank.bench.load.clock import MachineClock, VirtualClock


def test_events_run_in_the_order_of_their_times_then_of_their_telling() -> None:
    clock = VirtualClock()
    ran: list[tuple[str, float]] = []

    def event(name: str) -> None:
        ran.append((name, clock.now()))
        if name == "b":
            clock.at(2.5, lambda: event("told of by b"))

    for when, name in ((3.0, "d"), (2.0, "b"), (1.0, "a"), (2.0, "c"), (9.0, "late")):
        clock.at(when, lambda name=name: event(name))  # type: ignore[misc]
    clock.sleep_until(3.0)
    assert ran == [("a", 1.0), ("b", 2.0), ("c", 2.0), ("told of by b", 2.5), ("d", 3.0)]
    assert clock.now() == 3.0
    clock.sleep_until(1.0)
    assert clock.now() == 3.0
    clock.at(0.0, lambda: event("overdue"))
    clock.sleep_until(9.0)
    assert ran[5:] == [("overdue", 3.0), ("late", 9.0)]


def test_a_wait_ends_with_the_future_or_at_its_time() -> None:
    clock, future = VirtualClock(), Future[int]()
    clock.at(5.0, lambda: future.set_result(1))
    clock.at(6.0, lambda: pytest.fail("nobody waited for this"))
    assert not clock.wait(future, 4.0)
    assert not clock.wait(future, 3.0)
    assert clock.now() == 4.0
    assert clock.wait(future)
    assert clock.now() == 5.0
    assert clock.wait(future, 1.0)
    assert clock.now() == 5.0


def test_a_wait_for_what_never_comes_is_told() -> None:
    with pytest.raises(RuntimeError, match="nothing is to come"):
        VirtualClock().wait(Future[None]())


def test_the_machines_clock_waits_for_a_thread() -> None:
    clock, future = MachineClock(), Future[int]()
    before = clock.now()
    assert not clock.wait(future, before + 0.001)
    clock.sleep_until(before + 0.002)
    assert clock.now() >= before + 0.002
    thread = threading.Timer(0.001, lambda: future.set_result(1))
    thread.start()
    assert clock.wait(future)
    thread.join()
