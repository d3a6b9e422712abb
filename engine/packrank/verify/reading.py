"""What a package makes of a pair, step by step: token ids, then values, then scores."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from packrank.request import Int32

Float32 = NDArray[np.float32]
Pair = tuple[str, str]


class NotCompared(Exception):
    """There is nothing to compare with; the message says what would help."""


@dataclass(frozen=True)
class Reading:
    """A pair, as one package reads and scores it.

    Attributes:
        tokens: ids of the pair, or of query and document where those are read apart.
        values: what is computed of them: the logits [labels]; or token vectors [Q, D] and [L, D].
            None where only tokens are compared.
        scores: [labels], one by late interaction; None where the package has none.
    """

    tokens: tuple[Int32, ...]
    values: tuple[Float32, ...] | None = None
    scores: Float32 | None = None


class Reference(Protocol):
    """Another package's model of the same folder, in float32, a pair at a time."""

    @property
    def name(self) -> str:
        """Of the package, with its version."""
        ...

    @property
    def module(self) -> torch.nn.Module | None:
        """What holds its weights; None where it can only tokenize."""
        ...

    def tokens(self, query: str, document: str) -> tuple[Int32, ...]:
        """Ids, as in `Reading`."""
        ...

    def values(self, query: str, document: str) -> tuple[Float32, ...] | None:
        """Logits or token vectors, as in `Reading`."""
        ...

    def scores(self, values: tuple[Float32, ...]) -> Float32 | None:
        """The last step by itself, of anybody's values."""
        ...


def read(reference: Reference, pair: Pair, *, whole: bool) -> Reading:
    """A pair by a reference; its tokens alone unless it is to be read whole."""
    with torch.inference_mode():
        tokens = reference.tokens(*pair)
        values = reference.values(*pair) if whole else None
        return Reading(tokens, values, None if values is None else reference.scores(values))


def ids_of(ids: object) -> Int32:
    """Ids of one sequence as another package has them: a tensor or a list, [L] or [1, L]."""
    return np.asarray(ids, dtype=np.int32).reshape(-1)


def array_of(values: torch.Tensor) -> Float32:
    """A tensor as float32 on the host."""
    found: Float32 = values.detach().float().cpu().numpy()
    return found
