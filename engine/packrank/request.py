"""The nouns that travel through the engine."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class Sequence:
    """One tokenized input, special tokens included.

    Attributes:
        token_ids: [L] int32.
        token_types: [L] int32.
    """

    token_ids: Int32
    token_types: Int32


@dataclass(frozen=True)
class Pack:
    """Sequences of any length, end to end; T tokens of N sequences.

    Attributes:
        token_ids: [T] int32.
        token_types: [T] int32.
        cu_seqlens: [N + 1] int32. Where each sequence starts, then T.
    """

    token_ids: Int32
    token_types: Int32
    cu_seqlens: Int32

    @property
    def num_sequences(self) -> int:
        """N."""
        return len(self.cu_seqlens) - 1


class Ranked(NamedTuple):
    """A document in its place.

    Attributes:
        index: position of the document among those given.
        score: after the model's activation; higher is better.
        document: the text itself.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    score: float
    document: str
