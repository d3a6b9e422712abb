"""Texts to sequences: each text tokenized once, pairs joined from ids, truncation on ids."""

import itertools
from collections import abc
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
from numpy.typing import NDArray

from packrank.arguments import check_text
from packrank.checkpoint.tokenizer_files import (
    has_token_types,
    length_limit,
    load_tokenizer,
    special_token_id,
    truncation_side,
)
from packrank.errors import InputError, ModelError
from packrank.request import Int32, Pack, Sequence
from packrank.text.layout import Layout
from packrank.text.truncation import Truncation

# Texts, and characters of them, handed to the library at once. Its encodings hold some 150 bytes
# a token until they are read: of 1024 texts of 200 tokens 30 MB, and of a million characters, the
# worst of which are a token each, 150 MB. It is enough to feed every core.
_TEXTS_AT_ONCE = 1024
_CHARACTERS_AT_ONCE = 1_000_000

_Item = TypeVar("_Item")


class Tokenizer:
    """The tokenizer of a model: text to ids, and ids to the layout the model was trained on.

    Safe to share between threads: nothing changes after construction.

    Attributes:
        model_max_length: most tokens of a sequence by tokenizer_config.json, None if it sets none.
        keeps_end: of what is too long, the end stays (truncation_side "left"), not the start.
        cls_token_id: the id of this special token, None where the tokenizer has none.
        bos_token_id: as cls_token_id.
        sep_token_id: as cls_token_id.
        pad_token_id: as cls_token_id.
        mask_token_id: as cls_token_id.
        unk_token_id: as cls_token_id.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any] | None = None) -> None:
        """Wrap a tokenizer of the `tokenizers` library.

        Args:
            backend: taken over; truncation and padding stored in it are switched off.
            config: contents of tokenizer_config.json.

        Raises:
            ModelError: the tokenizer cannot lay out a pair, or a setting makes no sense.
        """
        config = config or {}
        self.keeps_end = truncation_side(backend, config) == "left"
        backend.no_truncation()
        backend.no_padding()
        example = _example(backend)
        self._backend = backend
        self._single = Layout.of(backend, example)
        self._pair = Layout.of(backend, example, example)
        if not has_token_types(config):
            self._single = self._single.without_token_types()
            self._pair = self._pair.without_token_types()
        self.model_max_length = length_limit(config)
        self.cls_token_id = special_token_id(backend, "cls", config)
        self.bos_token_id = special_token_id(backend, "bos", config)
        self.sep_token_id = special_token_id(backend, "sep", config)
        self.pad_token_id = special_token_id(backend, "pad", config)
        self.mask_token_id = special_token_id(backend, "mask", config)
        self.unk_token_id = special_token_id(backend, "unk", config)

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """The tokenizer saved in a model folder.

        Args:
            folder: holds tokenizer.json; or the vocab.txt of a BERT WordPiece; or what
                transformers, if installed, can convert.

        Raises:
            ModelError: there is no tokenizer, or it cannot be read.
        """
        return cls(*load_tokenizer(folder))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def token_id(self, token: str) -> int | None:
        """The id of a token, None if the vocabulary has no such token."""
        return self._backend.token_to_id(token)

    def token(self, token_id: int) -> str:
        """What the vocabulary calls a token, "" if it has none of this id."""
        return self._backend.id_to_token(token_id) or ""

    def is_added(self, token_id: int) -> bool:
        """Whether a token stands beside the vocabulary proper, as special tokens do."""
        return token_id in self._backend.get_added_tokens_decoder()

    def num_special_tokens(self, *, pair: bool) -> int:
        """Tokens that the layout adds to a pair, or else to a single text."""
        return (self._pair if pair else self._single).num_special

    def encode(self, texts: abc.Sequence[str]) -> list[Int32]:
        """Token ids of each text, without special tokens; every distinct text is tokenized once.

        Args:
            texts: any strings, the empty one included.

        Returns:
            One [L] int32 array a text; equal texts share theirs.

        Raises:
            InputError: a text is not valid Unicode (see `check_text`).
        """
        ids: dict[str, Int32] = {}
        for part in batches(list(dict.fromkeys(texts)), len, _TEXTS_AT_ONCE, _CHARACTERS_AT_ONCE):
            for text in part:
                check_text(text)
            encodings = self._backend.encode_batch_fast(part, add_special_tokens=False)
            for text, encoding in zip(part, encodings, strict=True):
                found = encoding.ids
                ids[text] = np.fromiter(found, np.int32, len(found))
        return [ids[text] for text in texts]

    def offsets(self, text: str) -> tuple[Int32, list[tuple[int, int]]]:
        """Token ids of a text, as `encode` gives them, and the characters that each stands for."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, dtype=np.int32), encoding.offsets

    def pair(
        self,
        query_ids: Int32,
        document_ids: Int32,
        max_length: int | None,
        truncation: Truncation,
    ) -> Sequence:
        """Lay out a query and a document as one sequence.

        Each keeps its place where it is empty. Tokens are cut off the end of a text, or off its
        start if the tokenizer's truncation_side is "left".

        Args:
            query_ids: from `encode`.
            document_ids: from `encode`.
            max_length: most tokens of the sequence, special ones included; None for no limit.
            truncation: "longest_first" cuts the longer of the two, then both evenly;
                "only_second" cuts the document; "off" cuts nothing.

        Raises:
            InputError: the pair is longer than `max_length` and may not, or cannot, be cut to it.
        """
        texts = [query_ids, document_ids]
        pack, failures = self.pairs(texts, np.array([[0, 1]]), max_length, truncation)
        for reason in failures.values():
            raise InputError(reason)
        return pack[0]

    def pairs(
        self,
        texts: list[Int32],
        chosen: NDArray[np.int64],
        max_length: int | None,
        truncation: Truncation,
        causal: bool = False,
    ) -> tuple[Pack, dict[int, str]]:
        """Lay out many pairs, as `pair` does each.

        Args:
            texts: ids of each text, from `encode`.
            chosen: [N, 2]. Which text is the query of each pair, and which the document.
            max_length: as for `pair`.
            truncation: as for `pair`.
            causal: say which sequences share their beginning.

        Returns:
            The sequences of those that fit, in order; and place -> reason of the others.
        """
        return self._lay_out(self._pair, texts, chosen, max_length, truncation, causal)

    def single(self, ids: Int32, max_length: int | None, truncation: Truncation) -> Sequence:
        """Lay out one text as a sequence.

        Args:
            ids: from `encode`.
            max_length: most tokens of the sequence, special ones included; None for no limit.
            truncation: "off" cuts nothing; the others cut the text, there being no second.

        Raises:
            InputError: the text is longer than `max_length` and may not, or cannot, be cut to it.
        """
        one = np.array([[0]])
        pack, failures = self._lay_out(self._single, [ids], one, max_length, truncation)
        for reason in failures.values():
            raise InputError(reason)
        return pack[0]

    def _lay_out(
        self,
        layout: Layout,
        texts: list[Int32],
        chosen: NDArray[np.int64],
        max_length: int | None,
        truncation: Truncation,
        causal: bool = False,
    ) -> tuple[Pack, dict[int, str]]:
        sizes = np.array([len(ids) for ids in texts], dtype=np.int64)
        starts = (np.cumsum(sizes) - sizes)[chosen]
        lengths = sizes[chosen]
        failures: dict[int, str] = {}
        if max_length is not None:
            totals = lengths.sum(1) + layout.num_special
            for place in np.flatnonzero(totals > max_length).tolist():
                try:
                    fitted = layout.fit(tuple(lengths[place].tolist()), max_length, truncation)
                except InputError as error:
                    failures[place] = str(error)
                    continue
                if self.keeps_end:
                    starts[place] += lengths[place] - fitted
                lengths[place] = fitted
        if failures:
            starts = np.delete(starts, list(failures), axis=0)
            lengths = np.delete(lengths, list(failures), axis=0)
        nothing = np.zeros(0, dtype=np.int32)
        return layout.join(np.concatenate([nothing, *texts]), starts, lengths, causal), failures


def batches(
    items: abc.Sequence[_Item], size: abc.Callable[[_Item], int], most: int, most_size: int
) -> abc.Iterator[abc.Sequence[_Item]]:
    """Runs of items in order, each of `most` at most and, unless alone, of `most_size` together."""
    start = total = 0
    for stop, item in enumerate(items):
        added = size(item)
        if stop > start and (stop - start == most or total + added > most_size):
            yield items[start:stop]
            start, total = stop, 0
        total += added
    if start < len(items):
        yield items[start:]


def _example(backend: tokenizers.Tokenizer) -> str:
    """A text of at least one token."""
    for text in itertools.chain(("a", "1"), backend.get_vocab()):
        if backend.encode(text, add_special_tokens=False).ids:
            return text
    raise ModelError("the tokenizer has no token for any text")
