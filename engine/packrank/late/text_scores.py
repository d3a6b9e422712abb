"""Texts scored by late interaction: pairs encoded, run by run, and their MaxSim."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from packrank.errors import InputError
from packrank.late.attached import per_token
from packrank.late.token_vectors import TokenVectors
from packrank.text.pairs import texts_of
from packrank_kernels import TokenEmbeddings, maxsim

# Pairs whose documents' vectors are held at once: 256 * 180 tokens * 128 floats are 24 MB.
_PAIRS_AT_ONCE = 256

_Pair = tuple[int, str, str]  # its place, query, document


def score_texts(
    pairs: Sequence[Any],
    queries: TokenVectors,
    documents: TokenVectors,
    mean: bool,
    known: dict[str, Tensor] | None = None,
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Scores of pairs of texts, and why others have none.

    Args:
        pairs: N (query, document) pairs; anything else fails by itself.
        queries: what encodes the one side.
        documents: the other.
        mean: whether a score is divided by the number of query tokens.
        known: vectors of queries that are encoded already.

    Returns:
        [N] float32, -inf for a document without vectors, NaN for pairs that failed; and index ->
        reason of those.
    """
    scores = np.full(len(pairs), np.nan, dtype=np.float32)
    failures: dict[int, str] = {}
    sound: list[_Pair] = []
    for index, pair in enumerate(pairs):
        try:
            sound.append((index, *texts_of(pair)))
        except InputError as error:
            failures[index] = str(error)
    for run in _runs(sound):
        vectors, broken = known or {}, dict[str, str]()
        if known is None:
            vectors, broken = queries.encode(query for _, query, _ in run)
        encoded, unreadable = documents.encode(text for _, query, text in run if query in vectors)
        by_query: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
        for index, query, text in run:
            if query in broken:
                failures[index] = broken[query]
            elif text in unreadable:
                failures[index] = unreadable[text]
            else:
                by_query[query].append((index, encoded[text]))
        for query, found in by_query.items():
            values = similarity(vectors[query], [rows for _, rows in found], mean)
            for (index, rows), value in zip(found, values, strict=True):
                if np.isfinite(value) or not len(rows):
                    scores[index] = value
                else:
                    failures[index] = "its score is not a finite number"
    return scores, dict(sorted(failures.items()))


def similarity(query: Tensor, documents: Sequence[Tensor], mean: bool) -> NDArray[np.float32]:
    """[N] float32, scores of N documents [L, D] for a query [Q, D]; -inf where L is 0."""
    if not documents:
        return np.empty(0, dtype=np.float32)
    kind = str(query.dtype).removeprefix("torch.")
    found: NDArray[np.float32] = (
        score_of(query, TokenEmbeddings.encode(documents, kind), mean).cpu().numpy()
    )
    return found


def score_of(query: Tensor, documents: TokenEmbeddings, mean: bool) -> Tensor:
    """[N] float32, on the device."""
    scores = maxsim(query, documents)
    assert isinstance(scores, Tensor)
    return per_token(scores, query) if mean else scores


def _runs(pairs: list[_Pair]) -> Iterator[list[_Pair]]:
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        yield pairs[start : start + _PAIRS_AT_ONCE]
