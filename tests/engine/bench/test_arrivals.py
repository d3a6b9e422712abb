"""Arrivals are Poisson's, and a window counts each of them once."""

from itertools import islice

import numpy as np
import pytest

from packrank.bench.load.arrivals import poisson, schedule


def test_gaps_are_exponential_and_independent() -> None:
    times = list(islice(poisson(8.0, 1), 20_000))
    gaps = np.diff([0.0, *times])
    below = 1 - np.exp(-8 * np.sort(gaps))  # uniform, if they are; by Kolmogorov and Smirnov
    apart = np.abs(below - (np.arange(len(gaps)) + 0.5) / len(gaps)).max()
    assert apart * len(gaps) ** 0.5 < 1.63  # at the level of 1 %
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 3 / len(gaps) ** 0.5


def test_a_seed_has_its_times() -> None:
    first, again, other = (list(islice(poisson(3.0, seed), 9)) for seed in ([7, 0], [7, 0], [7, 1]))
    assert first == again != other


TIMES = [0.5, 1.5, 2.0, 2.5, 3.5, 4.5, 6.0, 7.0, 20.0, 30.0]


@pytest.mark.parametrize(
    ("least_count", "most", "measured", "closes"),
    [
        (0, 99.0, [2.0, 2.5, 3.5], 4.0),
        (3, 99.0, [2.0, 2.5, 3.5], 4.0),
        (4, 99.0, [2.0, 2.5, 3.5, 4.5], 6.0),
        (6, 99.0, [2.0, 2.5, 3.5, 4.5, 6.0, 7.0], 20.0),
        (6, 10.0, [2.0, 2.5, 3.5, 4.5, 6.0, 7.0], 12.0),
        (7, 10.0, [2.0, 2.5, 3.5, 4.5, 6.0, 7.0], 12.0),
        (9, 1.0, [2.0, 2.5, 3.5], 4.0),
    ],
)
def test_a_window_stays_open_for_the_count(
    least_count: int, most: float, measured: list[float], closes: float
) -> None:
    plan = schedule(iter(TIMES), 2.0, 2.0, least_count, most)
    assert (plan.warm_up, plan.measured) == ([0.5, 1.5], measured)
    assert (plan.opens, plan.closes) == (2.0, closes)
    assert [*plan.warm_up, *plan.measured, *plan.drain] == TIMES


def test_the_rate_of_a_window_is_unbiased_by_its_end() -> None:
    """Of five arrivals the time up to the fifth would give a rate a quarter too high."""
    rates = []
    for seed in range(4000):
        plan = schedule(poisson(1.0, seed), 0.0, 0.0, 5, 1e9)
        assert len(plan.measured) == 5
        rates.append(5 / plan.closes)
    error = np.std(rates) / len(rates) ** 0.5
    assert abs(np.mean(rates) - 1.0) < 4 * error
