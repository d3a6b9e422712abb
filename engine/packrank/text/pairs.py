"""Pairs to sequences, a window at a time: the next is tokenized while this one is scored."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from packrank.ahead import Ahead
from packrank.arguments import check_text
from packrank.documents import Text, Tokenization, TokenizedText, document_of
from packrank.errors import InputError
from packrank.request import Int32, Pack, spread
from packrank.text.tokenizer import Tokenizer, batches, failed_rows
from packrank.text.truncation import NO_LIMITS, LongDocuments, SideLimits, Truncation

# Pairs of a window, and characters of them. Two windows are alive at a time, so a whole call holds
# 2 * 1024 pairs * 200 tokens * 8 bytes = 3 MB of sequences at usual lengths, and of long texts the
# ids of 2 * 4 million characters, 4 bytes each where every one is a token: 32 MB. Packs have no
# padding, so more pairs would not pack better.
WINDOW_PAIRS = 1024
WINDOW_CHARACTERS = 4_000_000
# Read in windows that overlap, a text has some 1.2 times its tokens, and eleven times at worst.
_OVERLAPPING_CHARACTERS = 1_000_000

Int64 = NDArray[np.int64]


class PairLayout(Protocol):
    """How pairs become sequences; an implementation for each way that models were trained on."""

    @property
    def max_length(self) -> int:
        """Most tokens of a pair, as those who trained the model count them."""
        ...

    @property
    def tokenization(self) -> Tokenization | None:
        """How a document becomes ids; None where other texts have a part in them."""
        ...

    def lay_out(self, pairs: list[tuple[str, Text]]) -> tuple[Pack, dict[int, str]]:
        """Sequences of pairs.

        Args:
            pairs: N (query, document) pairs of valid texts, or of a text and tokens that were made
                by `tokenization`. Every distinct text is tokenized once.

        Returns:
            Sequences of those that fit, in order; and place -> reason of the others.

        Raises:
            PackrankError: the tokenizer cannot be used at all.
        """
        ...

    @property
    def windowless(self) -> str | None:
        """Why documents cannot be read in windows; None: they can."""
        ...

    def lay_out_windows(self, pairs: list[tuple[str, Text]]) -> tuple[Pack, Int64, dict[int, str]]:
        """Sequences of pairs, several of one whose document does not fit: see `text.windows`.

        Args and errors: see `lay_out`; only where documents can be read so.

        Returns:
            Sequences, in the order of the pairs; [W] int64, which pair each is of; and place ->
            reason of pairs that have none.
        """
        ...


@dataclass(frozen=True)
class TokenizerLayout:
    """The layout of pairs that the tokenizer itself has.

    Attributes:
        tokenizer: of the model.
        max_length: most tokens of a pair, special ones included.
        truncation: what is cut off a longer pair.
        prompt: put before every query.
        causal: the model is causal, so that pairs of one query share their beginning.
        limits: what each text, the query with its prompt, is cut to before the pair is.
    """

    tokenizer: Tokenizer
    max_length: int
    truncation: Truncation
    prompt: str = ""
    causal: bool = False
    limits: SideLimits = NO_LIMITS

    @cached_property
    def tokenization(self) -> Tokenization:
        """How a document becomes ids: by itself."""
        return Tokenization("this model", self.tokenizer.fingerprint)

    @property
    def windowless(self) -> None:
        """None: documents are read in windows."""
        return None

    def lay_out(self, pairs: list[tuple[str, Text]]) -> tuple[Pack, dict[int, str]]:
        """Sequences of pairs: see `PairLayout`."""
        texts, chosen, kept, failures = self._read(pairs)
        pack, others = self.tokenizer.pairs(
            texts, chosen, self.max_length, self.truncation, self.causal, self.limits
        )
        return pack, failures | {kept[place]: reason for place, reason in others.items()}

    def lay_out_windows(self, pairs: list[tuple[str, Text]]) -> tuple[Pack, Int64, dict[int, str]]:
        """Sequences of pairs, in windows: see `PairLayout`."""
        texts, chosen, kept, failures = self._read(pairs)
        pack, of, others = self.tokenizer.windows(
            texts, chosen, self.max_length, self.truncation, self.causal, self.limits
        )
        failures |= {kept[place]: reason for place, reason in others.items()}
        return pack, np.array(kept, dtype=np.int64)[of], failures

    def _read(
        self, pairs: list[tuple[str, Text]]
    ) -> tuple[list[Int32], Int64, list[int], dict[int, str]]:
        """Ids of texts, which are the query and the document of a pair, and of which pairs.

        And place -> reason of the others, that the tokenizer fails on.
        """
        sides = [(self.prompt + query, document) for query, document in pairs]
        places_of: dict[Text, int] = {}
        for text in chain.from_iterable(sides):
            places_of.setdefault(text, len(places_of))
        texts, reasons = self.tokenizer.try_encode(list(places_of))
        failures = failed_rows(sides, reasons)
        kept = [place for place in range(len(sides)) if place not in failures]
        chosen = [[places_of[text] for text in sides[place]] for place in kept]
        return texts, np.array(chosen, dtype=np.int64).reshape(-1, 2), kept, failures


def usable_length(asked: int | None, positions: int, usual: int, special: int) -> int:
    """Most tokens of a pair.

    Args:
        asked: by the caller, if at all.
        positions: tokens that the model takes.
        usual: where the caller does not ask.
        special: tokens of a pair of empty texts.

    Raises:
        InputError: the model takes less, or no token of a text would be left.
    """
    if asked is not None and asked > positions:
        raise InputError(f"max_length is {asked}, but the model has {positions} positions")
    length = asked or usual
    if length <= special:
        said = " by the model's files" if asked is None else ""
        raise InputError(
            f"max_length is {length}{said}, but a pair has {special} special tokens; pass more"
        )
    return length


@dataclass(frozen=True)
class PairReader:
    """Pairs to sequences, window by window.

    Attributes:
        layout: how a pair becomes a sequence.
        vocab_size: rows of the model's token table; the tokenizer may know more tokens.
        share_prefixes: whether sequences say what they have in common, as far as the layout does.
        pad_token_id: what a causal classifier does not read at the end of a sequence, so that its
            score is that of the last token before; -1: nothing.
        long_documents: whether those that do not fit are cut, or read in windows.
    """

    layout: PairLayout
    vocab_size: int
    share_prefixes: bool = True
    pad_token_id: int = -1
    long_documents: LongDocuments = "truncate"

    @cached_property
    def fixed_tokens(self) -> int:
        """About how many tokens a pair has beside those of its texts."""
        return max(len(self.window([("a", "a")]).sequences.token_ids) - 2, 0)

    def windows(self, pairs: Sequence[object]) -> Generator["Window", None, None]:
        """All pairs in order. One background thread works ahead where there are several windows.

        Close the generator where it is not run to its end: that ends the thread.

        Args:
            pairs: anything; what is no pair of texts is a failure of the window it falls in.

        Raises:
            PackrankError: the tokenizer cannot be used at all.
        """
        places = range(len(pairs))
        is_divided = self.long_documents == "windows"
        most = min(_OVERLAPPING_CHARACTERS, WINDOW_CHARACTERS) if is_divided else WINDOW_CHARACTERS
        parts = list(batches(places, lambda i: _size(pairs[i]), WINDOW_PAIRS, most))
        made = (self._read(pairs, part) for part in parts)
        if len(parts) < 2:
            yield from made
            return
        with Ahead(made, 1, "packrank-pairs") as windows:
            yield from windows

    def window(self, pairs: Sequence[object]) -> "Window":
        """All of these pairs, as one window."""
        return self._read(pairs, range(len(pairs)))

    def _read(self, pairs: Sequence[object], places: Sequence[int]) -> "Window":
        window = Window(num_pairs=len(places))
        texts: dict[int, tuple[str, Text]] = {}
        for index in places:
            try:
                query, document = texts_of(pairs[index])
                if isinstance(document, TokenizedText):
                    self._check(document)
                texts[index] = query, document
            except InputError as error:
                window.failures[index] = str(error)
        every = chain.from_iterable(texts.values())
        reasons = _unusable({text for text in every if isinstance(text, str)})
        for index in [i for i, pair in texts.items() if not reasons.keys().isdisjoint(pair)]:
            query, document = texts.pop(index)
            window.failures[index] = reasons.get(query) or reasons[document]
        given, indices = list(texts.values()), list(texts)
        if self.long_documents == "windows":
            pack, of, failures = self.layout.lay_out_windows(given)
            places = of.tolist()
        else:
            pack, failures = self.layout.lay_out(given)
            places = [place for place in range(len(given)) if place not in failures]
        for place, reason in failures.items():
            window.failures[indices[place]] = reason
        window.indices = [indices[place] for place in places]
        if self.pad_token_id >= 0:
            pack = without_tail(pack, self.pad_token_id)
        if not self.share_prefixes:
            pack = replace(pack, queries=None, shared=None)
        window.sequences = pack
        self._drop_unusable(window)
        return window

    def _check(self, document: TokenizedText) -> None:
        """Raise InputError unless its ids are those that the layout would make of its text."""
        refusal = document.tokenization.refusal(self.layout.tokenization)
        if refusal is not None:
            raise InputError(f"the document's tokens cannot be used: {refusal}")

    def _drop_unusable(self, window: "Window") -> None:
        """Turn sequences that the model cannot take into failures.

        The usual window has none, which one look at all ids together shows.
        """
        pack = window.sequences
        if pack.token_ids.max(initial=0) < self.vocab_size and pack.lengths.all():
            return
        for index, sequence in zip(window.indices, pack, strict=True):
            highest = sequence.token_ids.max(initial=0)
            if not len(sequence.token_ids):
                window.failures[index] = (
                    "both texts are empty, and the tokenizer adds no special tokens"
                )
            elif highest >= self.vocab_size:
                window.failures[index] = (
                    f"it holds token {highest}, and the model knows {self.vocab_size}; "
                    "is the tokenizer another model's?"
                )
        # One sequence that the model cannot take fails its pair.
        sound = [n for n, index in enumerate(window.indices) if index not in window.failures]
        window.indices = [window.indices[place] for place in sound]
        window.sequences = pack.take(np.array(sound, dtype=np.int64))


@dataclass
class Window:
    """A run of pairs, ready for the model.

    Attributes:
        indices: where the pair of each sequence stands among all pairs; ascending, and repeated
            where a pair has several.
        sequences: one a pair, or one a window of its document; end to end.
        failures: the other pairs of the run, each with the reason.
        num_pairs: of the run.
    """

    indices: list[int] = field(default_factory=list)
    sequences: Pack = field(default_factory=lambda: Pack.of([]))
    failures: dict[int, str] = field(default_factory=dict)
    num_pairs: int = 0


def without_tail(pack: Pack, token_id: int) -> Pack:
    """The same sequences without their last tokens that are `token_id`; each keeps one at least.

    Source: GenericForSequenceClassification of transformers, which pools the last other token.
    """
    is_read = pack.token_ids != token_id
    starts, lengths = pack.cu_seqlens[:-1], pack.lengths
    if is_read.all() or not len(starts):
        return pack
    latest = np.maximum.accumulate(np.where(is_read, np.arange(len(is_read)), -1))
    last = latest[np.maximum(pack.cu_seqlens[1:] - 1, 0)]
    kept = np.where(last >= starts, last - starts + 1, np.minimum(lengths, 1)).astype(np.int32)
    rows, cu_seqlens = spread(starts, kept)
    queries, shared = pack.queries, pack.shared
    if queries is not None and shared is not None:
        # One that ends within what it shares is no longer like the others of its query.
        alone = kept <= shared
        numbers = queries.max(initial=-1) + 1 + np.arange(len(queries), dtype=np.int32)
        queries = np.where(alone, numbers, queries).astype(np.int32)
        shared = np.where(alone, 0, shared).astype(np.int32)
    return Pack(pack.token_ids[rows], pack.token_types[rows], cu_seqlens, queries, shared)


def _size(pair: object) -> int:
    """Characters of a pair, as far as it is one; of tokens how many they are."""
    if not isinstance(pair, tuple | list):
        return 0
    texts = [one if isinstance(one, Text) else _text_of(one) for one in pair]
    return sum([len(text) for text in texts if isinstance(text, Text)])


def _text_of(document: object) -> object:
    """The text of a document that comes with an id, as far as it is one."""
    if isinstance(document, Mapping):
        return document.get("text")
    return document[-1] if isinstance(document, tuple | list) and document else None


def is_pair(value: Any) -> bool:
    """Whether it is one pair, which stands for itself where several may be given.

    Of texts, or of a text and tokens or a mapping.
    """
    is_sequence = isinstance(value, tuple | list) or getattr(value, "ndim", 0) == 1
    if not is_sequence or len(value) != 2 or not isinstance(value[0], str):
        return False
    return isinstance(value[1], Text | Mapping)


def texts_of(pair: Any) -> tuple[str, Text]:
    """The query and the document of a pair, or its tokens; InputError if it is none."""
    if isinstance(pair, np.ndarray) and pair.ndim == 1:
        pair = pair.tolist()
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        size = f" of {len(pair)}" if isinstance(pair, tuple | list) else ""
        raise InputError(f"it is a {type(pair).__name__}{size}, expected (query, document)")
    query, document = pair
    if not isinstance(query, str):
        raise InputError(f"the query is a {type(query).__name__}, expected a str")
    return query, document_of(document).text


def plain_texts_of(pair: Any) -> tuple[str, str]:
    """As `texts_of`, where nothing but the text of a document can be used."""
    query, document = texts_of(pair)
    if not isinstance(document, str):
        raise InputError("the document is given as tokens, and here its text is needed; pass that")
    return query, document


def _unusable(texts: set[str]) -> dict[Text, str]:
    """Those texts that cannot be tokenized, with the reason."""
    reasons: dict[Text, str] = {}
    for text in texts:
        try:
            check_text(text)
        except InputError as error:
            reasons[text] = str(error)
    return reasons
