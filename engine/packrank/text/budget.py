"""How many tokens each part of a prompt has: what a template's budget leaves of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packrank.errors import InputError
from packrank.text.templates import Template
from packrank.text.truncation import NO_LIMITS, SideLimits
from packrank.text.windows import least_window, too_small, windows_of

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Sizes:
    """Tokens of a prompt that are there whatever the texts.

    Attributes:
        head: before all parts; likewise tail, after them.
        separator: between them.
        closing: after the document's.
        query: at least, of the query's part; likewise document.
    """

    head: int
    separator: int
    closing: int
    tail: int
    query: int
    document: int


@dataclass(frozen=True)
class Budget:
    """How much of a prompt its parts may have.

    Attributes:
        max_length: what the template's budget goes by.
        longest: most tokens of a sequence.
        room: tokens of the query's and the document's parts together.
        query_most: of the query's part.
        document_most: of the document's, by the template.
        limits: of the caller's, in place of those.
        sizes: what there always is.
        apart: both parts are tokenized by themselves; else they are one.
        document_first: it stands before the query, and its closing is put back where it is cut.
        truncate: cut what is too long; else such a pair fails.
    """

    max_length: int
    longest: int
    room: int
    query_most: int
    document_most: int
    limits: SideLimits
    sizes: Sizes
    apart: bool
    document_first: bool
    truncate: bool

    @classmethod
    def of(
        cls,
        template: Template,
        sizes: Sizes,
        asked: int | None,
        positions: int,
        limits: SideLimits,
        *,
        apart: bool,
        truncate: bool,
    ) -> "Budget":
        """That of a template.

        Args:
            template: of the model.
            sizes: of its prompts.
            asked: what the caller says that `max_length` is.
            positions: tokens that the model takes.
            limits: see `Budget`; likewise apart and truncate.
            apart: see there.
            truncate: see there.

        Raises:
            InputError: no token is left for query and document, or the model takes less.
        """
        prompt = sizes.head + sizes.tail
        # Tokens of a sequence beyond max_length.
        beyond = {"flagembedding": 2 * sizes.tail, "mxbai": prompt, "whole": 0}[template.budget]
        if asked is not None and asked + beyond > positions:
            raise InputError(
                f"max_length is {asked}, but the model has {positions} positions, {beyond} of "
                "which the prompt takes"
            )
        limit = min(template.max_length, positions - beyond) if asked is None else asked
        own = {"flagembedding": sizes.tail - sizes.head, "mxbai": 0, "whole": -prompt}
        room = limit - sizes.separator + own[template.budget]
        is_whole = template.budget == "whole"
        if limits != NO_LIMITS and (template.document_first or not apart):
            raise InputError(
                "query_length and document_length are for prompts whose parts are tokenized apart; "
                "this model's is cut as a whole, by max_length"
            )
        query_most = limits.query or (room if is_whole else limit * 3 // 4)
        document_most = room if is_whole else limit
        first = template.document_first
        if (
            query_most <= sizes.query
            or (limits.document or document_most) <= sizes.document
            or room <= sizes.query + sizes.document + first * sizes.closing
        ):
            raise InputError(_no_room(template, asked, limit, positions, prompt, limits))
        most = query_most, document_most
        return cls(limit, limit + beyond, room, *most, limits, sizes, apart, first, truncate)

    def cut(self, lengths: Int64) -> tuple[Int64, dict[int, str]]:
        """How many tokens of each part stay, where what is too long is cut.

        Args:
            lengths: [N, 3]. Of the query's part, the document's and the closing; or else of both
                parts as one, the closing, and the query's part, which is only compared with.

        Returns:
            [N, 3], what stays of the first parts; and place -> reason of pairs that cannot be cut.
        """
        kept = np.zeros_like(lengths)
        if self.apart:
            kept[:, 0] = np.minimum(lengths[:, 0], self.query_most)
            left = self.room - kept[:, 0]
            if self.document_first:
                kept[:, 2] = lengths[:, 2]
                left = left - kept[:, 2]
            most = self.limits.document or self.document_most
            kept[:, 1] = np.minimum(np.minimum(lengths[:, 1], most), left)
            if not self.document_first:
                kept[:, 2] = np.clip(left - kept[:, 1], 0, lengths[:, 2])
        else:
            kept[:, 0] = np.minimum(lengths[:, 0], self.room)
            kept[:, 1] = np.clip(self.room - kept[:, 0], 0, lengths[:, 1])
        return kept, self._failures(lengths, kept)

    def _failures(self, lengths: Int64, kept: Int64) -> dict[int, str]:
        failures = {}
        if self.apart:
            cut, prefix = kept < lengths, np.full(len(kept), self.sizes.document)
            place = 1
        else:
            cut, prefix = kept[:, :2] < lengths[:, :2], lengths[:, 2]
            place = 0
        if not self.truncate:
            for index in np.flatnonzero(cut.any(1)).tolist():
                # What is put back where a document is cut would be there anyway.
                put_back = int(kept[index, 2]) if self.document_first else 0
                over = int((lengths[index] - kept[index])[: cut.shape[1]].sum()) - put_back
                failures[index] = self._too_long(over)
            return failures
        empty = cut[:, place] & (kept[:, place] <= prefix)
        for index in np.flatnonzero(empty).tolist():
            failures[index] = (
                f"the query leaves no room for a document within max_length {self.max_length}; "
                "shorten it or raise max_length"
            )
        return failures

    def windows(self, starts: Int64, lengths: Int64) -> tuple[Int64, Int64, Int64, dict[int, str]]:
        """Parts that are tokenized apart, in windows of the document's: see `text.windows`.

        A window has as many tokens as a document that is cut, with what stands before it.

        Args:
            starts: [N, 4]. Where the query's part, the document's, the closing, and what is
                repeated before all windows but the first, begin, anywhere.
            lengths: [N, 4]. Their tokens.

        Returns:
            [W], which pair each sequence is of; [W, 4] each, where the four begin in it, and how
            long they are; and place -> reason of pairs that have none.
        """
        asked = np.minimum(lengths[:, 0], self.query_most)
        read = np.minimum(lengths[:, 1], self.limits.document or lengths[:, 1])
        left = self.room - asked
        most = np.minimum(left - self.document_first * lengths[:, 2], self.document_most)
        before = np.minimum(read, lengths[:, 3])
        failures: dict[int, str] = {}
        if not self.truncate:
            over = lengths[:, 0] - asked + lengths[:, 1] - read
            for place in np.flatnonzero(over).tolist():
                failures[place] = self._too_long(int(over[place]))
        least = least_window(self.room)
        for place in np.flatnonzero((read > most) & (most - before < least)).tolist():
            size = int(most[place] - before[place])
            failures.setdefault(place, too_small(size, least, self.max_length))
        sound = np.ones(len(lengths), dtype=bool)
        sound[list(failures)] = False
        places = np.flatnonzero(sound)
        of, begins, sizes = windows_of((read - before)[places], (most - before)[places])
        of, later = places[of], begins > 0
        starts, kept, before = starts[of], lengths[of], before[of]
        ends = before + begins + sizes
        if self.document_first:  # the last window ends as the document does
            kept[ends == lengths[of, 1], 2] = 0
        else:
            kept[:, 2] = np.clip(left[of] - before - sizes, 0, kept[:, 2])
        starts[:, 1] += later * (before + begins)
        kept[:, 0], kept[:, 1], kept[:, 3] = asked[of], sizes + ~later * before, later * before
        return of, starts, kept, failures

    def _too_long(self, over: int) -> str:
        return (
            f"its prompt is {over} tokens longer than max_length {self.max_length} allows; shorten "
            "it or allow truncation"
        )


def _no_room(
    template: Template,
    asked: int | None,
    limit: int,
    positions: int,
    prompt: int,
    limits: SideLimits,
) -> str:
    """Why no token is left for query and document; see `Budget.of`."""
    if asked is None and limit < template.max_length:
        return (
            f"the prompt alone has {prompt} tokens, and the model {positions} positions, which "
            "leaves none for query and document; is the template another model's?"
        )
    if limits != NO_LIMITS:
        return (
            f"within max_length {limit}, query_length {limits.query} and document_length "
            f"{limits.document} the prompt leaves no token for query and document; pass more"
        )
    said = " by the template" if asked is None else ""
    return (
        f"max_length is {limit}{said}, which the prompt leaves no token of for query and document; "
        "pass more"
    )
