"""How a device is timed: contestants in CUDA graphs, in turns, over more input than caches hold.

Each row is written as soon as it is there, so that a benchmark that is stopped keeps what it had.
"""

import contextlib
import gc
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from packrank.bench.timing import turns
from packrank_kernels.testing import TOLERANCE, assert_close

T = TypeVar("T")
ROUNDS, LEAST_ROUNDS = 12, 5
WAKING_S = 0.5
SAMPLE_S = 1.5e-3  # events resolve half a microsecond; a sample is long enough to forget that
ROTATED_BYTES = 4 * 60 * 2**20  # several times the L2 of any GPU there is
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Contestant:
    """What is timed.

    Attributes:
        calls: made one after the other, each on inputs of its own.
        count: units of work in all of them; times are divided by it.
        view: of a call's result, what is compared with the reference.
        tolerance: of that, relative to the largest magnitude; None for that of its dtype.
        graph: whether the calls are captured; without, launches count too.
        facts: further fields of its row.
        graphs: of the engine, what captures packs while it runs, if anything does.
    """

    calls: list[Callable[[], Any]]
    count: float = 0.0
    view: Callable[[Any], Tensor] = lambda result: result
    tolerance: float | None = None
    graph: bool = True
    facts: dict[str, Any] = field(default_factory=dict)
    graphs: Any = None

    @property
    def work(self) -> float:
        return self.count or len(self.calls)


