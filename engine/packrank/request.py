"""The nouns that travel through the engine."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from packrank.documents import Text
from packrank.work import Calls, Work

Int32 = NDArray[np.int32]
Kind = Literal["text", "prompt", "special", "marker", "expansion"]


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
        queries: [N] int32 or None. Sequences of one number begin with the same tokens, those of one
            query; None: no two do.
        shared: [N] int32, None with `queries`. With how many tokens those of one query begin alike,
            the same number for all of them; less than any of their lengths.
    """

    token_ids: Int32
    token_types: Int32
    cu_seqlens: Int32
    queries: Int32 | None = None
    shared: Int32 | None = None

    @classmethod
    def of(cls, sequences: Iterable[Sequence]) -> "Pack":
        """These sequences, end to end."""
        nobody = np.zeros(0, dtype=np.int32)
        every = list(sequences)
        lengths = [len(sequence.token_ids) for sequence in every]
        return cls(
            token_ids=np.concatenate([nobody, *(x.token_ids for x in every)]),
            token_types=np.concatenate([nobody, *(x.token_types for x in every)]),
            cu_seqlens=np.cumsum([0, *lengths], dtype=np.int32),
        )

    @classmethod
    def joined(cls, packs: list["Pack"]) -> "Pack":
        """The sequences of several, end to end; those of two packs share nothing."""
        if len(packs) == 1:
            return packs[0]
        starts = np.cumsum([0, *(len(pack.token_ids) for pack in packs)])
        ends = [pack.cu_seqlens[1:] + start for pack, start in zip(packs, starts, strict=False)]
        queries, shared = None, None
        if any(pack.queries is not None for pack in packs):
            numbers, first = [], 0
            for pack in packs:
                mine = np.arange(len(pack)) if pack.queries is None else pack.queries
                numbers.append(mine + first)
                first += int(mine.max(initial=-1)) + 1
            queries = np.concatenate(numbers).astype(np.int32)
            none = [np.zeros(len(pack)) if pack.shared is None else pack.shared for pack in packs]
            shared = np.concatenate(none).astype(np.int32)
        return cls(
            np.concatenate([pack.token_ids for pack in packs]),
            np.concatenate([pack.token_types for pack in packs]),
            np.concatenate([[0], *ends]).astype(np.int32),
            queries,
            shared,
        )

    def take(self, indices: NDArray[np.int64]) -> "Pack":
        """Some of its sequences, in the order of `indices`."""
        lengths = self.lengths[indices]
        rows, cu_seqlens = spread(self.cu_seqlens[indices], lengths)
        return Pack(
            self.token_ids[rows],
            self.token_types[rows],
            cu_seqlens,
            None if self.queries is None else self.queries[indices],
            None if self.shared is None else self.shared[indices],
        )

    def __len__(self) -> int:
        return self.num_sequences

    def __getitem__(self, index: int) -> Sequence:
        if not 0 <= index < self.num_sequences:
            raise IndexError(index)
        rows = slice(self.cu_seqlens[index], self.cu_seqlens[index + 1])
        return Sequence(self.token_ids[rows], self.token_types[rows])

    def __iter__(self) -> Iterator[Sequence]:
        return (self[index] for index in range(self.num_sequences))

    @property
    def lengths(self) -> Int32:
        """[N] int32, tokens of each sequence."""
        return np.diff(self.cu_seqlens)

    @property
    def num_sequences(self) -> int:
        """N."""
        return len(self.cu_seqlens) - 1

    @property
    def max_seqlen(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths.max(initial=0))


def spread(starts: NDArray[np.signedinteger], lengths: Int32) -> tuple[NDArray[np.int64], Int32]:
    """The places that runs of an array cover, run after run, and where each run begins among them.

    Args:
        starts: [N]. Where each run starts.
        lengths: [N] int32.

    Returns:
        [T] int64, and [N + 1] int32: 0 first, T last.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    shifts = starts - (ends - lengths)
    rows = np.repeat(shifts, lengths) + np.arange(ends[-1] if len(ends) else 0)
    return rows, np.append(0, ends).astype(np.int32)


def keep_best(best: NDArray[np.float32], places: Iterable[int], found: NDArray[np.float32]) -> None:
    """Let what is known of pairs rise to what was found of their sequences.

    Args:
        best: [N, columns] float32, which is written to; -inf where nothing is known.
        places: [S]. Which row each sequence is of; a row may have several.
        found: [S, columns] float32. NaN in one is NaN in its row.
    """
    np.maximum.at(best, np.fromiter(places, np.int64), found)


class _Ranked(NamedTuple):
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    score: float
    document: str


class Ranked(_Ranked):
    """A document in its place; it unpacks into index, score and document.

    Attributes:
        index: position of the document among those given.
        score: after the model's activation; higher is better.
        document: the text itself, or the tokens that were given in its place.
        id: that the document was given with, None if it was given without.
        metadata: what else it was given with.
    """

    id: str | None = None
    metadata: Mapping[str, Any] = MappingProxyType({})

    def __new__(
        cls,
        index: int,
        score: float,
        document: Text,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> "Ranked":
        """A document, and what it was given with."""
        # Tokens are met only by who gave them.
        self = super().__new__(cls, index, score, cast(str, document))
        if id is not None:
            self.id = id
        if metadata:
            self.metadata = metadata
        return self

    def __repr__(self) -> str:
        return f"Ranked({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    def _replace(self, **changes: Any) -> "Ranked":
        given = {"id": self.id, "metadata": self.metadata}
        return Ranked(**self._asdict() | given | changes)

    def to_dict(self) -> dict[str, Any]:
        """Index, score and document by their names; id and metadata where there are any."""
        given = {"id": self.id} if self.id is not None else {}
        more = {"metadata": dict(self.metadata)} if self.metadata else {}
        return self._asdict() | given | more


class Ranking(list[Ranked]):
    """Documents, best first, and what it took to order them.

    Attributes:
        num_layers: [N] int32. How many layers each document has run, in the order they were given;
            0 of one that could not be scored.
        work: of the call, None where several devices shared it. One of several requests has that
            of all of them.
        calls: what the model was asked, where it judges several documents at a time; else None.
    """

    def __init__(
        self,
        ranked: Iterable[Ranked],
        num_layers: Int32,
        work: Work | None,
        calls: Calls | None = None,
    ) -> None:
        super().__init__(ranked)
        self.num_layers, self.work, self.calls = num_layers, work, calls

    def to_dicts(self) -> list[dict[str, Any]]:
        """The documents as dictionaries, best first: see `Ranked.to_dict`."""
        return [ranked.to_dict() for ranked in self]


class RankedId(NamedTuple):
    """A document of a store in its place.

    Attributes:
        index: place of the document in the store.
        score: higher is better.
        id: of the document.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls here
    score: float
    id: str


@dataclass(frozen=True)
class Token:
    """One token that the model read.

    Attributes:
        text: the characters that it stands for; its name in the vocabulary where there are none.
        kind: "text" of the query or document; "prompt" and "marker", which the model wants before
            it; "special", such as [CLS]; "expansion", which fills a short query.
        scored: whether it has a vector; else it was only read.
        start: of a token of kind "text", its first character in the text.
        stop: and the one after its last.
    """

    text: str
    kind: Kind
    scored: bool
    start: int | None = None
    stop: int | None = None
