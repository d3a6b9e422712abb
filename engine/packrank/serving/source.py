"""How an engine reads pairs and runs them: those of a reranker, of late interaction, or alone."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from packrank.documents import TokenizedText
from packrank.errors import UNFINITE, InputError
from packrank.late.encoder import cut_pairs
from packrank.late_interaction import LateInteraction
from packrank.request import Int32, Pack
from packrank.scoring.pair_scorer import PairScorer
from packrank.serving.guess import TokenGuess
from packrank.serving.texts import characters, counted, known_of, parts_of, valid
from packrank.serving.token_cache import TokenCache
from packrank.text.pairs import plain_texts_of

Logits = NDArray[np.float32]
# Of late interaction, whose texts are not tokenized before they run; see `length_of`.
_CHARACTERS_A_TOKEN = 3
_MADE_A_RUN = 16  # tokens that are made of a text in the time that one takes to run, at least


@dataclass(frozen=True)
class Read:
    """Pairs as sequences.

    Attributes:
        what: the sequences, as the source runs them.
        places: which of the pairs each is of; ascending, and repeated where a pair has several.
        lengths: [n] int32, tokens of each.
        failures: place -> reason of the other pairs.
        spared: [n] int32, with how many tokens each begins as the one before it, which run once
            where both are in a pack; None: with none.
    """

    what: Any
    places: list[int]
    lengths: Int32
    failures: dict[int, str]
    spared: Int32 | None = None


@dataclass(frozen=True)
class Ran:
    """What became of sequences that were started together.

    Attributes:
        logits: [n, columns] float32, a row a sequence.
        failures: place -> reason of those that have none.
        tokens: that ran of each part of them; None: as many as their lengths say.
    """

    logits: Logits
    failures: dict[int, str]
    tokens: list[int] | None = None


Started = Callable[[], Ran]  # waits for it


class Costs(NamedTuple):
    """About what each pair takes, in tokens, before it is read; at least one.

    Attributes:
        kept: of the queue: what runs, or the time to tokenize all that is cut then.
        read: of a turn of reading: what is made of its texts, or what is kept where that is more.
    """

    kept: list[int]
    read: list[int]

    def add(self, run: int, made: int) -> None:
        """A pair of which so many run, and so many are made."""
        self.kept.append(max(run, made // _MADE_A_RUN))
        self.read.append(max(run, made))


class Source(Protocol):
    """Reads pairs and runs them. Sources of one key run in one pack."""

    @property
    def key(self) -> Hashable:
        """What sequences have in common that may share a pack; None: they run alone."""
        ...

    @property
    def columns(self) -> int:
        """Logits of a pair."""
        ...

    @property
    def budget_tokens(self) -> int:
        """Most tokens of a pack."""
        ...

    def costs(self, pairs: Sequence[Any]) -> Costs:
        """About what each pair will take."""
        ...

    def read(self, pairs: Sequence[Any]) -> Read:
        """Make sequences of pairs."""
        ...

    def start(self, some: Sequence[tuple[Any, int, int]]) -> Started:
        """Run sequences: of each `Read.what` those from a place to another."""
        ...


@dataclass(frozen=True)
class PairSource:
    """Pairs of a reranker.

    Attributes:
        scorer: of the model, as a call lays pairs out.
        layers: to score after; None: all.
        cache: of documents' tokens.
        guess: of how many they will be.
    """

    scorer: PairScorer
    layers: tuple[int, ...] | None
    cache: TokenCache
    guess: TokenGuess

    @property
    def key(self) -> Hashable:
        """The layers that run."""
        return "pairs", self.layers

    @property
    def columns(self) -> int:
        """Of all labels, or of the layers."""
        return self.scorer.assembly.config.num_labels * len(self.layers or (0,))

    @property
    def budget_tokens(self) -> int:
        """The runner's, which may shrink."""
        return self.scorer.runner.budget_tokens

    def costs(self, pairs: Sequence[Any]) -> Costs:
        """By the characters: all are tokenized, though no more run than the model reads."""
        assembly, expected = self.scorer.assembly, self.scorer.expected_tokens
        guess, fixed, costs = self.guess, self.scorer.reader.fixed_tokens, Costs([], [])
        most = 0 if any(assembly.options.limits) else assembly.layout.max_length
        last, asked = "", 1
        for query, document, known in map(known_of, pairs):
            if query is not last:  # of a ranking there is one
                last, asked = query, 1 + guess.tokens(query)
            told = guess.tokens(document)
            whole = fixed + asked + told + known
            run = whole if whole <= most else expected(asked, known + told)
            costs.add(run, whole - known)
        return costs

    def read(self, pairs: Sequence[Any]) -> Read:
        """Tokenize, documents that are known by their ids."""
        window = self.scorer.reader.window(self._known(pairs))
        pack = window.sequences
        self._learn(pairs, np.array(window.indices, dtype=np.int64), pack.lengths)
        return Read(pack, window.indices, pack.lengths, window.failures, _spared(pack))

    def _learn(self, pairs: Sequence[Any], places: NDArray[np.int64], lengths: Int32) -> None:
        """Learn from pairs of texts that are not cut; of others that they have no fewer tokens.

        From none of several sequences, which overlap.
        """
        assembly, fixed = self.scorer.assembly, self.scorer.reader.fixed_tokens
        of_texts = np.array([not known_of(pairs[place])[-1] for place in places], dtype=bool)
        learned = np.flatnonzero(of_texts & (np.bincount(places)[places] == 1))
        lengths = lengths[learned]
        may_be_cut = (lengths >= assembly.layout.max_length) | any(assembly.options.limits)
        counts = counted([pairs[place] for place in places[learned]])
        self.guess.learn(counts, (lengths - fixed).clip(0), ~may_be_cut)

    def start(self, some: Sequence[tuple[Pack, int, int]]) -> Started:
        """Run them as one pack."""
        packs = [
            pack if stop - start == len(pack) else pack.take(np.arange(start, stop))
            for pack, start, stop in some
        ]
        joined = Pack.joined(packs)
        pending = self.scorer.runner.submit(joined, self.layers)
        self.scorer.count(joined)

        def result() -> Ran:
            logits = pending.result()
            finite = np.isfinite(logits).all(axis=1)
            failures = {
                place: pending.failures.get(place, UNFINITE)
                for place in np.flatnonzero(~finite).tolist()
            }
            return Ran(logits, failures)

        return result

    def _known(self, pairs: Sequence[Any]) -> list[Any]:
        """The pairs, with the tokens of documents in place of their texts where they have any."""
        layout = self.scorer.assembly.layout
        tokenization = layout.tokenization
        if tokenization is None or not self.cache.is_on:
            return list(pairs)
        parts = [parts_of(pair) for pair in pairs]
        texts = [None if part is None else valid(part[1]) for part in parts]
        every = list({text for text in texts if text is not None})
        known = dict(zip(every, self.cache.find(tokenization, every), strict=True))
        missing = [text for text in every if known[text] is None]
        whole = [text.join((tokenization.before, tokenization.after)) for text in missing]
        ids, failed = self.scorer.assembly.tokenizer.try_encode(whole)
        for text, asked, found in zip(missing, whole, ids, strict=True):
            if asked not in failed:  # else the reader says of it why
                known[text] = made = TokenizedText(found, tokenization)
                self.cache.keep(text, made)
        return [
            pair if part is None or text is None or known[text] is None else (part[0], known[text])
            for pair, part, text in zip(pairs, parts, texts, strict=True)
        ]


