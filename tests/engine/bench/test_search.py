"""The highest rate: that of the formula on a queue, and never one above what failed twice."""

from collections.abc import Callable

import numpy as np
import pytest
from queueing import FixedService, wait_quantile

from packrank.bench.load.clock import VirtualClock
from packrank.bench.load.search import Search, highest_rate
from packrank.bench.load.server import Point, Server, Terms

SERVICE = 0.1


def point(rate: float, p99: float, valid: bool = True) -> Point:
    return Point(rate, rate, p99, p99, p99, p99, rate, 100, valid, None, [p99])


def served(capacity: float) -> Callable[[float], Point]:
    """A p99 of one second at the capacity, and none above."""
    return lambda rate: point(rate, rate / capacity)


@pytest.mark.parametrize("limit", [0.3, 1.0])
def test_the_rate_is_that_at_which_the_formula_has_its_p99(limit: float) -> None:
    low, high = 0.01, 0.999
    for _ in range(20):
        rho = (low + high) / 2
        fits = wait_quantile(0.99, rho, SERVICE) + SERVICE <= limit
        low, high = (rho, high) if fits else (low, rho)
    clock = VirtualClock()
    terms = Terms(limit, seconds=0.0, least_count=4000, most_seconds=1e9, warm_up_s=20.0)
    server = Server(FixedService(clock, SERVICE), [("one", ["a"])], terms, clock)
    found = highest_rate(server.point, limit, 1.0, precision=0.03, most_seconds=1e9, clock=clock)
    assert found.rate is not None
    assert found.rate == pytest.approx(low / SERVICE, rel=0.05)
    assert found.unsettled is None
    assert found.points == server.points
    assert found.rate < 1 / SERVICE


@pytest.mark.parametrize("first", [0.1, 7.0, 9.9, 10.0, 90.0])
@pytest.mark.parametrize("precision", [0.2, 0.01])
def test_without_noise_it_is_found_to_the_precision(first: float, precision: float) -> None:
    found = highest_rate(
        served(10.0), 1.0, first, precision=precision, most_points=40, clock=VirtualClock()
    )
    assert found.unsettled is None
    assert found.rate is not None
    assert 10.0 / (1 + precision) <= found.rate <= 10.0
    rates = [each.offered for each in found.points]
    failing = min(rate for rate in rates if rate > 10.0)
    assert failing / found.rate <= 1 + precision
    assert rates.count(found.rate) == rates.count(failing) == 2
    assert len(set(rates)) == len(rates) - 2  # none but these is measured twice


def search_in_noise(noise: float, seed: int) -> Search:
    """A tenth of all points meets a disturbance besides."""
    generator = np.random.default_rng(seed)

    def noisy(rate: float) -> Point:
        p99 = rate / 10.0 * np.exp(noise * generator.normal())
        return point(rate, 99.0 if generator.random() < 0.1 else p99)

    return highest_rate(noisy, 1.0, 3.0, most_points=25, clock=VirtualClock())


@pytest.mark.parametrize("noise", [0.05, 0.3, 2.0])
def test_nothing_is_returned_above_what_failed_twice(noise: float) -> None:
    settled = 0
    for seed in range(200):
        found = search_in_noise(noise, seed)
        votes: dict[float, list[bool]] = {}
        for each in found.points:
            votes.setdefault(each.offered, []).append(each.holds(1.0))
        twice = min((rate for rate, each in votes.items() if each.count(False) > 1), default=1e9)
        holding = [rate for rate, each in votes.items() if each.count(True) > each.count(False)]
        assert found.rate == max((rate for rate in holding if rate < twice), default=None)
        assert max(map(len, votes.values())) <= 3
        if found.unsettled is None:
            settled += 1
            assert found.rate is not None
            assert votes[found.rate].count(True) >= 2
            assert min(rate for rate in votes if rate > found.rate) == twice
    assert settled > 20


def test_noise_moves_what_is_found_by_little() -> None:
    found = [search_in_noise(0.05, seed).rate or 0.0 for seed in range(200)]
    assert sum(8.7 < rate < 11.5 for rate in found) >= 0.8 * 200
    assert np.median(found) == pytest.approx(9.7, abs=0.4)


@pytest.mark.parametrize("disturbed", range(10))
def test_one_disturbance_does_not_change_what_is_found(disturbed: int) -> None:
    calm = served(10.0)
    calls = 0

    def once(rate: float) -> Point:
        nonlocal calls
        calls += 1
        return point(rate, 9.0, valid=False) if calls == disturbed + 1 else calm(rate)

    found = highest_rate(once, 1.0, 3.0, most_points=40, clock=VirtualClock())
    assert found.unsettled is None
    assert found.rate is not None
    assert 10.0 / 1.05 <= found.rate <= 10.0


@pytest.mark.parametrize("lull", range(10))
def test_nor_does_one_lull(lull: int) -> None:
    busy = served(10.0)
    calls = 0

    def once(rate: float) -> Point:
        nonlocal calls
        calls += 1
        return point(rate, 0.1) if calls == lull + 1 else busy(rate)

    found = highest_rate(once, 1.0, 12.0, most_points=40, clock=VirtualClock())
    assert found.unsettled is None
    assert found.rate is not None
    assert 10.0 / 1.05 <= found.rate <= 10.0


def test_points_that_may_not_be_relied_upon_do_not_hold() -> None:
    found = highest_rate(
        lambda rate: point(rate, 0.1, valid=rate < 5.0), 1.0, 1.0, clock=VirtualClock()
    )
    assert found.rate is not None
    assert 5.0 / 1.05 <= found.rate < 5.0


def test_it_is_bounded_in_points_and_in_time() -> None:
    found = highest_rate(served(10.0), 1.0, 3.0, most_points=3, clock=VirtualClock())
    assert [each.offered for each in found.points] == [3.0, 6.0, 12.0]
    assert (found.rate, found.unsettled) == (6.0, "the search ended after 3 points")

    clock = VirtualClock()

    def slow(rate: float) -> Point:
        clock.sleep_until(clock.now() + 20.0)
        return served(10.0)(rate)

    found = highest_rate(slow, 1.0, 3.0, most_seconds=50.0, clock=clock)
    assert [each.offered for each in found.points] == [3.0, 6.0, 12.0]
    assert (found.rate, found.unsettled) == (6.0, "the search ended after 50 s")


def test_where_nothing_holds_there_is_no_rate() -> None:
    found = highest_rate(
        lambda rate: point(rate, 2.0), 1.0, 8.0, most_points=4, clock=VirtualClock()
    )
    assert [each.offered for each in found.points] == [8.0, 4.0, 2.0, 1.0]
    assert found.rate is None
    assert found.unsettled is not None


def test_what_was_found_before_an_interruption_is_kept() -> None:
    found = Search()

    def interrupted(rate: float) -> Point:
        if rate > 5.0:
            raise KeyboardInterrupt
        return served(10.0)(rate)

    with pytest.raises(KeyboardInterrupt):
        highest_rate(interrupted, 1.0, 2.0, clock=VirtualClock(), found=found)
    assert [each.offered for each in found.points] == [2.0, 4.0]
    assert found.rate == 4.0
