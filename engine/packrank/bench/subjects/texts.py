"""Pairs to measure with: of named distributions of length, of one length, or from a file."""

import re
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from packrank.demo.report import Sample
from packrank.errors import InputError
from packrank.records.file import RecordFile, nothing_in
from packrank.records.record import Kind

Pairs = list[tuple[str, str]]
_TEXTS = Kind("text", ("text",), plain="text", text="text", beir="corpus.jsonl")
_MOST_OF_A_FILE = 100_000
_RARE = 0.1  # share of words that no tokenizer has whole
_SYLLABLES = [a + b for a in "bcdfghklmnprstvw" for b in "aeiou"]


@dataclass(frozen=True)
class Lengths:
    """How long queries and documents are, in words; log-normal.

    Attributes:
        query: words of a query, on average.
        document: of a document.
        spread: standard deviation of the logarithm of a document's words.
    """

    query: float
    document: float
    spread: float


# Words on average: Thakur et al. 2021 (BEIR), table 1, of MS MARCO and Natural Questions.
NAMED = {
    "msmarco-like": Lengths(5.96, 55.98, 0.4),
    "nq-like": Lengths(9.16, 78.88, 0.6),
    "long": Lengths(10.0, 900.0, 0.5),
}
_QUERY_SPREAD = 0.35


@dataclass(frozen=True)
class Texts:
    """What pairs are drawn from.

    Attributes:
        name: as it was asked for.
        max_length: tokens that every pair is cut to, all of them longer; None: as the model says.
        queries: texts; empty: drawn.
        documents: likewise.
        left_out: what of a file is not read, and why.
    """

    name: str
    max_length: int | None = None
    queries: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @classmethod
    def named(cls, name: str) -> "Texts":
        """By a name of `NAMED`, "fixed:TOKENS", or from a file of texts.

        Raises:
            InputError: none of these, or the file has no text.
            OSError: the file cannot be read.
        """
        if name in NAMED:
            return cls(name)
        if (match := re.fullmatch(r"fixed:(\d+)", name)) and int(match[1]) > 0:
            return cls(name, max_length=int(match[1]))
        if name.startswith("fixed:"):
            raise InputError(f"{name} has no number of tokens from 1, such as fixed:128")
        try:
            documents, left_out = _read(name)
            return cls(name, documents=documents, left_out=left_out)
        except FileNotFoundError:
            known = ", ".join(NAMED)
            raise InputError(
                f"lengths {name!r} are none of {known} or fixed:TOKENS, and no file of texts"
            ) from None

    def request(self, candidates: int, seed: int) -> tuple[str, list[str]]:
        """A query and its candidates.

        Args:
            candidates: how many.
            seed: of what is drawn: the same gives the same.
        """
        rng = np.random.default_rng([seed, 7])
        if self.documents:
            start = int(rng.integers(len(self.documents)))
            chosen = list(islice(cycle(self.documents), start, start + candidates))
            return _text(rng, NAMED["msmarco-like"].query, _QUERY_SPREAD), chosen
        if self.max_length is not None:
            # A word is a token at least.
            return _text(rng, 6, 0.0), [_text(rng, self.max_length, 0.0) for _ in range(candidates)]
        of = NAMED[self.name]
        query = _text(rng, of.query, _QUERY_SPREAD)
        return query, [_text(rng, of.document, of.spread) for _ in range(candidates)]

    def pairs(self, count: int, candidates: int, seed: int) -> Pairs:
        """`count` pairs, of queries with so many candidates each."""
        drawn: Pairs = []
        while len(drawn) < count:
            number = len(drawn) // candidates
            few = min(candidates, count - len(drawn))
            query, documents = self.request(few, seed * 1_000_003 + number)
            drawn += [(query, document) for document in documents]
        return drawn


def _text(rng: np.random.Generator, words: float, spread: float) -> str:
    mean = np.log(words) - spread**2 / 2
    length = max(1, round(float(np.exp(rng.normal(mean, spread)))))
    vocabulary = _words()
    chosen = [vocabulary[place] for place in rng.integers(len(vocabulary), size=length).tolist()]
    for place in np.flatnonzero(rng.random(length) < _RARE).tolist():
        syllables = rng.integers(len(_SYLLABLES), size=int(rng.integers(2, 5))).tolist()
        chosen[place] = "".join(_SYLLABLES[syllable] for syllable in syllables)
    return " ".join(chosen)


_kept: list[str] = []


def _words() -> list[str]:
    """Of the shipped sample, as often as they stand there."""
    if not _kept:
        _kept.extend(word for text in Sample.load().documents for word in text.split())
    return _kept


def _read(path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts of a file, and what is left out of it."""
    texts: list[str] = []
    failures: list[tuple[int, str]] = []
    left_out = []
    with RecordFile(path, _TEXTS) as file:
        for record in file.records():
            if record.error is not None:
                failures.append((record.number, record.error))
            elif not record.fields["text"].strip():
                failures.append((record.number, "its text is empty"))
            elif len(texts) == _MOST_OF_A_FILE:
                left_out.append(f"{path}: what comes after {_MOST_OF_A_FILE:,} texts")
                break
            else:
                texts.append(record.fields["text"])
        if not texts:
            raise InputError(nothing_in(file, failures))
    if failures:
        number, reason = failures[0]
        more = f", and {len(failures) - 1:,} more" * (len(failures) > 1)
        left_out.append(f"{path}: {file.part} {number}: {reason}{more}")
    return tuple(texts), tuple(left_out)
