"""Pairs under a template: ids of the prompt, what is cut, and what pairs of one query share."""

import string
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from packrank.arguments import check_str, check_text
from packrank.documents import Text, Tokenization
from packrank.errors import InputError, ModelError
from packrank.request import Int32, Pack
from packrank.text.budget import Budget, Sizes
from packrank.text.layout import Layout, common_prefix, share
from packrank.text.templates import Template
from packrank.text.tokenizer import Tokenizer, failed_rows
from packrank.text.truncation import NO_LIMITS, SideLimits

# How documents begin that a tokenizer might join to what stands before them.
_BEGINNINGS = (
    "", " ", "  a", "\n", "\n\na", "\t", "\r\n", "a", "A", "'s", ".", "...", ">", ":", "<", "1",
    "_", "é", "\u0301", "\u0338", "\u200d", "\u00a0", "漢", "🦙",
)  # fmt: skip
# And how texts end that it might join to what follows.
_ENDS = (
    "",
    " ",
    "a ",
    "a\n",
    "a\n\n",
    "a.",
    "a?",
    "a!",
    "a)",
    'a"',
    "a:",
    "1",
    "é",
    "e\u0301",
    "漢",
)


class PromptLayout:
    """The layout of pairs that a template describes. See `pairs.PairLayout`.

    Where the document's part of the prompt is tokenized by itself, which it is under all templates
    with the tokenizers of their models, `shared` of the Pack counts all tokens before it.

    Attributes:
        max_length: what the template's budget goes by.
        longest: most tokens of a sequence.
        num_tail: tokens at the end that are the same in every sequence.
    """

    max_length: int
    longest: int
    num_tail: int

    def __init__(
        self,
        template: Template,
        tokenizer: Tokenizer,
        positions: int,
        *,
        max_length: int | None = None,
        instruction: str | None = None,
        truncate: bool = True,
        limits: SideLimits = NO_LIMITS,
    ) -> None:
        """Tokenize what all prompts have in common.

        Args:
            template: of the model.
            tokenizer: of the model.
            positions: tokens that the model takes.
            max_length: as the template's budget counts it; if None, the template's own, or as much
                as there are positions for.
            instruction: instead of the template's own.
            truncate: cut what is too long; else such a pair fails.
            limits: of the query's and the document's part of the prompt, in place of the
                template's own.

        Raises:
            InputError: a limit leaves no token for query and document or is more than the
                model takes, or the template has no place for an instruction.
            ModelError: the tokenizer lacks a token of the template.
        """
        self._tokenizer = tokenizer
        self._query = _around_query(template, instruction)
        before, after = template.document.split("{document}")
        self._document = before, after
        for token in template.special_tokens:
            token_of(tokenizer, token)
        head, separator, closing, *tail = tokenizer.encode_template(
            [template.head, template.separator, template.closing, *template.tail]
        )
        head, tail_ids = (
            np.append(_bos(template, tokenizer), head),
            np.concatenate([head[:0], *tail]),
        )
        self._num_head, self.num_tail, self._closing = len(head), len(tail_ids), closing
        self._first = template.document_first
        if self._first:
            (self._closing,) = tokenizer.encode_template([after])
            if not self._stands_alone(template.head):
                raise ModelError(
                    "the tokenizer joins a document to what stands beside it, so that it cannot be "
                    "cut; is it another model's, or does the template leave nothing between them?"
                )
        self._apart = self._first or not template.one_string or self._splits()
        # What stands before a document, where it is repeated before a window of one, is text 3.
        self._layout, self._windowed = (
            _untyped(head, *self._between(separator, *document), tail_ids)
            for document in ((1,), (3, 1))
        )
        around = self._document[:1] if self._first else self._document
        least = tokenizer.encode(["".join(part).rstrip() for part in (self._query, around)])
        # Without a blank at its end, which is part of the word that follows.
        (self._before,) = tokenizer.encode([before.rstrip(" ")])
        sizes = Sizes(
            head=len(head),
            separator=len(separator),
            closing=len(self._closing),
            tail=len(tail_ids),
            query=len(least[0]),
            document=len(least[1]),
        )
        options: dict[str, bool] = {"apart": self._apart, "truncate": truncate}
        self._budget = Budget.of(template, sizes, max_length, positions, limits, **options)
        self.max_length, self.longest = self._budget.max_length, self._budget.longest

    def _between(self, separator: Int32, *document: int) -> tuple[Int32 | int, ...]:
        if self._first:
            return (*document, 2, 0)
        return (0, separator, *document, 2) if self._apart else (0, *document)

    @cached_property
    def tokenization(self) -> Tokenization | None:
        """How a document becomes ids: with its part of the prompt, where that stands apart."""
        if not self._apart:
            return None
        return Tokenization("this model", self._tokenizer.fingerprint, *self._document)

    @property
    def windowless(self) -> str | None:
        """See `PairLayout`."""
        if self._apart:
            return None
        return (
            "the tokenizer joins documents to what stands before them in the template, so that "
            "they have no tokens of their own"
        )

    def lay_out(self, pairs: list[tuple[str, Text]]) -> tuple[Pack, dict[int, str]]:
        """Sequences of pairs: see `PairLayout`."""
        ids, starts, lengths, reasons = self._gathered(pairs)
        kept, failures = self._budget.cut(lengths)
        failures |= reasons
        failed = list(failures)
        starts, lengths, kept = (np.delete(of, failed, axis=0) for of in (starts, lengths, kept))
        pack = self._layout.join(ids, starts, kept, causal=self._apart and not self._first)
        if not self._apart:
            alike = np.minimum(kept[:, 0], lengths[:, 2])
            alike = common_prefix(ids, starts[:, 0], starts[:, 2], alike)
            pack = share(pack, numbered(starts[:, 2]), self._num_head + alike)
        return pack, failures

    def lay_out_windows(
        self, pairs: list[tuple[str, Text]]
    ) -> tuple[Pack, NDArray[np.int64], dict[int, str]]:
        """Sequences of pairs, in windows: see `PairLayout`."""
        ids, starts, lengths, reasons = self._gathered(pairs)
        starts = np.insert(starts, 3, len(ids), axis=1)
        lengths = np.insert(lengths, 3, len(self._before), axis=1)
        ids = np.append(ids, self._before)
        of, starts, kept, failures = self._budget.windows(starts, lengths)
        failures |= reasons
        if reasons:
            sound = ~np.isin(of, list(reasons))
            of, starts, kept = of[sound], starts[sound], kept[sound]
        return self._windowed.join(ids, starts, kept, causal=not self._first), of, failures

    def _gathered(
        self, pairs: list[tuple[str, Text]]
    ) -> tuple[Int32, NDArray[np.int64], NDArray[np.int64], dict[int, str]]:
        """Ids, where the parts of each pair begin there and how long they are; see `Budget.cut`.

        And place -> reason of pairs that the tokenizer fails on.
        """
        sides: list[tuple[Text, Text]] = []
        for query, document in pairs:
            first = query.join(self._query)
            if not isinstance(document, str):  # its part of the prompt included
                sides.append((first, document))
                continue
            second = document.join(self._document)
            sides.append((first, second) if self._apart else (first + second, first))
        ids, starts, lengths, reasons = gather(self._tokenizer, sides, 2)
        # The closing comes between what is laid out and what is only compared with, if anything is.
        place = 2 if self._apart else 1
        starts = np.insert(starts, place, len(ids), axis=1)
        lengths = np.insert(lengths, place, len(self._closing), axis=1)
        if self._first:  # a document that is not cut ends as it does in one string
            lengths[self._budget.room - lengths[:, 0] >= lengths[:, 1], place] = 0
        return np.append(ids, self._closing), starts, lengths, reasons

    def _splits(self) -> bool:
        """Whether the document's part, tokenized by itself, has the ids that it has in the whole.

        Before it stands what ends the query's part; and what may end a query, which a tokenizer may
        join to that where it is no word.
        """
        if _are_one_word(self._query[1], self._document[0]):
            return False
        ends = ("a",) if _is_word(self._query[1]) else ("a", *_ENDS)
        queries = [text.join(self._query) for text in ends]
        begins = _BEGINNINGS if self._document[0] else (*_BEGINNINGS, *string.punctuation)
        documents = [text.join(self._document) for text in begins]
        return self._joins_none([(query, document) for query in queries for document in documents])

    def _stands_alone(self, head: str) -> bool:
        """Whether a document's part has the same ids between head and query as by itself."""
        between = self._document[1], self._query[0]
        if _are_one_word(*between) or (head and _are_one_word(head, self._document[0])):
            return False
        queries = ["a".join(self._query)]
        if not _is_word(self._query[0]):
            queries += [text.join(self._query) for text in _BEGINNINGS]
        texts = [*_BEGINNINGS, *([] if _is_word(self._document[1]) else _ENDS)]
        texts += [] if self._document[0] else string.punctuation
        documents = [text.join(self._document) for text in texts]
        return self._joins_none([(head, one, query) for one in documents for query in queries])

    def _joins_none(self, every: list[tuple[str, ...]]) -> bool:
        """Whether each of these has the same ids as one text as part by part."""
        parts = list(dict.fromkeys(part for one in every for part in one))
        found, failed = self._tokenizer.try_encode(parts)
        ids = dict(zip(parts, found, strict=True))
        wholes = ["".join(one) for one in every]
        joined, others = self._tokenizer.try_encode(wholes)
        # What the tokenizer fails on is no sequence either way.
        return all(
            np.array_equal(whole, np.concatenate([ids[part] for part in one]))
            for one, text, whole in zip(every, wholes, joined, strict=True)
            if text not in others and failed.keys().isdisjoint(one)
        )


