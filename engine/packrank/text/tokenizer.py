"""Texts to sequences: each text tokenized once, pairs joined from ids, truncation on ids."""

import hashlib
from collections import abc
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import normalizers

from packrank.arguments import check_text
from packrank.checkpoint.adapter import tokenizer_folder
from packrank.checkpoint.files import shown
from packrank.checkpoint.tokenizer_files import (
    has_token_types,
    length_limit,
    load_tokenizer,
    padding_side,
    special_tokens,
    truncation_side,
)
from packrank.documents import Text, TokenizedText
from packrank.errors import InputError, ModelError
from packrank.request import Int32, Pack, Sequence
from packrank.text.cutting import Cutting, placed
from packrank.text.layout import Layout
from packrank.text.truncation import NO_LIMITS, SideLimits, Truncation

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
        fills_start: what is filled up to a length is filled before the text (padding_side "left").
        special_tokens: by what they are for, "cls_token" and the like.
        cls_token_id: the id of this special token, None where the tokenizer has none; likewise
            bos_token_id, sep_token_id, pad_token_id, mask_token_id and unk_token_id.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: dict[str, Any] | None = None,
        *,
        lower_case: bool = False,
    ) -> None:
        """Wrap a tokenizer of the `tokenizers` library.

        Args:
            backend: taken over; truncation and padding stored in it are switched off.
            config: what `load_tokenizer` says beside it.
            lower_case: see `from_folder`.

        Raises:
            ModelError: the tokenizer has no tokens, or a setting makes no sense.
        """
        config = config or {}
        self.keeps_end = truncation_side(backend, config) == "left"
        self.fills_start = padding_side(backend, config) == "left"
        backend.no_truncation()
        backend.no_padding()
        if lower_case:
            backend.normalizer = _lowering(backend.normalizer)
        self._backend = backend
        self._example = _example(backend)
        self._has_token_types = has_token_types(config)
        self.model_max_length = length_limit(config)
        self.special_tokens = special_tokens(config)
        self.cls_token_id = self._id_of("cls_token")
        self.bos_token_id = self._id_of("bos_token")
        self.sep_token_id = self._id_of("sep_token")
        self.pad_token_id = self._id_of("pad_token")
        self.mask_token_id = self._id_of("mask_token")
        self.unk_token_id = self._id_of("unk_token")

    @classmethod
    def from_folder(cls, folder: Path, *, lower_case: bool = False) -> "Tokenizer":
        """The tokenizer saved in a model folder.

        Args:
            folder: holds tokenizer.json; or the vocab.txt of a BERT WordPiece; or what
                transformers, if installed, can convert; or an adapter whose base does.
            lower_case: texts are lower-cased before all else that the tokenizer does to them, as
                sentence-transformers has it by do_lower_case; special tokens in them are not.

        Raises:
            ModelError: there is no tokenizer, or it cannot be read.
        """
        return cls(*load_tokenizer(tokenizer_folder(folder)), lower_case=lower_case)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def serialized(self) -> str:
        """Vocabulary and rules as JSON, the same for the same rules however they were saved."""
        splits = " split_special_tokens" if self._backend.encode_special_tokens else ""
        return f"{self._backend.to_str()}{splits}"

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
        """Tokens that the layout adds to a pair, or else to a single text.

        Raises:
            ModelError: the tokenizer has no layout that holds every text once.
        """
        return (self._pair if pair else self._single).num_special

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of `serialized`."""
        return hashlib.sha256(self.serialized.encode()).hexdigest()

    def try_encode(self, texts: abc.Sequence[Text]) -> tuple[list[Int32], dict[Text, str]]:
        """Token ids of each text, without special tokens; every distinct text is tokenized once.

        Args:
            texts: any strings, the empty one included; or tokens, which pass through.

        Returns:
            One [L] int32 array a text; equal texts share theirs. And text -> reason of those that
            the tokenizer fails on, whose arrays are empty.

        Raises:
            InputError: a text is not valid Unicode (see `check_text`).
        """
        ids: dict[Text, Int32] = {x: x.token_ids for x in texts if isinstance(x, TokenizedText)}
        failures: dict[Text, str] = {}
        plain = [text for text in dict.fromkeys(texts) if isinstance(text, str)]
        for part in batches(plain, len, _TEXTS_AT_ONCE, _CHARACTERS_AT_ONCE):
            for text in part:
                check_text(text)
            for text, found in zip(part, self._read(part, failures), strict=True):
                ids[text] = found
        return [ids[text] for text in texts], failures

    def encode(self, texts: abc.Sequence[str]) -> list[Int32]:
        """As `try_encode`, of texts that belong to the model and not to its callers.

        Raises:
            InputError: a text is not valid Unicode (see `check_text`).
            ModelError: the tokenizer fails on one.
        """
        ids, failures = self.try_encode(texts)
        for text, reason in failures.items():
            raise ModelError(f"{shown(text)}: {reason}")
        return ids

    def encode_template(self, texts: abc.Sequence[str]) -> list[Int32]:
        """As `encode`, of what stands around texts: special tokens in it are special always.

        In texts they are, unless tokenizer_config.json says split_special_tokens.
        """
        if not self._backend.encode_special_tokens:
            return self.encode(texts)
        control = tokenizers.Tokenizer.from_str(self._backend.to_str())
        return Tokenizer(control).encode(texts)

    def decode(self, ids: abc.Iterable[int], *, special: bool = True) -> str:
        """The text that token ids stand for, special tokens by their names or left out."""
        return self._backend.decode([int(one) for one in ids], skip_special_tokens=not special)

    def offsets(self, text: str) -> tuple[Int32, list[tuple[int, int]]]:
        """Token ids of a text, as `try_encode` gives them, and the characters each stands for.

        Raises:
            InputError: the tokenizer fails on it.
        """
        try:
            encoding = self._backend.encode(text, add_special_tokens=False)
            return _array(encoding), encoding.offsets
        except BaseException as error:
            raise InputError(_reason(error)) from error

    def _read(self, texts: abc.Sequence[str], failures: dict[Text, str]) -> list[Int32]:
        """Ids of texts, one by one if the library fails on them together."""
        try:
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
            return [_array(encoding) for encoding in encodings]
        except BaseException as error:
            reason = _reason(error)
        if len(texts) > 1:
            return [self._read([text], failures)[0] for text in texts]
        failures[texts[0]] = reason
        return [np.zeros(0, dtype=np.int32)]

    @cached_property
    def _single(self) -> Layout:
        return self._typed(Layout.of(self._backend, self._example))

    @cached_property
    def _pair(self) -> Layout:
        return self._typed(Layout.of(self._backend, self._example, self._example))

    def _typed(self, layout: Layout) -> Layout:
        return layout if self._has_token_types else layout.without_token_types()

    def _id_of(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self._backend.token_to_id(token)

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
            query_ids: from `try_encode`.
            document_ids: from `try_encode`.
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
        limits: SideLimits = NO_LIMITS,
    ) -> tuple[Pack, dict[int, str]]:
        """Lay out many pairs, as `pair` does each.

        Args:
            texts: ids of each text, from `try_encode`.
            chosen: [N, 2]. Which text is the query of each pair, and which the document.
            max_length: as for `pair`.
            truncation: as for `pair`.
            causal: say which sequences share their beginning.
            limits: what each text is cut to before the pair is.

        Returns:
            The sequences of those that fit, in order; and place -> reason of the others.
        """
        return self._lay_out(self._pair, texts, chosen, max_length, truncation, causal, limits)

    def windows(
        self,
        texts: list[Int32],
        chosen: NDArray[np.int64],
        max_length: int,
        truncation: Truncation,
        causal: bool = False,
        limits: SideLimits = NO_LIMITS,
    ) -> tuple[Pack, NDArray[np.int64], dict[int, str]]:
        """Lay out many pairs, in windows those whose documents do not fit.

        Args: see `pairs`; truncation is of queries.

        Returns:
            The sequences, in the order of the pairs; [W], which pair each is of; and place ->
            reason of pairs that have none.
        """
        layout, (ids, starts, lengths) = self._pair, placed(texts, chosen)
        cutting = Cutting(layout.num_special, max_length, truncation, self.keeps_end, limits)
        of, starts, lengths, failures = cutting.windows(starts, lengths)
        return layout.join(ids, starts, lengths, causal), of, failures

    def single(self, ids: Int32, max_length: int | None, truncation: Truncation) -> Sequence:
        """Lay out one text as a sequence.

        Args:
            ids: from `try_encode`.
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
        limits: SideLimits = NO_LIMITS,
    ) -> tuple[Pack, dict[int, str]]:
        ids, starts, lengths = placed(texts, chosen)
        cutting = Cutting(layout.num_special, max_length, truncation, self.keeps_end, limits)
        starts, lengths, failures = cutting.cut(starts, lengths)
        if failures:
            starts = np.delete(starts, list(failures), axis=0)
            lengths = np.delete(lengths, list(failures), axis=0)
        return layout.join(ids, starts, lengths, causal), failures


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


