"""Whether a run may be relied upon: what else ran, whether the machine was slowed, and drift."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from packrank.bench.load.clock import Clock, MachineClock
from packrank.bench.report import Verdict
from packrank.bench.watch.nvml import Gpu
from packrank.bench.watch.system import System

_OTHERS, _STEAL = 0.05, 0.02  # of the CPUs' time
_LOAD = 0.5  # processes that are ready, a CPU
_FALL = 0.1  # of a clock
_DRIFT = 0.05  # of rates
_OVER = 0.05  # of a ceiling
_SLOWED, _BUSY = 0.1, 0.1  # of the looks at a GPU; of it, before anything of ours runs there
_LEAST_ROUNDS = 4
_CPU_CLOCK = "CPU clock, Hz"


@dataclass(frozen=True)
class Counts:
    """What the system has counted up to a moment; None where it does not say.

    Attributes:
        at: the moment.
        busy_s: time of the CPUs in which anything ran.
        steal_s: in which something should have run, and the hypervisor gave them to others.
        ours_s: that this process and those that it started took.
        throttled: how often the CPUs slowed down, being hot.
    """

    at: float
    busy_s: float | None
    steal_s: float | None
    ours_s: float | None
    throttled: int | None


def counts(system: System, cpus: Collection[int], now: float) -> Counts:
    """Look now."""
    ticks = os.sysconf("SC_CLK_TCK")
    busy = steal = None
    lines = [line.split() for line in (system.text("proc/stat") or "").splitlines()]
    for name, *fields in filter(None, lines):
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cpus:
            # user, which has guests in it, nice, system, idle, iowait, irq, softirq, steal
            user, nice, kernel, _, _, irq, softirq, *more = map(int, fields[:8])
            busy = (busy or 0) + user + nice + kernel + irq + softirq
            steal = (steal or 0) + sum(more)
    throttles = [
        system.number(f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count")
        for cpu in cpus
    ]
    known = [count for count in throttles if count is not None]
    return Counts(
        now,
        None if busy is None else busy / ticks,
        None if steal is None else steal / ticks,
        _ours(system, ticks),
        sum(known) if known else None,
    )


def _ours(system: System, ticks: int) -> float | None:
    """CPU time of this process, of its descendants, and of those of theirs that have ended."""
    me = _process(system.text("proc/self/stat"))
    if me is None:
        return None
    everyone = {
        found[0]: found
        for name in system.names("proc")
        if name.isdigit() and (found := _process(system.text(f"proc/{name}/stat"))) is not None
    }
    children: dict[int, list[int]] = {}
    for pid, (_, parent, _) in everyone.items():
        children.setdefault(parent, []).append(pid)
    total, coming = me[2], children.get(me[0], [])
    while coming:
        pid = coming.pop()
        total += everyone[pid][2]
        coming += children.get(pid, [])
    return total / ticks


def _process(stat: str | None) -> tuple[int, int, int] | None:
    """Its id, its parent's, and ticks of it and of its children that have ended."""
    before, _, after = (stat or "").rpartition(")")  # "4321 (a name, with blanks) S 1 ..."
    fields = after.split()
    return (
        (int(before.split()[0]), int(fields[1]), sum(map(int, fields[11:15]))) if fields else None
    )


