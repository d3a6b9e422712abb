"""Turns, in order, on a clock that passes only while something runs."""

import pytest
import torch

from packrank.bench import timing
from packrank.bench.timing import by_host, clock_of, repeats_for, turns


class Passing:
    """A clock of whole calls: each takes what it is told."""

    def __init__(self) -> None:
        self.seconds = {"a": 1.0, "b": 2.0}
        self.made: list[str] = []

    def call(self, name: str):
        return lambda: self.made.append(name)

    def clock(self, call) -> float:
        call()
        return self.seconds[self.made[-1]]


def test_every_call_has_its_turn_in_each_round_and_the_first_does_not_count() -> None:
    passing = Passing()
    calls = {name: passing.call(name) for name in "ab"}
    times = turns(calls, rounds=3, clock=passing.clock)
    assert passing.made == list("abababab")
    assert times == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_rounds_end_with_the_time_but_not_before_the_least(monkeypatch) -> None:
    passing, now = Passing(), [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def clock(call) -> float:
        now[0] += 10
        return passing.clock(call)

    calls = {"a": passing.call("a")}
    found = turns(calls, rounds=9, least_rounds=2, seconds=1, warm_up=False, clock=clock)
    assert len(found["a"]) == 2
    now[0] = 0.0
    found = turns(calls, rounds=9, least_rounds=2, seconds=35, warm_up=False, clock=clock)
    assert len(found["a"]) == 4


@pytest.mark.parametrize("cost", [1e-7, 1e-4, 0.3])
@pytest.mark.parametrize("overhead", [0.0, 1e-5])
def test_a_call_repeats_until_it_takes_long_enough(cost: float, overhead: float) -> None:
    asked: list[int] = []

    def call(times: int) -> None:
        asked.append(times)

    def clock(one) -> float:
        one()
        return overhead + cost * asked[-1]

    times = repeats_for(call, 0.1, clock)
    assert times == max(1, round((0.1 - overhead) / cost)) or abs(times * cost - 0.1) < 0.05
    assert sum(asked) * cost < 3.0 or cost > 0.1


def test_what_gets_in_the_way_of_one_call_does_not_count() -> None:
    disturbed = iter([5.0])

    def clock(one) -> float:
        one()
        return 1e-3 * asked[-1] + next(disturbed, 0.0)

    asked: list[int] = []
    assert repeats_for(asked.append, 0.1, clock) == 100


def test_a_gpu_is_waited_for_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its work is only asked for by a call, and would be timed as done when it has not begun."""
    done: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", done.append)
    gpu = torch.device("cuda:1")
    assert clock_of(gpu)(lambda: done.append("work")) >= 0
    assert done == [gpu, "work", gpu]
    assert clock_of(torch.device("cpu")) is by_host
