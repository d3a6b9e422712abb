"""Whether all that race compute the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from packrank.bench.peers.peer import Logits

_EXACT = 1e-4  # of float32, of the largest magnitude
_NARROW = 2.0  # times what torch's own bfloat16 is off
_UNKNOWN = 2.0**-5  # of the largest magnitude, where nobody has shown what bfloat16 is off
_ALIKE = 0.9  # rank correlation of int8
_NAME, _DTYPE = "sentence-transformers (", "bfloat16"  # of the peer that shows it


@dataclass(frozen=True)
class Scored:
    """What one that races says of the pairs.

    Attributes:
        name: its own.
        dtype: that it computes in.
        logits: in the order of the pairs.
    """

    name: str
    dtype: str
    logits: Logits


@dataclass
class Agreement:
    """Who may race.

    Attributes:
        left_out: by name, a sentence on each that is too far from float32.
        remarks: sentences on those that race all the same.
    """

    left_out: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def check(scored: Sequence[Scored], float32: Logits) -> Agreement:
    """Hold logits against the float32 reference.

    In float32 they may be 1e-4 of the largest magnitude away; in bfloat16 and float16 twice as far
    as sentence-transformers is in bfloat16, if that is among them. Of int8, which nobody promises
    more of, the order of pairs is remarked on.

    Args:
        scored: of everyone, packrank included.
        float32: the reference, of the same pairs.
    """
    largest = float(np.abs(float32).max())
    exact = _EXACT * largest
    known = [
        _distance(one.logits, float32)
        for one in scored
        if one.dtype == _DTYPE and one.name.startswith(_NAME)
    ]
    narrow = _NARROW * known[0] if known and np.isfinite(known[0]) else _UNKNOWN * largest
    found = Agreement()
    for one in scored:
        distance = _distance(one.logits, float32)
        bound = {"float32": exact, "int8": np.inf}.get(one.dtype, max(narrow, exact))
        if not np.isfinite(distance):
            found.left_out[one.name] = f"{one.name} does not race: its logits are not finite"
        elif distance > bound:
            found.left_out[one.name] = (
                f"{one.name} does not race: its logits are up to {distance:.2g} from float32's, "
                f"where {bound:.2g} is allowed"
            )
        elif one.dtype == "int8" and (alike := rank_correlation(one.logits, float32)) < _ALIKE:
            found.remarks.append(
                f"{one.name} orders pairs otherwise than float32: rank correlation {alike:.2f}"
            )
    return found


def rank_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Spearman's; 0 where one of them orders nothing."""
    ranks = np.stack([_ranks(a), _ranks(b)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    spread = float(np.sqrt(np.square(ranks).sum(axis=1).prod()))
    return float(ranks[0] @ ranks[1]) / spread if spread else 0.0


def _ranks(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Equal values share the mean of their ranks."""
    _, places, counts = np.unique(x, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def _distance(a: Logits, b: Logits) -> float:
    return float(np.abs(a.astype(np.float64) - b).max()) if a.shape == b.shape else np.inf
