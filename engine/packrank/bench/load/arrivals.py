"""When queries come: by chance, at a rate, whatever becomes of those before."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

_AT_ONCE = 1024


def poisson(rate: float, seed: int | Sequence[int]) -> Iterator[float]:
    """Times from 0 on, without end: gaps are exponential, so the last one says nothing of the next.

    Args:
        rate: of arrivals, a second.
        seed: of numpy's generator; the same times for the same one.
    """
    generator = np.random.default_rng(seed)
    now = 0.0
    while True:
        for gap in generator.exponential(1 / rate, _AT_ONCE).tolist():
            now += gap
            yield now


@dataclass(frozen=True)
class Schedule:
    """When the queries of a point are due, in seconds from its beginning.

    Attributes:
        warm_up: of those before the window opens.
        measured: of those in it, which count.
        drain: after it, without end: they keep the load up while answers are waited for.
        opens: the window.
        closes: its end.
    """

    warm_up: list[float]
    measured: list[float]
    drain: Iterator[float]
    opens: float
    closes: float


def schedule(
    times: Iterator[float], warm_up_s: float, seconds: float, least_count: int, most_seconds: float
) -> Schedule:
    """Cut arrivals into a warm-up, a window and a drain.

    Args:
        times: of arrivals.
        warm_up_s: before the window.
        seconds: of the window.
        least_count: arrivals that it has at least: it stays open until the one after these.
        most_seconds: after which it is not kept open.
    """
    ends, last = warm_up_s + seconds, warm_up_s + max(seconds, most_seconds)
    warm_up: list[float] = []
    measured: list[float] = []
    for due in times:
        if due < warm_up_s:
            warm_up.append(due)
        elif due < ends or (len(measured) < least_count and due < last):
            measured.append(due)
        else:
            break
    is_stretched = bisect_left(measured, ends) < least_count
    # An end that hangs on the arrivals is that of the next one: up to the last of n are n - 1 gaps.
    closes = min(due, last) if is_stretched else ends
    return Schedule(warm_up, measured, chain([due], times), warm_up_s, closes)
