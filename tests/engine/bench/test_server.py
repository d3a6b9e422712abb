"""Server on an exact queue: Lindley to the digit, and what queueing theory says of M/D/1."""

from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest
from queueing import FixedService, latencies_of, mean_wait, wait_quantile, wait_within

from packrank.bench.load.clock import VirtualClock
from packrank.bench.load.server import Point, Server, Terms

REQUESTS = [("one", ["a"]), ("two", ["b", "c"])]
SERVICE = 0.1


def measured(
    rate: float, terms: Terms, fails: Sequence[int] = ()
) -> tuple[Point, FixedService, VirtualClock]:
    clock = VirtualClock()
    target = FixedService(clock, SERVICE, fails)
    return Server(target, REQUESTS, terms, clock).point(rate), target, clock


def within(point: Point, target: FixedService, opens: float) -> slice:
    """Where the queries that count are among those that arrived."""
    before = sum(time < opens for time in target.arrived)
    return slice(before, before + point.count)


@pytest.mark.parametrize("rate", [1.0, 5.0, 9.0, 9.9, 15.0])
def test_every_latency_is_lindleys(rate: float) -> None:
    point, target, clock = measured(rate, Terms(1.0, seconds=150, warm_up_s=20, patience_s=1e9))
    expected = latencies_of(target.arrived, SERVICE)[within(point, target, 20.0)]
    assert point.latencies == expected
    assert point.count >= 100
    assert target.arrived[within(point, target, 20.0)][0] >= 20.0
    in_order = sorted(expected)
    shown = {50: point.p50, 90: point.p90, 95: point.p95, 99: point.p99}
    assert shown == {p: in_order[-(-p * point.count // 100) - 1] for p in shown}
    assert target.took[:3] == ["one", "two", "one"]
    assert clock.now() >= 170.0  # however early the last one was answered


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8, 0.9])
def test_the_mean_wait_is_that_of_theory(rho: float) -> None:
    terms = Terms(1.0, seconds=0, least_count=16_000, most_seconds=1e9, warm_up_s=200.0)
    point, _, _ = measured(rho / SERVICE, terms)
    assert point.valid, point.reason
    waits = np.array(point.latencies) - SERVICE
    means = waits.reshape(32, -1).mean(1)  # of batches, since a wait hangs on the one before
    error = means.std(ddof=1) / 32**0.5
    assert abs(waits.mean() - mean_wait(rho, SERVICE)) < 3 * error
    assert error < 0.12 * mean_wait(rho, SERVICE)
    # The whole distribution, where 32 batches hold enough that is beyond.
    for share in (0.5, 0.9) if rho > 0.8 else (0.5, 0.9, 0.99):
        longest = wait_quantile(share, rho, SERVICE)
        # The distribution has a step at no wait: what is within is compared, not the quantile.
        shares = (waits <= longest + 1e-9).reshape(32, -1).mean(1)
        off = shares.mean() - wait_within(longest, rho, SERVICE)
        assert abs(off) < 3 * shares.std(ddof=1) / 32**0.5


def test_theory_agrees_with_itself() -> None:
    """The mean is the integral of what is beyond, and nobody waits with probability 1 - rho."""
    for rho in (0.2, 0.7, 0.95):
        assert wait_within(0.0, rho, 2.0) == pytest.approx(1 - rho)
        times = np.linspace(0, 80, 161)
        beyond = [1 - wait_within(time, rho, 2.0) for time in times.tolist()]
        expected = mean_wait(rho, 2.0)
        assert np.trapezoid(beyond, times) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("rho", [1.3, 2.0, 5.0])
def test_over_saturation_the_rate_is_the_servers_and_the_point_is_refused(rho: float) -> None:
    terms = Terms(1e6, seconds=40.0, warm_up_s=5.0, patience_s=1e9)
    point, _, _ = measured(rho / SERVICE, terms)
    assert point.achieved == pytest.approx(1 / SERVICE, abs=1 / 40.0)
    assert not point.valid
    assert point.reason is not None
    assert point.reason.startswith("the queue grew by ")
    assert len(point.latencies) == point.count  # all are waited for
    assert not point.holds(1e6)


@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_a_queue_that_is_served_is_not_said_to_grow(rho: float) -> None:
    """In one window of a hundred, at most; each of a hundred queries."""
    clock = VirtualClock()
    server = Server(FixedService(clock, SERVICE), REQUESTS, Terms(1.0, seconds=0), clock)
    points = [server.point(rho / SERVICE) for _ in range(200)]
    assert sum(not point.valid for point in points) <= 2
    assert points == server.points
    assert len({sum(point.latencies) for point in points}) == 200  # arrivals of its own
    assert np.mean([point.achieved for point in points]) == pytest.approx(rho / SERVICE, rel=0.02)


def test_goodput_is_of_answers_within_the_limit() -> None:
    terms = Terms(2 * SERVICE, seconds=200.0, warm_up_s=0.0)
    point, target, _ = measured(9.0, terms)
    ends = [
        (time + latency, latency)
        for time, latency in zip(target.arrived, latencies_of(target.arrived, SERVICE), strict=True)
        if time + latency < 200.0
    ]
    assert point.achieved == len(ends) / 200.0
    assert point.goodput == sum(latency <= 2 * SERVICE for _, latency in ends) / 200.0
    assert 0 < point.goodput < 0.9 * point.achieved


def test_errors_are_kept_as_reasons_and_never_as_latencies() -> None:
    terms = Terms(9.0, seconds=100.0, warm_up_s=10.0)
    point, target, _ = measured(5.0, terms, fails=[3, 200, 201, 302])
    at = within(point, target, 10.0)
    expected = dict(enumerate(latencies_of(target.arrived, SERVICE)))
    for failed in (3, 200, 201, 302):
        del expected[failed]
    assert at.start > 3
    assert point.latencies == [expected[i] for i in range(at.start, at.stop) if i in expected]
    assert len(point.latencies) == point.count - 3
    assert point.reason == f"3 of {point.count} queries failed: ValueError: no such text"
    assert not point.valid
    assert not point.holds(9.0)


def test_a_failure_before_the_window_is_none_of_its() -> None:
    point, _, _ = measured(5.0, Terms(9.0, seconds=100.0, warm_up_s=10.0), fails=[3])
    assert point.valid


def test_of_few_answers_there_is_no_p99() -> None:
    point, _, _ = measured(5.0, Terms(9.0, seconds=4, most_seconds=8.0))
    assert point.count < 100
    assert point.reason == f"{point.count} answers are too few for a p99"


def test_what_is_not_answered_in_patience_is_taken_back() -> None:
    terms = Terms(1.0, seconds=20.0, warm_up_s=0.0, patience_s=5.0)
    point, target, clock = measured(20.0, terms)
    closes = 20.0
    expected = latencies_of(target.arrived, SERVICE)[: point.count]
    in_time = [
        latency
        for time, latency in zip(target.arrived, expected, strict=False)
        if time + latency <= closes + 5.0
    ]
    assert point.latencies == in_time
    assert point.reason is not None
    assert f"{point.count - len(in_time)} queries were not answered 5 s later" in point.reason
    assert len(target.took) <= len(in_time) + 1  # none of the others was begun
    assert clock.now() <= closes + 5.0 + SERVICE
    meanwhile = sum(time >= closes for time in target.arrived)
    assert meanwhile == pytest.approx(20.0 * 5.0, rel=0.3)  # the load was kept up


def test_nothing_is_left_for_the_next_point() -> None:
    """What the target has begun is waited for, what it has not is taken back."""
    clock = VirtualClock()
    target = FixedService(clock, SERVICE)
    server = Server(target, REQUESTS, Terms(1.0, seconds=20.0, patience_s=5.0), clock)
    server.point(20.0)
    assert not target.is_busy
    begun, taken = clock.now(), len(target.took)
    clock.sleep_until(begun + 1e6)
    assert len(target.took) == taken


class Waiting(FixedService):
    """A client that answers before it comes back: no second query is under way meanwhile."""

    def submit(self, query: str, documents: Sequence[str]) -> Future[None]:
        future = super().submit(query, documents)
        self._clock.wait(future)
        return future


def test_latencies_count_from_when_a_query_was_due() -> None:
    """By a client that waits, every latency would be the service's, from when it was sent."""
    plain, _, _ = measured(9.0, Terms(0.5, seconds=200.0))
    clock = VirtualClock()
    point = Server(Waiting(clock, SERVICE), REQUESTS, Terms(0.5, seconds=200.0), clock).point(9.0)
    assert point.latencies == pytest.approx(plain.latencies, abs=1e-9)
    assert max(point.latencies) > 3 * SERVICE
    assert not point.valid
    assert point.reason is not None
    assert point.reason.startswith("one query in a hundred was sent ")


@pytest.mark.parametrize(("limit", "valid"), [(10 * SERVICE, True), (2 * SERVICE, False)])
def test_how_late_may_be_hangs_on_the_limit(limit: float, valid: bool) -> None:
    class Slow(FixedService):
        """Takes a third of the service to take a query, and now and then somebody is due."""

        def submit(self, query: str, documents: Sequence[str]) -> Future[None]:
            future = super().submit(query, documents)
            self._clock.sleep_until(self._clock.now() + SERVICE / 3)
            return future

    clock = VirtualClock()
    point = Server(Slow(clock, SERVICE), REQUESTS, Terms(limit, seconds=900.0), clock).point(1.0)
    assert point.valid == valid, point.reason


class Interrupted(FixedService):
    """Ctrl-C at the fiftieth query."""

    def submit(self, query: str, documents: Sequence[str]) -> Future[None]:
        if len(self.arrived) == 49:
            raise KeyboardInterrupt
        return super().submit(query, documents)


def test_an_interruption_takes_back_what_waits() -> None:
    clock = VirtualClock()
    target = Interrupted(clock, 1.0)
    server = Server(target, REQUESTS, Terms(1.0), clock)
    with pytest.raises(KeyboardInterrupt):
        server.point(10.0)
    begun = len(target.took)
    clock.sleep_until(1e6)
    assert len(target.took) == begun < 10
    assert server.points == []
