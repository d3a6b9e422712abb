"""SingleStream on a server of known service time."""

from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest
from queueing import FixedService

from packrank.bench.load.clock import VirtualClock
from packrank.bench.load.workloads import Stream, percentiles, single_stream

REQUESTS = [("one", ["a", "b", "c"]), ("two", ["d"]), ("three", ["e", "f"])]


@pytest.mark.parametrize(
    ("seconds", "least_count", "most_seconds", "count"),
    [(5.0, 3, 99.0, 20), (0.0, 7, 99.0, 7), (5.0, 1000, 8.0, 32), (99.0, 3, 8.0, 32)],
)
def test_one_query_at_a_time_waits_for_its_service(
    seconds: float, least_count: int, most_seconds: float, count: int
) -> None:
    clock = VirtualClock()
    target = FixedService(clock, 0.25)
    found = single_stream(
        target,
        REQUESTS,
        seconds=seconds,
        least_count=least_count,
        most_seconds=most_seconds,
        warm_up_s=1.0,
        clock=clock,
    )
    assert found.latencies == [0.25] * count
    assert (found.seconds, found.failures) == (0.25 * count, [])
    names = ["one", "two", "three"]
    assert target.took == [names[place % 3] for place in range(4 + count)]  # 4 warmed it up


@pytest.mark.parametrize(("warm_up_s", "took"), [(0.0, ["one"]), (1e-9, ["one", "two"])])
def test_a_warm_up_is_a_query_at_least(warm_up_s: float, took: list[str]) -> None:
    clock = VirtualClock()
    target = FixedService(clock, 0.25)
    single_stream(target, REQUESTS, seconds=0, least_count=1, warm_up_s=warm_up_s, clock=clock)
    assert target.took == took


def test_a_failure_is_kept_as_a_reason_and_not_as_a_latency() -> None:
    clock = VirtualClock()
    target = FixedService(clock, 0.25, fails=[2, 4])
    found = single_stream(target, REQUESTS, seconds=0.0, least_count=6, warm_up_s=0.25, clock=clock)
    assert found.latencies == [0.25] * 4
    assert found.failures == ["ValueError: no such text"] * 2
    assert found.seconds == 1.5


class Refusing:
    """Refuses at once."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def submit(self, query: str, documents: Sequence[str]) -> Future[None]:
        self._clock.sleep_until(self._clock.now() + 1.0)
        raise ConnectionError("nobody listens")


def test_a_target_that_refuses_everything_ends_it() -> None:
    clock = VirtualClock()
    found = single_stream(Refusing(clock), REQUESTS, least_count=3, seconds=0, clock=clock)
    assert found.latencies == []
    assert found.failures == ["ConnectionError: nobody listens"] * 3


class Interrupted(FixedService):
    """Ctrl-C at the eighth query."""

    def submit(self, query: str, documents: Sequence[str]) -> Future[None]:
        if len(self.arrived) == 7:
            raise KeyboardInterrupt
        return super().submit(query, documents)


def test_what_was_found_before_an_interruption_is_kept() -> None:
    clock, stream = VirtualClock(), Stream()
    with pytest.raises(KeyboardInterrupt):
        single_stream(Interrupted(clock, 0.25), REQUESTS, clock=clock, found=stream)
    assert stream == Stream([0.25] * 3, 0.75)


@pytest.mark.parametrize("count", [1, 2, 9, 10, 19, 20, 99, 100, 101, 1000])
def test_percentiles_are_of_what_was_seen(count: int) -> None:
    latencies = np.random.default_rng(count).permutation(np.arange(1.0, count + 1)).tolist()
    least = {50: 2, 90: 10, 95: 20, 99: 100}
    expected = {f"p{p}": float(-(-p * count // 100)) for p, few in least.items() if count >= few}
    assert percentiles(latencies) == expected