def failed_rows(
    rows: abc.Iterable[tuple[Text, ...]], reasons: abc.Mapping[Text, str]
) -> dict[int, str]:
    """Place -> reason of rows of texts, one of which `try_encode` gave a reason for."""
    if not reasons:
        return {}
    return {
        place: reasons[text] for place, row in enumerate(rows) for text in row if text in reasons
    }


def _example(backend: tokenizers.Tokenizer) -> str:
    """A text of at least one token."""
    for texts in (lambda: ["a", "1"], backend.get_vocab):
        for text in texts():
            try:
                if len(_array(backend.encode(text, add_special_tokens=False))):
                    return text
            except BaseException as error:
                _reason(error)  # another text may do
    raise ModelError("the tokenizer has no token for any text")


def _lowering(normalizer: Any) -> Any:
    """A normalizer that lower-cases first."""
    lowercase = normalizers.Lowercase()
    if normalizer is None:
        return lowercase
    parts: Any = normalizer if isinstance(normalizer, normalizers.Sequence) else [normalizer]
    return normalizers.Sequence([lowercase, *parts])


def _array(encoding: tokenizers.Encoding) -> Int32:
    found = encoding.ids
    return np.fromiter(found, np.int32, len(found))


def _reason(error: BaseException) -> str:
    """What to say of a text that the library fails on; anything else is raised again.

    A panic of the library's is no Exception.
    """
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return f"the tokenizer fails on it ({shown(' '.join(str(error).split()))}); leave it out"
