"""Where texts stand among special tokens: ids in, one sequence out."""

import itertools
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import tokenizers
from numpy.typing import NDArray

from packrank.errors import ModelError
from packrank.request import Int32, Pack, spread


@dataclass(frozen=True)
class Layout:
    """Parts of a sequence from left to right.

    Attributes:
        parts: the ids of special tokens [.] int32, or which text (0 or 1) stands here.
        token_types: [parts] int32. The token type of each part.
    """

    parts: tuple[Int32 | int, ...]
    token_types: Int32

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer, first: str, second: str | None = None) -> "Layout":
        """Read the layout off an encoded example, so that any post-processor will do.

        Args:
            backend: without truncation and padding.
            first: an example of at least one token.
            second: as first; None for the layout of a single text.

        Raises:
            ModelError: a text stands in several places, or in none.
        """
        encoding = backend.encode(first, second)
        if max(encoding.ids) > np.iinfo(np.int32).max:
            raise ModelError(f"the tokenizer has token {max(encoding.ids)}, more than 2**31 - 1")
        tokens = zip(encoding.sequence_ids, encoding.type_ids, encoding.ids, strict=True)
        parts: list[Int32 | int] = []
        token_types: list[int] = []
        for (text, token_type), run in itertools.groupby(tokens, key=lambda token: token[:2]):
            special = np.array([token_id for *_, token_id in run], dtype=np.int32)
            parts.append(special if text is None else text)
            token_types.append(token_type)
        layout = cls(tuple(parts), np.array(token_types, dtype=np.int32))
        texts = {part for part in parts if isinstance(part, int)}
        if len(texts) < 1 + (second is not None):
            raise ModelError(
                "the tokenizer's post-processor leaves out a text, on which no score would depend; "
                "save the tokenizer with a template that has $A and, of pairs, $B"
            )
        if layout.num_special != sum(encoding.special_tokens_mask):
            raise ModelError("the tokenizer's post-processor puts a text in several places")
        return layout

    @cached_property
    def num_special(self) -> int:
        """Special tokens of a sequence."""
        return sum(len(part) for part in self.parts if not isinstance(part, int))

    def without_token_types(self) -> "Layout":
        """The same layout, all of token type 0: for a model that is not told of any."""
        return replace(self, token_types=np.zeros_like(self.token_types))

    def join(
        self,
        ids: Int32,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        causal: bool = False,
    ) -> Pack:
        """Sequences from the ids of their texts.

        Args:
            ids: of all texts, in any order.
            starts: [N, texts]. Where each text of each sequence starts in `ids`.
            lengths: [N, texts]. How many ids it has.
            causal: say which sequences share their beginning: what comes before text 1, of those
                of one text 0 and one cut of it.
        """
        specials = [part for part in self.parts if not isinstance(part, int)]
        shape = (len(starts), len(self.parts))
        part_starts, part_lengths = np.empty(shape, np.int64), np.empty(shape, np.int32)
        end = len(ids)
        for place, part in enumerate(self.parts):
            if isinstance(part, int):
                part_starts[:, place], part_lengths[:, place] = starts[:, part], lengths[:, part]
            else:
                part_starts[:, place], part_lengths[:, place] = end, len(part)
                end += len(part)
        rows, edges = spread(part_starts.ravel(), part_lengths.ravel())
        pack = Pack(
            token_ids=np.concatenate([ids, *specials], dtype=np.int32)[rows],
            token_types=np.tile(self.token_types, len(starts)).repeat(part_lengths.ravel()),
            cu_seqlens=edges[:: len(self.parts)].copy(),
        )
        if not causal:
            return pack
        # A text starts where no other of any length does, and one of no length is like any other.
        cuts = np.stack([starts[:, 0], lengths[:, 0]], axis=1)
        queries = np.unique(cuts, axis=0, return_inverse=True)[1].reshape(-1)
        before = [place for place, part in enumerate(self.parts) if isinstance(part, int) and part]
        return share(pack, queries, part_lengths[:, : before[0]].sum(1))


def share(pack: Pack, queries: NDArray[np.integer], shared: NDArray[np.integer]) -> Pack:
    """The same sequences, with what those of one query share.

    Args:
        pack: N sequences.
        queries: [N]. Sequences of one number are of one query.
        shared: [N]. Of each sequence, how many of its first tokens all of its query begin with.
    """
    # At least one token is a sequence's own: the one that is scored.
    most = np.minimum(shared, pack.lengths - 1).clip(0)
    smallest = np.full(queries.max(initial=-1) + 1, len(pack.token_ids), dtype=np.int32)
    np.minimum.at(smallest, queries, most)
    return replace(pack, queries=queries.astype(np.int32), shared=smallest[queries])


def common_prefix(
    ids: Int32,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> NDArray[np.int64]:
    """[N] int64: with how many equal ids two runs begin.

    Args:
        ids: of all runs.
        first: [N]. Where one run of each two starts.
        second: [N]. Where the other does.
        lengths: [N]. How far to look.
    """
    short = lengths.astype(np.int32)
    rows, edges = spread(first, short)
    differing = np.flatnonzero(ids[rows] != ids[spread(second, short)[0]])
    ends = np.append(differing, len(rows))[np.searchsorted(differing, edges[:-1])]
    alike: NDArray[np.int64] = np.minimum(ends, edges[1:]) - edges[:-1]
    return alike
