"""BM25: the first stage and the baseline of the shipped sample."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from packrank.errors import InputError

# The default English stop words of Apache Lucene.
_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())


class BM25:
    """A small in-memory index over documents.

    score(q, d) = sum over words w of q:  idf(w) * tf / (tf + k1 * (1 - b + b * |d| / mean |d|))
    idf(w) = ln(1 + (N - n + 0.5) / (n + 0.5)),  n documents of N contain w

    Words are lower-cased runs of letters, digits and underscores, less `STOP_WORDS`; no stemming.

    Source: Lucene's BM25Similarity, which drops the constant factor k1 + 1 of Robertson and
    Zaragoza 2009, section 3.5; the variants are compared in Kamphuis et al. 2020.
    """

    def __init__(self, documents: Sequence[str], *, k1: float = 1.2, b: float = 0.75) -> None:
        """Index the documents.

        Args:
            documents: N texts.
            k1: how slowly repeats of a word saturate; at least 0.
            b: how far a long document is held against it; 0 to 1.

        Raises:
            InputError: k1 or b is out of range.
        """
        if not k1 >= 0 or not 0 <= b <= 1:
            raise InputError(f"BM25 needs k1 >= 0 and 0 <= b <= 1, got k1={k1}, b={b}")
        self._num_documents = len(documents)
        counts = [Counter(words(text)) for text in documents]
        lengths = np.array([count.total() for count in counts], dtype=np.float64)
        mean = lengths.mean() if lengths.any() else 1.0
        penalty = k1 * (1 - b + b * lengths / mean)
        postings: dict[str, list[tuple[int, int]]] = {}
        for document, count in enumerate(counts):
            for word, times in count.items():
                postings.setdefault(word, []).append((document, times))
        self._postings: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for word, entries in postings.items():
            where, frequency = np.array(entries, dtype=np.int64).T
            idf = np.log1p((len(counts) - len(where) + 0.5) / (len(where) + 0.5))
            self._postings[word] = (where, idf * frequency / (frequency + penalty[where]))

    def scores(self, query: str) -> NDArray[np.float64]:
        """[N] scores, 0 for a document that shares no word with the query."""
        total = np.zeros(self._num_documents)
        for word in words(query):
            if word in self._postings:
                where, weights = self._postings[word]
                total[where] += weights
        return total

    def rank(self, query: str, top_k: int | None = None) -> list[int]:
        """Indices of the top_k (all if None) documents, best first; ties go to the lower index."""
        return [int(i) for i in np.argsort(-self.scores(query), kind="stable")[:top_k]]


def words(text: str) -> list[str]:
    """The indexed words of a text, in order, repeats included."""
    return [word for word in re.findall(r"\w+", text.lower()) if word not in STOP_WORDS]