@dataclass(frozen=True)
class LateSource:
    """Pairs of late interaction; texts are encoded where they run.

    Attributes:
        model: that runs.
        budget_tokens: of a pack.
        is_whole: whether pairs fail of which the model would not read all, which is looked up where
            they are read.
    """

    model: LateInteraction
    budget_tokens: int
    is_whole: bool = False

    key: Hashable = "late"
    columns: int = 1

    def tokens(self, query: int, document: int) -> int:
        """About how many the model reads of texts of such lengths."""
        settings = self.model.settings
        return min(query // _CHARACTERS_A_TOKEN + 2, settings.query.max_length) + min(
            document // _CHARACTERS_A_TOKEN + 2, settings.document.max_length
        )

    def costs(self, pairs: Sequence[Any]) -> Costs:
        """By the characters; where pairs are only read as they are, as much as they are long."""
        lengths = self.lengths(pairs)
        if not self.is_whole:
            return Costs(lengths, lengths)
        made = [sum(size) // _CHARACTERS_A_TOKEN for size in _sizes(pairs)]
        return Costs(lengths, list(map(max, lengths, made)))

    def lengths(self, pairs: Sequence[Any]) -> list[int]:
        """About how many tokens the model reads, and the time to make those that it does not."""
        a_token = _CHARACTERS_A_TOKEN * _MADE_A_RUN
        return [self.tokens(*size) + sum(size) // a_token for size in _sizes(pairs)]

    def read(self, pairs: Sequence[Any]) -> Read:
        """Those that are of texts, as they are; lengths are by the characters."""
        sound: dict[int, tuple[str, str]] = {}
        failures: dict[int, str] = {}
        for place, pair in enumerate(pairs):
            try:
                sound[place] = plain_texts_of(pair)
            except InputError as error:
                failures[place] = str(error)
        if self.is_whole:
            places = list(sound)
            for place, reason in cut_pairs(self.model, list(sound.values())).items():
                failures[places[place]] = reason
                del sound[places[place]]
        every = list(sound.values())
        return Read(every, list(sound), np.array(self.lengths(every), dtype=np.int32), failures)

    def start(self, some: Sequence[tuple[list[tuple[str, str]], int, int]]) -> Started:
        """Score them together: of equal texts each is encoded once."""
        pairs = [pair for part, start, stop in some for pair in part[start:stop]]
        scores, failures = self.model.try_score(pairs)
        tokens = [
            sum(self.tokens(*size) for size in _sizes(part[start:stop]))
            for part, start, stop in some
        ]
        return lambda: Ran(scores[:, None], failures, tokens)


@dataclass(frozen=True)
class Reading:
    """Texts of which something is made where pairs are read; nothing runs.

    Attributes:
        call: makes it of a text.
        guess: of how many tokens texts have.
        found: where what is made is left, in the order of the texts.
    """

    call: Callable[[str], Any]
    guess: TokenGuess
    found: list[Any]

    key: Hashable = None
    columns: int = 0
    budget_tokens: int = 1 << 60

    def costs(self, pairs: Sequence[Any]) -> Costs:
        """By the characters."""
        costs = Costs([], [])
        for text in pairs:
            costs.add(1, 1 + self.guess.tokens(text))
        return costs

    def read(self, pairs: Sequence[Any]) -> Read:
        """All that is to be done."""
        self.found.extend(map(self.call, pairs))
        return Read(None, [], np.zeros(0, dtype=np.int32), {})

    def start(self, some: Sequence[tuple[Any, int, int]]) -> Started:
        """Nothing, as `read` leaves nothing to run."""
        raise AssertionError("a reading has no sequences to run")


@dataclass(frozen=True)
class Alone:
    """What cannot share a pack: early exits, documents of a store. It is one pair to the engine.

    Attributes:
        call: does all of it; returns the answer, and how many tokens ran for it.
        tokens: about how many that will be.
        answers: where what it returned is left.
    """

    call: Callable[[], tuple[Any, int]]
    tokens: int
    answers: list[Any]

    key: Hashable = None
    columns: int = 1
    budget_tokens: int = 1 << 60

    def costs(self, pairs: Sequence[Any]) -> Costs:
        """All; nothing of it is read ahead."""
        return Costs([self.tokens], [1])

    def read(self, pairs: Sequence[Any]) -> Read:
        """See `costs`."""
        return Read(None, [0], np.array([self.tokens], dtype=np.int32), {})

    def start(self, some: Sequence[tuple[Any, int, int]]) -> Started:
        """Do it."""
        answer, tokens = self.call()
        self.answers.append(answer)
        return lambda: Ran(np.zeros((1, 1), dtype=np.float32), {}, [tokens])


def _spared(pack: Pack) -> Int32 | None:
    """With how many tokens each sequence begins as the one before it; None: with none."""
    if pack.queries is None or pack.shared is None:
        return None
    spared = pack.shared.copy()
    spared[1:] *= pack.queries[1:] == pack.queries[:-1]
    spared[:1] = 0
    return spared


def _sizes(pairs: Sequence[Any]) -> list[tuple[int, int]]:
    """Lengths of the texts of pairs."""
    return [(length_of(query), length_of(document)) for query, document, _ in map(known_of, pairs)]


def length_of(text: str) -> int:
    """Characters of a text to late interaction: others than ASCII are a token each."""
    ascii, others = characters(text)
    return ascii + _CHARACTERS_A_TOKEN * others