def clock_hz(system: System, cpus: Collection[int]) -> float | None:
    """Of the fastest CPU: the others may have nothing to do."""
    files = [
        system.number(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq") for cpu in cpus
    ]
    found = [1e3 * kilohertz for kilohertz in files if kilohertz is not None]
    if not found:
        lines = [line.partition(":") for line in (system.text("proc/cpuinfo") or "").splitlines()]
        found = [1e6 * float(mhz) for name, _, mhz in lines if name.strip() == "cpu MHz"]
    return max(found, default=None)


def drift(rounds: Sequence[Sequence[float]]) -> float | None:
    """By which share rates rose from the first half of interleaved rounds to the second.

    Args:
        rounds: rates of each measurement, in the order of the rounds that they share.

    Returns:
        None where it is small, or no more than rounds differ anyway.
    """
    rates = [np.log(each) for each in rounds if len(each) >= _LEAST_ROUNDS and min(each) > 0]
    if not rates:
        return None
    count = min(map(len, rates))
    # What all measurements of a round have in common is the machine's.
    common = np.median([each[:count] - np.median(each[:count]) for each in rates], axis=0)
    halves = common[: count // 2], common[(count + 1) // 2 :]
    rise = float(halves[1].mean() - halves[0].mean())
    error = float(np.sqrt(sum(half.var(ddof=1) / len(half) for half in halves)))
    return float(np.expm1(rise)) if abs(rise) > max(_DRIFT, 3 * error) else None


class Watch:
    """Looks at the machine before, during and after a run. It costs some milliseconds a look.

    Attributes:
        seen: at each look, by what it is and its unit; what nothing says is not there.
    """

    def __init__(
        self,
        system: System | None = None,
        gpus: Sequence[Gpu] = (),
        cpus: Collection[int] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Begin, before anything runs.

        Args:
            system: whose files are read.
            gpus: that are used, by `nvml.gpus`.
            cpus: that may be used; unless said otherwise, those of this process.
            clock: the machine's, unless another is given.
        """
        self._system, self._gpus = system or System(), list(gpus)
        self._cpus = sorted(os.sched_getaffinity(0) if cpus is None else cpus)
        self._clock = clock or MachineClock()
        load = (self._system.text("proc/loadavg") or "").split()
        self._load = float(load[0]) if load else None
        self._busy = [gpu.busy() for gpu in self._gpus]
        self.seen: dict[str, list[float]] = {}
        self._slowed: list[list[list[str]]] = [[] for _ in self._gpus]
        self._first = self._counts()

    def look(self) -> None:
        """Look at clocks, while something runs; between any two rounds, for instance."""
        self._note(_CPU_CLOCK, clock_hz(self._system, self._cpus))
        for number, gpu in enumerate(self._gpus):
            self._slowed[number].append(gpu.slowed_by())
            self._note(f"GPU {number} clock, Hz", gpu.clock_hz())
            self._note(f"GPU {number} temperature, C", gpu.celsius())
            self._note(f"GPU {number} power, W", gpu.watts())
            self._note(f"GPU {number} at its power limit, share", gpu.is_power_limited())

    def _note(self, what: str, value: float | None) -> None:
        if value is not None:
            self.seen.setdefault(what, []).append(float(value))

    def verdict(
        self, races: Sequence[Sequence[Sequence[float]]] = (), shares: Sequence[float] = ()
    ) -> Verdict:
        """What speaks against the run up to now.

        Args:
            races: of each the rates of its measurements, in the order of the rounds that they
                share; what raced at another time had other rounds.
            shares: of their ceilings, that measurements came to.
        """
        reasons = [*self._from_counts(), *self._from_clocks(), *self._from_gpus()]
        for rise in map(drift, races):
            if rise is not None:
                way = "rose" if rise > 0 else "fell"
                between = "from the first half of the rounds to the second"
                reasons.append(f"rates {way} by {abs(rise):.0%} {between}")
        if over := sum(share > 1 + _OVER for share in shares):
            reasons.append(
                f"{over} of {len(shares)} measurements came above their ceilings, which were "
                "measured while less was possible"
            )
        return Verdict(not reasons, reasons)

    def _counts(self) -> Counts:
        return counts(self._system, self._cpus, self._clock.now())

    def _from_counts(self) -> list[str]:
        first, last, reasons = self._first, self._counts(), []
        capacity = len(self._cpus) * max(last.at - first.at, 1e-9)
        busy, ours = _rise(first.busy_s, last.busy_s), _rise(first.ours_s, last.ours_s)
        if busy is not None and ours is not None:
            if (others := busy - ours) > _OTHERS * capacity:
                reasons.append(f"other processes took {others / capacity:.0%} of the CPUs' time")
        elif self._load is not None and self._load > _LOAD * len(self._cpus):
            # Only where nothing better is known: it is a mean of the last minute, so of two runs
            # the second would be doubted for the first.
            reasons.append(f"the load was {self._load:g} on {len(self._cpus)} CPUs before it began")
        steal = _rise(first.steal_s, last.steal_s)
        if steal is not None and steal > _STEAL * capacity:
            reasons.append(f"the hypervisor took {steal / capacity:.0%} of the CPUs' time")
        if throttled := _rise(first.throttled, last.throttled):
            reasons.append(f"the CPUs slowed down {throttled:g} times, being hot")
        return reasons

    def _from_clocks(self) -> list[str]:
        clocks = self.seen.get(_CPU_CLOCK, [])
        half = len(clocks) // 2
        if not half:
            return []
        first, last = (float(np.median(each)) for each in (clocks[:half], clocks[-half:]))
        if last > (1 - _FALL) * first:
            return []
        return [f"the CPUs' clock fell from {first / 1e9:.2f} to {last / 1e9:.2f} GHz"]

    def _from_gpus(self) -> list[str]:
        reasons = []
        for gpu, busy, looks in zip(self._gpus, self._busy, self._slowed, strict=True):
            if busy is not None and busy > _BUSY:
                reasons.append(f"{gpu.name} was {busy:.0%} busy before it began")
            for cause in dict.fromkeys(cause for look in looks for cause in look):
                count = sum(cause in look for look in looks)
                if count > _SLOWED * len(looks):
                    reasons.append(
                        f"{gpu.name} was slowed by {cause} at {count} of {len(looks)} looks"
                    )
        return reasons


def _rise(first: float | None, last: float | None) -> float | None:
    return None if first is None or last is None else last - first
