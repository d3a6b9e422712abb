"""Server: queries come by chance at a rate, whether or not those before are answered."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from math import sqrt

import numpy as np

from packrank.bench.load.arrivals import Schedule, poisson, schedule
from packrank.bench.load.clock import Clock, MachineClock
from packrank.bench.load.target import Answer, Request, Tally, Target
from packrank.bench.load.workloads import percentiles

LEAST_FOR_P99 = 100  # of fewer, all that a p99 says is which was the longest
_LATE_SHARE = 0.1  # of the limit, by which one query in a hundred may be sent late


@dataclass(frozen=True)
class Terms:
    """Under which points are measured.

    Attributes:
        limit_s: that the p99 should keep.
        seconds: of the window, at least.
        least_count: of queries in it, at least: where they are rare it stays open for longer.
        most_seconds: for which it is kept open; what has too few queries by then is invalid.
        warm_up_s: at the same rate before the window, so that the queue is as long as it will be.
        patience_s: how long answers are waited for after the window; without them it is invalid.
        seed: of arrivals; each point has others.
    """

    limit_s: float
    seconds: float = 10.0
    least_count: int = LEAST_FOR_P99
    most_seconds: float = 60.0
    warm_up_s: float = 1.0
    patience_s: float = 30.0
    seed: int = 0


@dataclass
class Point:
    """What was found at one rate, in seconds and queries a second.

    Attributes:
        offered: the rate of arrivals.
        achieved: of answers given while the window was open.
        p50: of the latency; None where nothing was answered, and so for the others.
        p90: likewise.
        p95: likewise.
        p99: likewise.
        goodput: of those answers that came within the limit.
        count: queries that came in the window.
        valid: whether it is what the target does at this rate for as long as one likes.
        reason: why it is not.
        latencies: of the queries that came in the window and were answered, as they came.
    """

    offered: float
    achieved: float
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    goodput: float
    count: int
    valid: bool
    reason: str | None
    latencies: list[float]

    def holds(self, limit_s: float) -> bool:
        """Whether the p99 keeps a limit, so far as this point may be relied upon."""
        return self.valid and self.p99 is not None and self.p99 <= limit_s


class Server:
    """Measures points on a target.

    Attributes:
        points: all so far.
    """

    def __init__(
        self,
        target: Target,
        requests: Sequence[Request],
        terms: Terms,
        clock: Clock | None = None,
    ) -> None:
        """Begin.

        Args:
            target: what answers.
            requests: taken in turn, again and again.
            terms: of all points.
            clock: the machine's, unless another is given.
        """
        self.points: list[Point] = []
        self.terms = terms
        self._target, self._clock = target, clock or MachineClock()
        self._requests = cycle(requests)

    def point(self, rate: float) -> Point:
        """Offer queries at a rate; comes back when the target has nothing left of them.

        Latencies count from when a query was due, so that neither a target that holds up whoever
        sends nor a generator that is late makes them shorter.
        """
        terms, clock = self.terms, self._clock
        times = poisson(rate, [terms.seed, len(self.points)])
        plan = schedule(
            times, terms.warm_up_s, terms.seconds, terms.least_count, terms.most_seconds
        )
        tallies = [Tally(self._target, clock) for _ in range(3)]
        warm_up, measured, drain = tallies
        begun = clock.now()
        try:
            for tally, dues in ((warm_up, plan.warm_up), (measured, plan.measured)):
                for due in dues:
                    self._send(tally, begun + due)
            clock.sleep_until(begun + plan.closes)
            patient_until = begun + plan.closes + terms.patience_s
            for due in plan.drain:
                if clock.wait(measured.settled(), min(begun + due, patient_until)):
                    break
                if begun + due >= patient_until:
                    break
                self._send(drain, begun + due)
            point = _point(rate, terms, plan, begun, warm_up.answers, measured.answers)
        finally:
            for tally in tallies:
                tally.cancel()
        for tally in tallies:  # what the target is at is not the next point's
            clock.wait(tally.settled(), clock.now() + terms.patience_s)
        self.points.append(point)
        return point

    def _send(self, tally: Tally, due: float) -> None:
        self._clock.sleep_until(due)
        tally.send(next(self._requests), due)


def _point(
    rate: float,
    terms: Terms,
    plan: Schedule,
    begun: float,
    warm_up: list[Answer],
    measured: list[Answer],
) -> Point:
    seconds = plan.closes - plan.opens
    opens, closes = begun + plan.opens, begun + plan.closes
    settled = [
        answer
        for answer in (*warm_up, *measured)
        if answer.settled is not None and opens <= answer.settled < closes
    ]
    answered = [latency for answer in settled if (latency := answer.latency) is not None]
    latencies = [latency for answer in measured if (latency := answer.latency) is not None]
    reasons = _reasons(terms, measured, len(latencies), len(measured) - len(settled))
    shown = percentiles(latencies) if latencies else {}
    return Point(
        offered=rate,
        achieved=len(answered) / seconds,
        p50=shown.get("p50"),
        p90=shown.get("p90"),
        p95=shown.get("p95"),
        p99=shown.get("p99"),
        goodput=sum(latency <= terms.limit_s for latency in answered) / seconds,
        count=len(measured),
        valid=not reasons,
        reason="; ".join(reasons) or None,
        latencies=latencies,
    )


def _reasons(terms: Terms, measured: list[Answer], num_answered: int, growth: int) -> list[str]:
    """What speaks against a point."""
    reasons = []
    failed = Counter(answer.failure for answer in measured if answer.failure is not None)
    for failure, count in failed.most_common(3):
        reasons.append(f"{count} of {len(measured)} queries failed: {failure}")
    if num_open := sum(answer.settled is None for answer in measured):
        reasons.append(f"{num_open} queries were not answered {terms.patience_s:g} s later")
    if num_answered < LEAST_FOR_P99:
        reasons.append(f"{num_answered} answers are too few for a p99")
    late = [answer.sent - answer.due for answer in measured]
    if late and (worst := float(np.quantile(late, 0.99))) > _LATE_SHARE * terms.limit_s:
        reasons.append(f"one query in a hundred was sent {worst * 1e3:.3g} ms late or more")
    # A queue that is only just served grows by chance, by more than this once in twenty windows.
    if growth > 2 * sqrt(len(measured)):
        reasons.append(f"the queue grew by {growth} of {len(measured)} queries")
    return reasons
