"""A server of one known service time, in virtual time, and what queueing theory says of it."""

import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from decimal import Decimal, localcontext
from functools import partial

from packrank.bench.load.clock import VirtualClock


class FixedService:
    """First in, first out, each query `service` seconds; what `fails` says raises instead.

    Attributes:
        arrived: when queries came.
        took: the queries, in the order in which they were begun.
        is_busy: whether there is one that it is at.
    """

    def __init__(self, clock: VirtualClock, service: float, fails: Sequence[int] = ()) -> None:
        self.arrived: list[float] = []
        self.took: list[str] = []
        self.is_busy = False
        self._clock, self._service, self._fails = clock, service, set(fails)
        self._waiting: deque[tuple[Future[None], str, bool]] = deque()

    def submit(self, query: str, documents: Sequence[str]) -> Future[None]:
        future: Future[None] = Future()
        self._waiting.append((future, query, len(self.arrived) in self._fails))
        self.arrived.append(self._clock.now())
        if not self.is_busy:
            self._begin()
        return future

    def _begin(self) -> None:
        self.is_busy = False
        while self._waiting and not self.is_busy:
            future, query, fails = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                self.is_busy = True
                self.took.append(query)
                end = self._clock.now() + self._service
                self._clock.at(end, partial(self._end, future, fails))

    def _end(self, future: Future[None], fails: bool) -> None:
        if fails:
            future.set_exception(ValueError("no such text"))
        else:
            future.set_result(None)
        self._begin()


def latencies_of(arrived: Sequence[float], service: float) -> list[float]:
    """Lindley's recursion: a query begins when it comes or when the one before ends."""
    found, free = [], 0.0
    for time in arrived:
        free = max(time, free) + service
        found.append(free - time)
    return found


def mean_wait(rho: float, service: float) -> float:
    """Of M/D/1, by Pollaczek and Khinchine."""
    return rho * service / (2 * (1 - rho))


def wait_within(time: float, rho: float, service: float) -> float:
    """The probability that a query of M/D/1 waits no longer, by Erlang's formula.

    Its terms alternate and dwarf their sum, hence the digits.
    """
    with localcontext() as context:
        context.prec = 100
        left, total = Decimal(time) / Decimal(service), Decimal(0)
        for k in range(math.floor(left) + 1):
            x = Decimal(rho) * (k - left)
            total += x**k / math.factorial(k) * (-x).exp() if k else (-x).exp()
        return float((1 - Decimal(rho)) * total)


def wait_quantile(share: float, rho: float, service: float) -> float:
    """What that share of queries does not wait longer than."""
    low, high = 0.0, service
    while wait_within(high, rho, service) < share:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if wait_within(middle, rho, service) < share else (low, middle)
    return high
