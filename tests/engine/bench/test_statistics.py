"""Two runs of the same thing are no different; one that is a tenth slower is, but for bad luck."""

import math
import statistics

import numpy as np
import pytest

from packrank.bench.shown.statistics import compared, holm, median, quantiles, spread


def shared_machine(random: np.random.Generator, count: int, middle: float = 0.03) -> list[float]:
    """Times of rounds as a shared machine has them; `middle` is their interquartile range.

    Skewed jitter, now and then a stall by a tenth or more, and a level that wanders.
    """
    scale = middle / 1.75
    jitter = scale * (random.gamma(4.0, 0.5, count) - 2.0)
    stalls = (random.random(count) < 0.07) * random.pareto(3.0, count) * 0.1
    level = random.normal(0.0, 0.2 * scale) + np.cumsum(random.normal(0.0, 0.15 * scale, count))
    return [float(each) for each in 3.0 * np.exp(jitter + stalls + level)]


def queue(random: np.random.Generator, count: int, busy: float = 0.6) -> list[float]:
    """Latencies of queries that wait behind each other, by Lindley's recursion."""
    waited, found = 0.0, []
    for pause in random.exponential(1 / busy, count):
        waited = max(0.0, waited + 1.0 - pause)
        found.append(waited + 1.0)
    return found


def test_what_the_noise_of_these_tests_is_like() -> None:
    random = np.random.default_rng(1)
    spreads = [spread(shared_machine(random, 400)) for _ in range(50)]
    assert 0.025 < statistics.median(spreads) < 0.06


def test_of_few_numbers() -> None:
    samples = [4.0, 1.0, 2.0, 8.0, 5.0]
    assert median(samples) == 4.0
    assert median([1.0, 2.0]) == 1.5
    assert quantiles(samples, 0.0, 0.25, 0.9, 1.0) == pytest.approx([1.0, 2.0, 6.8, 8.0])
    assert spread(samples) == pytest.approx((5 - 2) / 4)
    assert spread([3.0]) == spread([0.0, 0.0]) == 0.0
    assert spread([-1.0, 0.0, 1.0]) == math.inf


def test_the_ratio_is_the_median_of_all() -> None:
    # Powers of two: 1, 2, 3 less 0, 1, 2 each are 1 2 3 0 1 2 -1 0 1, of which 1 is in the middle.
    assert compared([1, 2, 4], [2, 4, 8]).ratio == pytest.approx(2.0)
    random = np.random.default_rng(2)
    a, b = shared_machine(random, 7), shared_machine(random, 9)
    by_hand = statistics.median(math.log(y / x) for x in a for y in b)
    assert compared(a, b).ratio == pytest.approx(math.exp(by_hand))


def test_scale_does_not_count_and_order_inverts() -> None:
    random = np.random.default_rng(3)
    for count, other in ((5, 5), (5, 12), (8, 300)):
        a, b = shared_machine(random, count), shared_machine(random, other)
        found = compared(a, b)
        larger = compared([1e9 * each for each in a], [1e9 * each for each in b])
        assert larger.ratio == pytest.approx(found.ratio, rel=1e-12)
        assert (larger.low, larger.high) == pytest.approx((found.low, found.high), rel=1e-9)
        back = compared(b, a)
        assert back.ratio == pytest.approx(1 / found.ratio, rel=1e-12)
        assert (back.low, back.high) == pytest.approx((1 / found.high, 1 / found.low), rel=1e-9)
        assert back.p == found.p
        assert found.low < found.ratio < found.high
        assert compared(a, b) == found


@pytest.mark.parametrize("count", [5, 8, 12])
def test_two_runs_of_the_same_thing_are_no_different(count: int) -> None:
    random = np.random.default_rng(count)
    found = [
        compared(shared_machine(random, count), shared_machine(random, count)) for _ in range(1000)
    ]
    assert sum(each.different for each in found) <= 0.05 * len(found)
    # The interval holds the truth as often as it says, and is not merely wide.
    held = sum(each.low <= 1 <= each.high for each in found)
    assert 0.95 * len(found) <= held < len(found)


def test_nor_is_any_row_of_a_table() -> None:
    random = np.random.default_rng(4)
    wrong = 0
    for _ in range(200):
        rows = [compared(shared_machine(random, 8), shared_machine(random, 8)) for _ in range(8)]
        adjusted = holm([row.p for row in rows])
        wrong += any(row.differs(p) for row, p in zip(rows, adjusted, strict=True))
    assert wrong <= 0.05 * 200


def test_nor_are_latencies_that_hang_together() -> None:
    random = np.random.default_rng(5)
    found = [compared(queue(random, 240), queue(random, 240)).different for _ in range(300)]
    assert sum(found) <= 0.05 * 300