class Session:
    """One benchmark's run: its device, its time, the ceilings measured before, and its rows."""

    def __init__(self, rows: Path, ceilings: Path, seconds: float, *, dry: bool) -> None:
        self.dry = dry
        self.device = torch.device("cpu" if dry else "cuda")
        self.ceilings: dict[str, float] = (
            json.loads(ceilings.read_text()) if ceilings.is_file() else {}
        )
        self.failures = 0
        self.chosen: list[str] = []  # the only shapes to run, if any
        self._is_warm = False
        self._deadline = time.monotonic() + seconds
        self._ceilings_file, self._rows = ceilings, rows

    def shapes(self, every: Iterable[str]) -> list[str]:
        """Those that are chosen, in their order, else all; on a dry run the first and the last."""
        return [one for one in every if one in self.chosen] if self.chosen else self.some(every)

    def some(self, items: Iterable[T]) -> list[T]:
        """All of them; on a dry run the first and the last."""
        every = list(items)
        return every[:1] + every[1:][-1:] if self.dry else every

    def needs(self, package: str, purpose: str) -> bool:
        """Whether a package is there; says what is left out where it is not."""
        if find_spec(package) is not None:
            return True
        print(f"left out, {package} is not installed: {purpose}", flush=True)
        return False

    def has_time_for(self, case: str) -> bool:
        """Whether a case may begin; says so where it may not."""
        if time.monotonic() < self._deadline:
            return True
        print(f"left out, the time is used up: {case}", flush=True)
        return False

    @contextlib.contextmanager
    def guard(self, case: str) -> Iterator[None]:
        """Report what goes wrong with a case, and go on."""
        try:
            yield
        except Exception as error:
            self.fail(case, error)
        finally:
            self.free()

    def fail(self, what: str, error: Exception) -> None:
        """Report a failure and go on; the program's exit status will tell."""
        self.failures += 1
        sentence = " ".join(str(error).split())[:500]
        print(f"FAILED {what}: {type(error).__name__}: {sentence}", flush=True)
        try:
            self._synchronize()
        except RuntimeError:
            raise SystemExit("the device no longer answers this process") from None

    def seconds(self, call: Callable[[], Any]) -> float:
        """The host's time for one call."""
        return self._by_the_host(call, 1)

    def free(self) -> None:
        """Give memory back that nobody holds."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def headline(self, text: str) -> None:
        """A sentence for the summary."""
        print(text, flush=True)
        self.write({"headline": text})

    def write(self, record: dict[str, Any]) -> None:
        with self._rows.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def keep_ceilings(self) -> None:
        self._ceilings_file.write_text(json.dumps(self.ceilings) + "\n")

    def possible_s(
        self, dtype: torch.dtype, operations: float, moved: float, over: str = "copy"
    ) -> dict[str, Any]:
        """Least seconds by the measured ceilings, and which of them it is."""
        name = str(dtype).removeprefix("torch.")
        times = {
            limit: amount / self.ceilings[ceiling]
            for limit, amount, ceiling in (
                ("operations", operations, name),
                ("bytes", moved, over),
            )
            if amount and ceiling in self.ceilings
        }
        if not times:
            return {}
        bound = max(times, key=lambda limit: times[limit])
        return {"possible_s": times[bound], "bound_by": bound}

    def race(
        self,
        bench: str,
        case: str,
        contestants: dict[str, Contestant],
        *,
        amount: float,
        unit: str,
        dtype: torch.dtype = torch.float16,
        operations: float = 0.0,
        moved: float = 0.0,
        over: str = "copy",
        expected: Tensor | None = None,
        wall: bool = False,
        rounds: int = ROUNDS,
    ) -> dict[str, float]:
        """Check the contestants, let them take turns, and write a row for each.

        Args:
            bench: the benchmark.
            case: what all of them do.
            contestants: by name; "packrank" is what the others are compared with.
            amount: `unit`s in one unit of work: rates are `unit`s a second.
            unit: "TFLOP", "GB", "pairs"...
            dtype: names the ceiling of operations.
            operations: of one unit of work; together with `moved` they give the possible time.
            moved: bytes that one unit of work must read and write.
            over: names the ceiling of bytes.
            expected: what the first call must return.
            wall: take the host's clock around calls as they are, in place of CUDA graphs.
            rounds: how often each has its turn.

        Returns:
            Median seconds of one unit of work by name, of those that could run.
        """
        ready = {}
        for name, contestant in contestants.items():
            try:
                if expected is not None:
                    self._check(contestant, expected)
                ready[name] = self.prepare(contestant, wall)
            except Exception as error:
                self.fail(f"{bench}, {case}, {name}", error)
        times = self._take_turns(ready, wall, 2 if self.dry else rounds)
        limit = self.possible_s(dtype, operations, moved, over)
        medians: dict[str, float] = {}
        for name, seconds in times.items():
            each = np.array(seconds) / contestants[name].work
            median = medians[name] = float(np.median(each))
            row = {
                "bench": bench,
                "case": case,
                "contestant": name,
                "median_s": median,
                "p20_s": float(np.quantile(each, 0.2)),
                "p80_s": float(np.quantile(each, 0.8)),
                "rate": amount / median,
                "unit": f"{unit}/s",
                **contestants[name].facts,
                **captured(contestants[name].graphs),
                **limit,
            }
            if limit:
                row["share_of_ceiling"] = limit["possible_s"] / median
            if "packrank" in times:
                # Of rounds, not of medians: what a round's noise did to both cancels.
                ours = np.array(times["packrank"]) / contestants["packrank"].work
                row["packrank_is_faster"] = float(np.median(each / ours))
            self.write(row)
            share = f"{row['share_of_ceiling']:7.1%}" if limit else ""
            print(
                f"{bench}, {case}: {name:28} {median * 1e6:10.1f} us "
                f"{row['rate']:9.4g} {row['unit']} {share}",
                flush=True,
            )
        return medians

    def _check(self, contestant: Contestant, expected: Tensor) -> None:
        # Freed at once: the allocator hands the same block out for the result, so that what is
        # not written stays NaN.
        torch.full_like(expected, torch.nan)
        actual = contestant.view(contestant.calls[0]())
        tolerance = contestant.tolerance
        if tolerance is None:  # twice what the tests allow: peers round once more
            tolerance = 2 * TOLERANCE[actual.dtype]
        assert_close(actual, expected, tolerance)

    def prepare(self, contestant: Contestant, wall: bool) -> Callable[[], Any]:
        """What makes all of its calls: as they are, or from a graph."""

        def plain() -> list[Any]:
            return [call() for call in contestant.calls]

        plain()  # compilation, handles, memory
        if wall or not contestant.graph or self.device.type == "cpu":
            return plain
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            plain()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # The outer context restores the stream where a capture that breaks would not.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
            results = plain()

        def replay(kept: list[Any] = results) -> None:
            # Kept apart, every result has memory of its own, which is not in the cache either.
            graph.replay()

        return replay

    def _take_turns(
        self, ready: dict[str, Callable[[], Any]], wall: bool, rounds: int
    ) -> dict[str, list[float]]:
        """Seconds of all of a contestant's calls, by name and round."""
        clock = self._by_the_host if wall or self.device.type == "cpu" else self._by_events
        if wall or self.device.type == "cpu":
            repeats = dict.fromkeys(ready.values(), 1)
        else:
            until = time.monotonic() + (0.0 if self._is_warm else WAKING_S)
            while True:  # an idle device is clocked down
                for run in ready.values():
                    clock(run, 4)
                if time.monotonic() >= until or not ready:
                    break
            self._is_warm = True
            repeats = {run: math.ceil(SAMPLE_S / clock(run, 2)) for run in ready.values()}
        return turns(
            ready,
            rounds=rounds,
            least_rounds=min(LEAST_ROUNDS, rounds),
            seconds=self._deadline - time.monotonic(),
            warm_up=False,
            clock=lambda run: clock(run, repeats[run]),
        )

    def _by_the_host(self, run: Callable[[], Any], repeats: int) -> float:
        self._synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        self._synchronize()
        return max(time.perf_counter() - start, 1e-9) / repeats

    def _by_events(self, run: Callable[[], Any], repeats: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        return max(start.elapsed_time(end) * 1e-3, 1e-9) / repeats

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def captured(graphs: Any) -> dict[str, Any]:
    """Of a row: how many graphs the engine has, and why it captures no more, if so."""
    if graphs is None:
        return {}
    from packrank.runtime.capture import broken

    reason = broken()
    return {"num_graphs": graphs.num_graphs} | ({"capture_broken": reason} if reason else {})


def num_sets(bytes_of_one: int, dry: bool) -> int:
    """How many input sets to rotate through so that none is still in the L2 when it is read."""
    return 1 if dry else max(2, math.ceil(ROTATED_BYTES / bytes_of_one))
