"""SingleStream, named as MLPerf names it; server.py has Server, and speed/offline.py Offline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np

from packrank.bench.load.clock import Clock, MachineClock
from packrank.bench.load.target import Answer, Request, Tally, Target

PERCENTILES = (50, 90, 95, 99)


def least_for(percent: int) -> int:
    """Of how many samples one at least is not below so many in a hundred: 100 for 99."""
    return -(-100 // (100 - percent))


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """By name, "p50" and so on: the least latency that so many in a hundred did not exceed.

    Those are left out of which so few latencies say nothing but which was the longest.
    """
    return {
        f"p{percent}": float(np.quantile(latencies, percent / 100, method="inverted_cdf"))
        for percent in PERCENTILES
        if len(latencies) >= least_for(percent)
    }


@dataclass
class Stream:
    """What SingleStream found.

    Attributes:
        latencies: of each query that was answered, in seconds, in their order.
        seconds: that all of them took, those that failed included.
        failures: why a query was not answered.
    """

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def single_stream(
    target: Target,
    requests: Sequence[Request],
    *,
    seconds: float = 5.0,
    least_count: int = 30,
    most_seconds: float = 60.0,
    warm_up_s: float = 1.0,
    clock: Clock | None = None,
    found: Stream | None = None,
    between: Callable[[], object] = lambda: None,
) -> Stream:
    """One query at a time, the next when the last is answered: what a user waits.

    Args:
        target: what answers.
        requests: taken in turn, again and again.
        seconds: for which it goes on at least.
        least_count: of queries, likewise.
        most_seconds: after which it ends all the same.
        warm_up_s: before, of which nothing is kept; above 0 at least one query.
        clock: the machine's, unless another is given.
        found: where it is kept query by query, so that an interruption loses none.
        between: called before each query of which something is kept, and after the last.
    """
    clock = clock or MachineClock()
    found = Stream() if found is None else found
    tally, coming = Tally(target, clock), cycle(requests)

    def one() -> Answer:
        answer = tally.send(next(coming))
        clock.wait(tally.settled())
        return answer

    begun = clock.now()
    while warm_up_s > 0:
        one()
        if clock.now() - begun >= warm_up_s:
            break
    begun = clock.now()
    between()
    while True:
        answer = one()
        if answer.latency is not None:
            found.latencies.append(answer.latency)
        else:
            found.failures.append(answer.failure or "")
        between()
        found.seconds = clock.now() - begun
        count = len(found.latencies) + len(found.failures)
        if found.seconds >= most_seconds or (found.seconds >= seconds and count >= least_count):
            return found
