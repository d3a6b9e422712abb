"""What a few noisy samples say: how far apart two runs are, and whether that is more than noise.

Rounds are few, their noise has a tail (a neighbour takes the processor), and it drifts. So the
difference of two runs is the Hodges-Lehmann estimate on logarithms, the median of all differences
across, and its yardstick the median of all differences within: Fried and Dehling's robust test
(2011). A stall or two move neither. A rank test needs no yardstick, but with five rounds each it
cannot go below p = 0.008, too much for a table of twenty rows, and a single stall of the faster
run spoils it; a bootstrap of five samples has intervals that are too short.

What the quotient of the two may be by chance is simulated once, of noise that is worse than a
quiet machine's: a tenth of the rounds stalled, and a level that wanders, by which the rounds of a
run resemble each other more than those of another. Only its shape counts, the size cancels out.
Where the level wanders by more than rounds jitter, two runs of the same thing do differ. On a
shared machine it does: of a rate in rounds of a quarter of a second the standard deviation was
11 %, and of its median over 36 of them still 5 %. So rounds have fixed work right beside them, and
what that explains, by a regression within the runs, is taken off first: then it was 1.2 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
# Two runs of one program differ by this much for where its memory happens to lie.
NEGLIGIBLE = 0.01
# More samples are cut into so many stretches of time, of which the medians count: queries that
# wait behind each other are no samples of their own.
_STRETCHES = 12
_LEAST_FOR_SLOPE = 20  # samples of both runs
_TOO_SMALL = 0.1
# Of the jitter, by which the level wanders from round to round; and what is left where fixed work
# has explained it.
_WANDER, _LEFT = 0.2, 0.12
_FARTHEST = 100.0  # that an interval of a logarithm reaches

Array = NDArray[np.float64]


def median(samples: Sequence[float]) -> float:
    """The one in the middle, or the mean of the two."""
    return float(np.median(samples))


def quantiles(samples: Sequence[float], *shares: float) -> list[float]:
    """What so large a share of the samples lies under, between two of them in proportion."""
    return [float(value) for value in np.quantile(samples, shares)]


def spread(samples: Sequence[float]) -> float:
    """The interquartile range over the median: the noise of a measurement."""
    low, middle, high = quantiles(samples, 0.25, 0.5, 0.75)
    if high == low:
        return 0.0
    return (high - low) / abs(middle) if middle else math.inf


@dataclass(frozen=True)
class Comparison:
    """Two runs of one measurement.

    Attributes:
        ratio: of the second to the first.
        low, high: it is between these, with 95 % confidence.
        p: how often noise alone makes them differ that much.
    """

    ratio: float
    low: float
    high: float
    p: float

    @property
    def different(self) -> bool:
        """Whether they differ by more than the noise, where no others are compared."""
        return self.differs(self.p)

    def differs(self, p: float) -> bool:
        """The same for a p that `holm` made of this one."""
        return p <= LEVEL and abs(math.log(self.ratio)) > math.log1p(NEGLIGIBLE)


def compared(
    a: Sequence[float],
    b: Sequence[float],
    beside_a: Sequence[float] = (),
    beside_b: Sequence[float] = (),
) -> Comparison:
    """What b is of a.

    Args:
        a: samples in the order of time, all above 0.
        b: the same of the other run.
        beside_a: of each sample of a, what fixed work took or did right beside it; or of none. What
            it explains is the machine's, and taken off: it may differ by more than noise.
        beside_b: the same of b.

    Raises:
        ValueError: a sample is not a number above 0, or there is none.
    """
    first, second, doubt, wander = _logs(a), _logs(b), 0.0, _WANDER
    if len(beside_a) == len(a) and len(beside_b) == len(b):
        moods = _logs(beside_a), _logs(beside_b)
        slope, error = _slope((first, second), moods)
        first, second = first - slope * moods[0], second - slope * moods[1]
        doubt = error * abs(float(np.median(moods[1]) - np.median(moods[0])))
        wander = _LEFT if error else wander
    first, second = _stretches(first), _stretches(second)
    shift = _across(first[None], second[None])[0]
    if first.size == second.size == 1:
        return Comparison(math.exp(shift), 0.0, math.inf, 1.0)  # nothing tells the noise
    yardstick = _within(first[None], second[None])[0]
    chance = _by_chance(*sorted((first.size, second.size)), wander)
    if yardstick:
        more = chance.size - np.searchsorted(chance, max(abs(shift) - doubt, 0.0) / yardstick)
    else:
        more = chance.size if abs(shift) <= doubt else 0
    reach = min(yardstick * np.quantile(chance, 1 - LEVEL) + doubt, _FARTHEST)
    return Comparison(
        math.exp(shift),
        math.exp(shift - reach),
        math.exp(shift + reach),
        float((more + 1) / (chance.size + 1)),
    )


def holm(ps: Sequence[float]) -> list[float]:
    """What each p counts for beside the others: LEVEL limits how often one among all is wrong."""
    adjusted, most = [0.0] * len(ps), 0.0
    for done, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        most = max(most, min(1.0, (len(ps) - done) * ps[place]))
        adjusted[place] = most
    return adjusted


def _logs(samples: Sequence[float]) -> Array:
    values = np.asarray(samples, np.float64)
    if not values.size or not np.isfinite(values).all() or (values <= 0).any():
        raise ValueError("samples that are compared are numbers above 0")
    return np.asarray(np.log(values))


def _stretches(logs: Array) -> Array:
    if logs.size <= _STRETCHES:
        return logs
    return np.array([np.median(part) for part in np.array_split(logs, _STRETCHES)])


def _slope(logs: tuple[Array, Array], moods: tuple[Array, Array]) -> tuple[float, float]:
    """By how much samples follow what is beside them, within each run, and how far that may be off.

    Huber's regression. What is beside is measured too, with noise, by which a slope comes out too
    small: by a tenth, it is taken, beside two standard errors. 0 where few rounds are all there is:
    what fits those by chance would only add noise.
    """
    y, x = (np.concatenate([each - np.median(each) for each in pair]) for pair in (logs, moods))
    if len(y) < _LEAST_FOR_SLOPE or not x.any():
        return 0.0, 0.0
    weights, slope, scale = np.ones_like(y), 0.0, 0.0
    for _ in range(10):
        slope = float((weights * x * y).sum() / (weights * x * x).sum())
        rest = np.abs(y - slope * x)
        scale = 1.4826 * float(np.median(rest))
        weights = 1.0 / np.maximum(1.0, rest / max(1.345 * scale, 1e-12))
    error = scale / math.sqrt(float((weights * x * x).sum()))
    return slope, 2.0 * error + _TOO_SMALL * abs(slope)


def _across(a: Array, b: Array) -> Any:
    """Row by row the median of what each of b is more than each of a."""
    return np.median((b[:, :, None] - a[:, None, :]).reshape(len(a), -1), axis=1)


def _within(a: Array, b: Array) -> Any:
    """Row by row the median of how far two of a, or two of b, are apart."""
    pairs = [
        np.abs(side[:, one] - side[:, other])
        for side in (a, b)
        for one, other in [np.triu_indices(side.shape[1], 1)]
    ]
    return np.median(np.concatenate(pairs, axis=1), axis=1)


@lru_cache(maxsize=64)
def _by_chance(fewer: int, more: int, wander: float, runs: int = 20_000) -> Array:
    """What the quotient is for two runs of the same thing, sorted."""
    random = np.random.default_rng(0)
    a, b = (_noise(random, runs, count, wander) for count in (fewer, more))
    return np.sort(np.abs(_across(a, b)) / _within(a, b))


def _noise(random: np.random.Generator, runs: int, count: int, wander: float) -> Array:
    """Rounds with jitter of 1, one in ten stalled by some 4, at a level that wanders."""
    stalls = random.exponential(4.0, (runs, count)) * (random.random((runs, count)) < 0.1)
    level = random.normal(0.0, wander, (runs, count))
    level[:, 0] *= 2.0  # a run begins where the machine is by then
    jitter = random.standard_normal((runs, count))
    return np.asarray(jitter + stalls + np.cumsum(level, axis=1))
