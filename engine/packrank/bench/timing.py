"""Calls timed in turns, so that a noisy moment hits them all."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch

Call = Callable[[], object]
Clock = Callable[[Call], float]


def by_host(call: Call) -> float:
    """Seconds of a call, by the host's clock."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def clock_of(device: torch.device) -> Clock:
    """The host's clock; of a GPU until it has done all that a call asked of it."""
    if device.type != "cuda":
        return by_host

    def until_done(call: Call) -> float:
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start

    return until_done


def turns(
    calls: Mapping[str, Call],
    *,
    rounds: int,
    least_rounds: int | None = None,
    seconds: float = float("inf"),
    warm_up: bool = True,
    pause_s: float = 0.0,
    clock: Clock = by_host,
    found: dict[str, list[float]] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each call, by name and round.

    Args:
        calls: what is timed; in each round every one has its turn, in this order.
        rounds: how many there are.
        least_rounds: how many there are however long they take; None: all.
        seconds: after which no further round begins.
        warm_up: a round before, which does not count.
        pause_s: after each call: its idle threads may still be spinning.
        clock: what times a call.
        found: where they are kept call by call, so that an interruption loses none.
    """
    times = {} if found is None else found
    times |= {name: [] for name in calls}
    until = time.perf_counter() + seconds
    for number in range(-1 if warm_up else 0, rounds):
        least = rounds if least_rounds is None else least_rounds
        if number >= least and time.perf_counter() >= until:
            break
        for name, call in calls.items():
            taken = clock(call)
            if number >= 0:
                times[name].append(taken)
            if pause_s:
                time.sleep(pause_s)
    return times


def repeats_for(call: Callable[[int], object], seconds: float, clock: Clock = by_host) -> int:
    """How often a call must repeat its work to take about so many seconds.

    Args:
        call: does it as often as it is told.
        seconds: that all of it should take.
        clock: what times it.
    """
    repeats = 1
    while True:
        # The best of some: one that something else got in the way of would tell too few.
        taken = max(min(clock(partial(call, repeats)) for _ in range(3)), 1e-9)
        if taken >= seconds / 4 or repeats >= 1 << 40:
            return max(1, round(repeats * seconds / taken))
        repeats *= max(2, min(int(seconds / taken / 2), 64))
