"""Where the time of a forward goes, op by op."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from packrank.bench.speed.arithmetic import work_of
from packrank_kernels import OpCall, observed

_RUNS = 3
_T = TypeVar("_T")


@dataclass
class Op:
    """All calls of one op at one shape.

    Attributes:
        name: of the op and its shape.
        part: of the forward; see `arithmetic`.
        calls: how many.
        seconds: that they took.
        operations: of products.
        moved: bytes that must be read and written.
        kernels: names of those that a device ran for it.
    """

    name: str
    part: str
    calls: int = 0
    seconds: float = 0.0
    operations: float = 0.0
    moved: float = 0.0
    kernels: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Profile:
    """A forward, taken apart.

    Attributes:
        ops: slowest first.
        seconds: of the whole.
        waited: of those, for tokens, while no op ran.
        launches: of those, a device did nothing between its kernels; what neither ops nor these
            take is the host's.
    """

    ops: list[Op]
    seconds: float
    waited: float = 0.0
    launches: float = 0.0

    @classmethod
    def on_device(cls, ops: list[Op], seconds: float, waited: float, forward: float) -> "Profile":
        """Of a device, which computes while the host waits for the next tokens: it counts first.

        Args:
            ops: with the seconds that the device took for them.
            seconds: of the whole.
            waited: of those, for tokens, whatever the device did meanwhile.
            forward: that the model alone takes, from ids to logits; what of these the device did
                nothing are launches.
        """
        busy = sum(op.seconds for op in ops)
        launches = max(min(forward, seconds) - busy, 0.0)
        return cls(ops, seconds, min(waited, max(seconds - busy - launches, 0.0)), launches)

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of each part: of ops, of what was waited for, and of all else, "host"."""
        found: dict[str, float] = {}
        for op in self.ops:
            found[op.part] = found.get(op.part, 0.0) + op.seconds
        found |= {"launches": self.launches, "tokenizer": self.waited}
        return found | {"host": max(self.seconds - sum(found.values()), 0.0)}


def counted(call: Callable[[], object]) -> list[Op]:
    """The ops of a call in their order, a record for each, by arithmetic; no time."""
    order: list[Op] = []

    def count(op: OpCall) -> Any:
        result = op()
        work = work_of(op, result)
        order.append(Op(work.name, work.part, 1, 0.0, work.operations, work.moved))
        return result

    with observed(count):
        call()
    return order


def profiled(call: Callable[[], float], now: Callable[[], float] = time.perf_counter) -> Profile:
    """A call on a CPU, by timers around its ops; the fastest of some runs.

    Args:
        call: runs the same ops in the same order every time; returns how many seconds it waited
            for tokens.
        now: the clock.
    """
    order = counted(call)

    def timed() -> tuple[float, list[float]]:
        times: list[float] = []
        with observed(_timing(times, now)):
            return call(), times

    seconds, (waited, times) = fastest(timed, now)
    for op, taken in zip(order, times, strict=True):
        op.seconds = taken
    return Profile(added(order), seconds, waited)


def fastest(
    call: Callable[[], _T], now: Callable[[], float] = time.perf_counter
) -> tuple[float, _T]:
    """Seconds of the fastest of some runs of a call, and what that one returned."""
    runs = []
    for _ in range(_RUNS):
        start = now()
        returned = call()
        runs.append((now() - start, returned))
    return min(runs, key=lambda run: run[0])


def added(order: Iterable[Op]) -> list[Op]:
    """Calls of one name added up, slowest first."""
    found: dict[str, Op] = {}
    for one in order:
        op = found.setdefault(one.name, Op(one.name, one.part))
        op.calls += one.calls
        op.seconds += one.seconds
        op.operations += one.operations
        op.moved += one.moved
    return sorted(found.values(), key=lambda op: -op.seconds)


def _timing(times: list[float], now: Callable[[], float]) -> Callable[[OpCall], Any]:
    def timed(op: OpCall) -> Any:
        start = now()
        result = op()
        times.append(now() - start)
        return result

    return timed
