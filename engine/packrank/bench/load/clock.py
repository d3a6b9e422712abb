"""What time is: the machine's, or a virtual one in which hours pass at once and to the digit."""

import heapq
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from itertools import count
from typing import Any, Protocol

_MOST_SECONDS = 3600.0  # of one wait; the system takes no endless number


class Clock(Protocol):
    """Time as workloads see it, in seconds from any moment on."""

    def now(self) -> float:
        """The time."""

    def sleep_until(self, when: float) -> None:
        """Come back at that time; at once if it is over."""

    def wait(self, future: Future[Any], until: float = math.inf) -> bool:
        """Come back when it is done, or at that time; whether it is done."""


class MachineClock:
    """The machine's time."""

    def now(self) -> float:
        """The time since some moment before the process."""
        return time.perf_counter()

    def sleep_until(self, when: float) -> None:
        """Sleep; the system may wake it late, never early.

        It does not spin: the core that it would take is the one that answers.
        """
        while (left := when - self.now()) > 0:
            time.sleep(min(left, _MOST_SECONDS))

    def wait(self, future: Future[Any], until: float = math.inf) -> bool:
        """Wait for a future that another thread will set."""
        while not future.done() and (left := until - self.now()) > 0:
            wait_for([future], min(left, _MOST_SECONDS))
        return future.done()


class VirtualClock:
    """Time that passes only while somebody waits, from event to event."""

    def __init__(self) -> None:
        self._now = 0.0
        self._numbers = count()  # of two events at one time the one that was told of first is first
        self._events: list[tuple[float, int, Callable[[], object]]] = []

    def now(self) -> float:
        """The time of the last event, or until which somebody slept."""
        return self._now

    def at(self, when: float, event: Callable[[], object]) -> None:
        """Call something at a time; at the next wait, if that is over."""
        heapq.heappush(self._events, (max(when, self._now), next(self._numbers), event))

    def sleep_until(self, when: float) -> None:
        """Run what is due up to and at that time."""
        while self._events and self._events[0][0] <= when:
            self._step()
        self._now = max(self._now, when)

    def wait(self, future: Future[Any], until: float = math.inf) -> bool:
        """Run what is due until the future is done.

        Raises:
            RuntimeError: nothing is to come, so that it never will be.
        """
        while not future.done() and self._events and self._events[0][0] <= until:
            self._step()
        if not future.done():
            if until == math.inf:
                raise RuntimeError("nothing is to come that this could wait for")
            self._now = max(self._now, until)
        return future.done()

    def _step(self) -> None:
        self._now, _, event = heapq.heappop(self._events)
        event()