@pytest.mark.parametrize(("count", "middle"), [(5, 0.02), (8, 0.03), (12, 0.04)])
def test_a_tenth_slower_is_found_19_times_of_20(count: int, middle: float) -> None:
    random = np.random.default_rng(count)
    found = 0
    for _ in range(300):
        a, b = (shared_machine(random, count, middle) for _ in range(2))
        each = compared(a, [1.1 * time for time in b])
        found += each.different and each.ratio > 1
    assert found >= 0.95 * 300


def test_and_in_a_table_of_twenty() -> None:
    random = np.random.default_rng(6)
    found = 0
    for _ in range(100):
        same = [compared(shared_machine(random, 12), shared_machine(random, 12)) for _ in range(19)]
        b = [1.1 * time for time in shared_machine(random, 12)]
        rows = [compared(shared_machine(random, 12), b), *same]
        found += rows[0].differs(holm([row.p for row in rows])[0])
    assert found >= 95


def test_a_stall_of_the_faster_run_hides_nothing() -> None:
    a, b = [1.0, 1.01, 0.99, 1.0, 3.0], [1.1, 1.11, 1.09, 1.1, 1.12]
    assert compared(a, b).different
    assert not compared(a, [1.0, 0.995, 1.01, 1.0, 1.005]).different


def test_less_than_a_hundredth_is_no_difference() -> None:
    assert not compared([1.0] * 5, [1.0] * 5).different
    assert not compared([1.0] * 5, [1.009] * 5).different
    found = compared([1.0] * 5, [1.02] * 5)
    assert found.different
    assert (found.ratio, found.low, found.high) == pytest.approx((1.02, 1.02, 1.02))


def test_one_sample_each_tells_nothing() -> None:
    found = compared([1.0], [7.0])
    assert (found.low, found.high, found.p, found.different) == (0.0, math.inf, 1.0, False)
    assert not compared([1.0], [1.02, 0.97]).different


@pytest.mark.parametrize("samples", [[], [1.0, 0.0], [-1.0], [math.nan], [1.0, math.inf]])
def test_what_has_no_logarithm_is_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="numbers above 0"):
        compared([1.0, 2.0], samples)


def test_holm() -> None:
    # In order .01, .03, .04 count thrice, twice and once, and never less than the one before.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def beside_work(
    random: np.random.Generator, count: int, slope: float = 0.7
) -> tuple[list[float], list[float]]:
    """Rates of a machine whose mood wanders by a tenth, and of fixed work right beside them."""
    mood = np.zeros(count)
    for half in (1, 4, 16):  # as much within a round or two as within all: 1/f noise
        keep = 0.5 ** (1 / half)
        step = random.normal(0, 0.05)
        for n in range(count):
            mood[n] += step
            step = keep * step + math.sqrt(1 - keep * keep) * random.normal(0, 0.05)
    rates = slope * mood + random.normal(0, 0.04, count)
    rates -= (random.random(count) < 0.07) * random.pareto(3.0, count) * 0.1
    work = mood + random.normal(0, 0.02, count)
    return [float(each) for each in np.exp(rates)], [float(each) for each in np.exp(work)]


def test_what_fixed_work_explains_is_the_machines() -> None:
    random = np.random.default_rng(7)
    raw = same = found = 0
    for _ in range(200):
        (a, by_a), (b, by_b) = (beside_work(random, 48) for _ in range(2))
        slower = [rate / 1.1 for rate in b]
        raw += compared(a, b).different
        same += compared(a, b, by_a, by_b).different
        each = compared(a, slower, by_a, by_b)
        found += each.different and each.ratio < 1
    assert raw > 0.1 * 200  # of moods alone
    assert same <= 0.05 * 200
    assert found >= 0.95 * 200


def test_work_that_explains_nothing_changes_nothing() -> None:
    random = np.random.default_rng(8)
    a, b = (shared_machine(random, 36) for _ in range(2))
    steady = [5.0] * 36
    assert compared(a, b, steady, steady) == compared(a, b)
    assert compared(a, b, steady[1:], steady) == compared(a, b)  # not one a sample
    few = [float(each) for each in random.uniform(1, 2, 9)]
    assert compared(a[:9], b[:9], few, few) == compared(a[:9], b[:9])


def test_stalls_do_not_tell_how_work_follows_the_machine() -> None:
    random = np.random.default_rng(9)
    (a, by_a), (b, by_b) = (beside_work(random, 36) for _ in range(2))
    before = compared(a, b, by_a, by_b).ratio
    stalled = [rate / 3 if n % 9 == 4 else rate for n, rate in enumerate(a)]
    assert compared(stalled, b, by_a, by_b).ratio == pytest.approx(before, abs=0.03)
