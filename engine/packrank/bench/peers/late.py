"""Another package that computes MaxSim."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Scores = NDArray[np.float32]

# Of the largest magnitude. Vectors are rounded by half a unit in the last place, and sums of
# many of them less.
_BOUNDS = {"float32": 1e-4, "float16": 1e-3, "bfloat16": 2.0**-8}


@dataclass(frozen=True, eq=False)
class MaxSimPeer:
    """A package, open.

    Attributes:
        name: with its precision.
        dtype: "float32", "float16" or "bfloat16".
        prepare: of a query [Q, D], token vectors [T, D] and the lengths of N documents, which lie
            there end to end: a function that scores them, as numpy has them. What it needs to
            have them laid out for itself is done before.
    """

    name: str
    dtype: str
    prepare: Callable[[Tensor, Tensor, Sequence[int]], Callable[[], Scores]]


def disagreement(peer: MaxSimPeer, found: Scores, expected: Scores) -> str | None:
    """A sentence if scores are too far from the expected ones."""
    bound = _BOUNDS[peer.dtype] * float(np.abs(expected).max())
    distance = float(np.abs(found.astype(np.float64) - expected).max())
    if distance <= bound:
        return None
    return (
        f"{peer.name} does not race: its scores are up to {distance:.2g} from the reference's, "
        f"where {bound:.2g} is allowed"
    )
