"""The highest rate that keeps a limit, found by points that are noisy."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt

from packrank.bench.load.clock import Clock, MachineClock
from packrank.bench.load.server import Point


@dataclass
class Search:
    """What a search found.

    Attributes:
        rate: the highest that keeps the limit, in queries a second; None: none did.
        points: all that were measured, in their order.
        unsettled: why the rate may not be the last word; None: it is.
    """

    rate: float | None = None
    points: list[Point] = field(default_factory=list)
    unsettled: str | None = None


def highest_rate(
    measure: Callable[[float], Point],
    limit_s: float,
    first: float,
    *,
    precision: float = 0.05,
    most_points: int = 16,
    most_seconds: float = 180.0,
    clock: Clock | None = None,
    found: Search | None = None,
) -> Search:
    """Search for the highest offered rate whose p99 keeps a limit: bracket, then bisect.

    A rate that fails once may have met a disturbance, and one that holds once a lull. So the two
    ends of the last bracket are measured again, and a third time where the two disagree; what they
    say then counts, and the search goes on from there. No rate is returned that is above one that
    has failed twice: a rate is tried again only while none above it holds.

    Args:
        measure: a point at a rate, such as `Server.point`.
        limit_s: of the p99.
        first: the rate to begin with, such as half of what one query at a time comes to.
        precision: of the rate: the least that fails is at most so much above.
        most_points: after which it ends.
        most_seconds: after which no point is begun.
        clock: the machine's, unless another is given.
        found: where it is kept point by point, so that an interruption loses none.
    """
    clock = clock or MachineClock()
    begun = clock.now()
    found = Search() if found is None else found
    votes: dict[float, list[bool]] = {}
    while (rate := _next(votes, first, precision)) is not None:
        if len(found.points) >= most_points:
            found.unsettled = f"the search ended after {most_points} points"
            break
        if clock.now() - begun >= most_seconds:
            found.unsettled = f"the search ended after {most_seconds:g} s"
            break
        point = measure(rate)
        found.points.append(point)
        votes.setdefault(rate, []).append(point.holds(limit_s))
        found.rate = _bracket(votes)[0]
    return found


def _bracket(votes: dict[float, list[bool]]) -> tuple[float | None, float | None]:
    """The highest rate that holds and the lowest above it that does not."""
    holds = {rate: each.count(True) > each.count(False) for rate, each in votes.items()}
    low = max((rate for rate in holds if holds[rate]), default=None)
    high = min((rate for rate in holds if low is None or rate > low), default=None)
    return low, high


def _next(votes: dict[float, list[bool]], first: float, precision: float) -> float | None:
    """The rate that would tell most; None where nothing is left to tell."""
    if not votes:
        return first
    for rate, each in votes.items():
        if each.count(True) == each.count(False):
            return rate
    low, high = _bracket(votes)
    if low is None:
        return min(votes) / 2
    if high is None:
        return 2 * low
    if high > low * (1 + precision):
        return sqrt(low * high)
    return next((rate for rate in (high, low) if len(votes[rate]) < 2), None)
