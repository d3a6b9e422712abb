"""Texts scored and ranked by late interaction: encoded, run by run, and their MaxSim."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from packrank.arguments import listed, listed_requests
from packrank.documents import document_of
from packrank.errors import InputError, Unfinite, raise_first
from packrank.late.attached import per_token
from packrank.late.token_vectors import TokenVectors
from packrank.request import Ranked
from packrank.text.pairs import plain_texts_of
from packrank_kernels import TokenEmbeddings, maxsim

# Pairs whose documents' vectors are held at once: 256 * 180 tokens * 128 floats are 24 MB.
_PAIRS_AT_ONCE = 256
# Scores of queries that share documents, which are held at once: 256 MB.
SCORES_AT_ONCE = 1 << 26

_Pair = tuple[int, str, str]  # its place, query, document


def score_texts(
    pairs: Sequence[Any],
    queries: TokenVectors,
    documents: TokenVectors,
    mean: bool,
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Scores of pairs of texts, and why others have none.

    Args:
        pairs: N (query, document) pairs; anything else fails by itself.
        queries: what encodes the one side.
        documents: the other.
        mean: whether a score is divided by the number of query tokens.

    Returns:
        [N] float32, -inf for a document without vectors, NaN for pairs that failed; and index ->
        reason of those.
    """
    scores = np.full(len(pairs), np.nan, dtype=np.float32)
    failures: dict[int, str] = {}
    sound: list[_Pair] = []
    for index, pair in enumerate(pairs):
        try:
            sound.append((index, *plain_texts_of(pair)))
        except InputError as error:
            failures[index] = str(error)
    for run in _runs(sound):
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
                    failures[index] = Unfinite("its score is not a finite number")
    return scores, dict(sorted(failures.items()))


def rank_alike(
    asked: Sequence[str],
    given: Sequence[Any],
    top_k: int | None,
    queries: TokenVectors,
    documents: TokenVectors,
    mean: bool,
    *,
    strict: bool = True,
) -> Iterator[tuple[list[Ranked], dict[int, str]]]:
    """The same documents ranked for each of several queries; each text is encoded once.

    Args:
        asked: Q queries.
        given: N documents, as `Reranker.rank` takes them; [Q, N] float32 of scores are held.
        top_k: how many to rank; all if None.
        queries: what encodes the one side.
        documents: the other.
        mean: see `score_texts`.
        strict: whether a query that cannot be encoded is an error.

    Yields:
        For each query: best first, equal scores in their order; and index -> reason of documents
        that cannot be scored.

    Raises:
        InputError: `strict`, and a query cannot be encoded; else all documents fail for it.
    """
    vectors, broken = queries.encode(asked)
    for reason in broken.values() if strict else ():
        raise InputError(reason)
    scores = np.full((len(asked), len(given)), np.nan, dtype=np.float32)
    unusable: dict[int, str] = {}
    empty: set[int] = set()
    sound: list[tuple[int, str]] = []
    for index, document in enumerate(given):
        try:
            sound.append((index, plain_texts_of(("", document))[1]))
        except InputError as error:
            unusable[index] = str(error)
    for start in range(0, len(sound), _PAIRS_AT_ONCE):
        run = sound[start : start + _PAIRS_AT_ONCE]
        encoded, unreadable = documents.encode(text for _, text in run)
        unusable |= {index: unreadable[text] for index, text in run if text in unreadable}
        indices = [index for index, text in run if text in encoded]
        if not indices:
            continue
        rows = [encoded[text] for _, text in run if text in encoded]
        empty.update(index for index, found in zip(indices, rows, strict=True) if not len(found))
        packed = TokenEmbeddings.encode(rows, str(rows[0].dtype).removeprefix("torch."))
        for place, query in enumerate(asked):
            if query in vectors:
                scores[place, indices] = score_of(vectors[query], packed, mean).cpu().numpy()
    for query, mine in zip(asked, scores, strict=True):
        if query in broken:
            yield [], dict.fromkeys(range(len(given)), broken[query])
            continue
        failures = dict(unusable)
        for index in np.flatnonzero(~np.isfinite(mine)).tolist():
            if index not in empty:
                failures.setdefault(index, Unfinite("its score is not a finite number"))
        order = np.argsort(-mine, kind="stable").tolist()
        best = [index for index in order if index not in failures][:top_k]
        ranking = [Ranked(i, float(mine[i]), *document_of(given[i])) for i in best]
        yield ranking, dict(sorted(failures.items()))


def rank_requests(
    requests: Any,
    top_k: int | None,
    queries: TokenVectors,
    documents: TokenVectors,
    mean: bool,
    *,
    strict: bool = False,
) -> list[tuple[list[Ranked], dict[int, str]]]:
    """What `rank_alike` makes of requests, those together that have the same object one by one.

    Raises:
        InputError: they are no (query, documents) each; or `strict`, and a query cannot be encoded.
        PairError: `strict`, and a document cannot be scored; its index counts over those of all.
    """
    raw = listed("requests", requests, "(query, documents) each")
    refused: dict[int, str] = {}
    every = listed_requests(raw, None if strict else refused)
    found: list[tuple[list[Ranked], dict[int, str]]] = []
    before = 0
    while len(found) < len(every):
        start = len(found)
        stop, given = start + 1, every[start][1]
        if start in refused:
            found.append(([], dict.fromkeys(range(len(given)), refused[start])))
            continue
        most = start + max(1, SCORES_AT_ONCE // max(len(given), 1))
        while stop < min(most, len(every)) and raw[stop][1] is raw[start][1]:
            if stop in refused:
                break
            stop += 1
        asked = [query for query, _ in every[start:stop]]
        sides = queries, documents, mean
        for ranking, failures in rank_alike(asked, given, top_k, *sides, strict=strict):
            if strict:
                raise_first(failures, "try_rank_many", before)
            found.append((ranking, failures))
            before += len(given)
    return found


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