def gather(
    tokenizer: Tokenizer, sides: Sequence[tuple[Text, ...]], width: int
) -> tuple[Int32, NDArray[np.int64], NDArray[np.int64], dict[int, str]]:
    """Ids of texts, each distinct one tokenized once.

    Args:
        tokenizer: any.
        sides: N tuples of S texts, or tokens.
        width: S.

    Returns:
        The ids of all, [N, S] where those of each text start among them, and [N, S] how many; and
        place -> reason of tuples with a text that the tokenizer fails on.
    """
    places_of: dict[Text, int] = {}
    chosen = [[places_of.setdefault(text, len(places_of)) for text in side] for side in sides]
    texts, reasons = tokenizer.try_encode(list(places_of))
    sizes = np.array([len(ids) for ids in texts], dtype=np.int64)
    where = np.array(chosen, dtype=np.int64).reshape(-1, width)
    ids = np.concatenate([np.zeros(0, dtype=np.int32), *texts])
    return ids, (np.cumsum(sizes) - sizes)[where], sizes[where], failed_rows(sides, reasons)


def numbered(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N]: a number for each key, or row of keys; equal ones have the same."""
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


def token_of(tokenizer: Tokenizer, token: str) -> int:
    """The id of a text that must be one token.

    Raises:
        ModelError: it is none, or several.
    """
    (ids,) = tokenizer.encode_template([token])
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ModelError(
            f"the tokenizer has no token {token!r}, which the template needs; is it another "
            "model's?"
        )
    return int(ids[0])


def _around_query(template: Template, instruction: str | None) -> tuple[str, str]:
    """What stands before and after the query in its part of the prompt."""
    pattern = template.query
    if instruction is not None:
        check_str("instruction", instruction)
        check_text(instruction, "instruction")
        if not template.takes_instruction:
            raise InputError("the model's prompt has no place for an instruction")
        # An empty one is none, unless there always is one.
        pattern = (instruction and template.instructed) or pattern
    given = template.instruction if instruction is None else instruction
    before, after = pattern.split("{query}")
    before, after = (part.replace("{instruction}", given or "") for part in (before, after))
    return before, after


def _is_word(text: str) -> bool:
    """Whether there is a letter or a digit in what stands between two texts."""
    return any(map(str.isalnum, text))


def _are_one_word(before: str, after: str) -> bool:
    """Whether a letter or a digit may stand on both sides of where these meet.

    What is empty is a text of anybody's. Within a word a tokenizer may join what it likes, so that
    no few examples tell.
    """
    return (before[-1:] or "a").isalnum() and (after[:1] or "a").isalnum()


def _untyped(*parts: Int32 | int) -> Layout:
    return Layout(parts, np.zeros(len(parts), dtype=np.int32))


def _bos(template: Template, tokenizer: Tokenizer) -> Int32:
    token_id = tokenizer.bos_token_id
    if template.bos == "always" and token_id is None:
        raise ModelError("the tokenizer has no bos token, which the template begins with")
    omitted = template.bos == "if any" and token_id in (None, tokenizer.pad_token_id)
    if template.bos == "never" or omitted or token_id is None:
        return np.zeros(0, dtype=np.int32)
    return np.array([token_id], dtype=np.int32)
