"""Another package that scores pairs, and what all of them are opened with."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from packrank.bench.subjects.texts import Pairs
from packrank.bench.timing import clock_of

Logits = NDArray[np.float32]

_BATCHES = (32, 64, 128, 256, 512, 1024)
_WORSE = 1.1  # times the best so far, after which larger batches are not tried


class CannotRun(Exception):
    """A package cannot run here, or not this model: in a sentence."""


@dataclass(frozen=True, eq=False)
class Peer:
    """A package, open.

    Attributes:
        name: with its precision and its batch size.
        dtype: "float32", "float16", "bfloat16" or "int8".
        score: raw logits of pairs, in their order.
    """

    name: str
    dtype: str
    score: Callable[[Pairs], Logits]


@dataclass(frozen=True)
class Task:
    """What peers are opened for.

    Attributes:
        folder: of the model.
        device: where it runs.
        max_length: tokens that pairs are cut to; None: as the model says.
        pairs: on which batch sizes are tried, and integers calibrated.
    """

    folder: Path
    device: torch.device
    max_length: int | None
    pairs: Pairs

    @property
    def precisions(self) -> list[str]:
        """Dtypes that the device multiplies in, but integers."""
        return ["float32", "bfloat16", *(["float16"] if self.device.type == "cuda" else [])]

    @property
    def uneven(self) -> Pairs:
        """The shortest pair and the longest: in one batch hardly anything but padding."""
        ordered = sorted(self.pairs, key=_characters)
        return [ordered[0], ordered[-1]]


@dataclass(frozen=True)
class Variant:
    """A way to run a package.

    Attributes:
        name: of package and precision.
        dtype: see `Peer`.
        open: opens it; raises CannotRun, or whatever the package raises.
    """

    name: str
    dtype: str
    open: Callable[[], Peer]


def need(module: str, otherwise: str) -> None:
    """Raise CannotRun with a sentence unless a module is installed; it is not imported."""
    if not is_installed(module):
        raise CannotRun(otherwise)


def is_installed(module: str) -> bool:
    """Whether a module can be found; of a package in a package both are looked for."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def on_cpu_only(task: Task, package: str) -> None:
    """Raise CannotRun on any other device."""
    if task.device.type != "cpu":
        raise CannotRun(f"{package} is raced on a CPU only")


def expect_one_logit(count: int) -> None:
    """Raise CannotRun unless a model gives one logit of a pair."""
    if count != 1:
        raise CannotRun(f"the model gives {count} logits of a pair, and peers race on one")


def in_batches(pairs: Pairs, batch: int, run: Callable[[Pairs], Logits]) -> Logits:
    """Logits in the order of the pairs, of batches sorted by length."""
    logits = np.empty(len(pairs), dtype=np.float32)
    for places in batches(pairs, batch):
        logits[places] = run([pairs[place] for place in places])
    return logits


def batches(pairs: Pairs, batch: int) -> list[NDArray[np.int64]]:
    """Places of pairs, the longest first, so many at a time."""
    order = np.argsort([-_characters(pair) for pair in pairs], kind="stable")
    return [order[start : start + batch] for start in range(0, len(pairs), batch)]


def best_batch(task: Task, usual: int, score: Callable[[Pairs, int], object]) -> int:
    """The batch size at which a CUDA device is fastest; on a CPU the usual one.

    Args:
        task: its pairs are scored.
        usual: pairs of a batch.
        score: pairs, in batches of so many.
    """
    if task.device.type != "cuda":
        return usual
    times: dict[int, float] = {}
    clock = clock_of(task.device)
    for batch in _BATCHES:
        try:
            score(task.pairs[:batch], batch)
            times[batch] = clock(partial(score, task.pairs, batch))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if times[batch] > _WORSE * min(times.values()) or batch >= len(task.pairs):
            break
    if not times:
        raise CannotRun(f"the device has no memory for {_BATCHES[0]} pairs at a time")
    return min(times, key=lambda batch: times[batch])


def _characters(pair: tuple[str, str]) -> int:
    return len(pair[0]) + len(pair[1])
