"""Queries and what is to be ranked for each, to rankings, a window of queries at a time."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from packrank.errors import InputError
from packrank.jobs.answers import Answer, Row
from packrank.jobs.queries import Query, Request
from packrank.jobs.score import Scorer
from packrank.late_interaction import LateInteraction
from packrank.records.record import Record
from packrank.request import Ranked
from packrank.reranker import Reranker

# A window is ranked at once; windows double while one takes less than these seconds, up to these
# queries, and end with the query that brings them to so many pairs or characters.
_WINDOW_SECONDS = 2.0
_WINDOW_QUERIES = 64
_WINDOW_PAIRS = 4096
_WINDOW_CHARACTERS = 16_000_000
# In late interaction queries of the same documents share their vectors, which are held for some
# pairs at a time: with more queries they would be encoded a few at a time.
_LATE_QUERIES = 16


def rank_texts(
    model: Scorer, requests: Iterable[Request], top_k: int | None, options: Mapping[str, Any]
) -> Iterator[Answer]:
    """Rank the texts of records.

    Args:
        model: what ranks.
        requests: in their order; records of "text". Where many have the same records, let it be
            the same object.
        top_k: see `Reranker.rank`.
        options: of `Reranker.try_rank_many`, for a reranker.

    Raises:
        InputError: a query without an id, which comes by itself, cannot be ranked so.
        PackrankError: the model cannot rank at all.
    """
    coming, most = iter(requests), 1
    while window := _take(coming, most):
        start = time.perf_counter()
        if isinstance(model, Reranker):
            answers = _by_reranker(model, window, top_k, options)
        else:
            answers = _by_late_interaction(model, window, top_k)
        if time.perf_counter() - start < _WINDOW_SECONDS:
            limit = _WINDOW_QUERIES if isinstance(model, Reranker) else _LATE_QUERIES
            most = min(2 * most, limit)
        yield from answers


def rank_store(
    model: LateInteraction, requests: Iterable[Request], top_k: int | None, exact: bool | int
) -> Iterator[Answer]:
    """Rank documents of the store that is attached, by the "id" of records.

    Args and errors: see `rank_texts`.
    """
    for query, records in requests:
        ids = None if records is None else [str(record.fields["id"]) for record in records]
        try:
            ranking, failures = model.try_rank(query.text, None, top_k, candidates=ids, exact=exact)
        except InputError as error:
            if query.id is None:
                raise
            yield Answer(query, [], [], error=str(error))
            continue
        rows = [Row(score, id) for _, score, id in ranking]
        yield Answer(query, rows, sorted(failures.items()))


def _take(requests: Iterator[Request], most: int) -> list[tuple[Query, Sequence[Record]]]:
    """The next requests, a window of them; none at the end."""
    window: list[tuple[Query, Sequence[Record]]] = []
    pairs = characters = 0
    while len(window) < most and pairs < _WINDOW_PAIRS and characters < _WINDOW_CHARACTERS:
        request = next(requests, None)
        if request is None:
            break
        query, records = request
        assert records is not None
        window.append((query, records))
        pairs += len(records)
        characters += sum(len(record.fields["text"]) for record in records)
    return window


def _texts(records: Sequence[Record]) -> list[str]:
    return [str(record.fields["text"]) for record in records]


def _by_reranker(
    model: Reranker,
    window: list[tuple[Query, Sequence[Record]]],
    top_k: int | None,
    options: Mapping[str, Any],
) -> list[Answer]:
    requests = [(query.text, _texts(records)) for query, records in window]
    answers: list[Answer] = []
    try:
        rankings = model.try_rank_many(requests, top_k, **options)
    except InputError as error:  # such as of more candidates than margins hold for
        if len(window) > 1:
            return [
                answer for one in window for answer in _by_reranker(model, [one], top_k, options)
            ]
        query = window[0][0]
        if query.id is None:
            raise
        return [Answer(query, [], [], error=str(error))]
    for (query, records), (ranking, failures) in zip(window, rankings, strict=True):
        layers = ranking.num_layers.tolist()
        answer = _answer(query, records, ranking, failures, layers)
        # Of all requests, and so of the first.
        answers.append(answer if answers else replace(answer, work=ranking.work))
    return answers


def _by_late_interaction(
    model: LateInteraction, window: list[tuple[Query, Sequence[Record]]], top_k: int | None
) -> list[Answer]:
    first = window[0][1]
    if len(window) > 1 and all(records is first for _, records in window):
        return _of_the_same(model, [query for query, _ in window], first, top_k)
    answers = []
    for query, records in window:
        try:
            answers.append(
                _answer(query, records, *model.try_rank(query.text, _texts(records), top_k))
            )
        except InputError as error:
            if query.id is None:
                raise
            answers.append(Answer(query, [], [], error=str(error)))
    return answers


def _of_the_same(
    model: LateInteraction, queries: list[Query], records: Sequence[Record], top_k: int | None
) -> list[Answer]:
    """Each document is encoded once for all these queries, as `try_score` takes those together."""
    texts = _texts(records)
    scores, reasons = model.try_score([(query.text, text) for text in texts for query in queries])
    answers = []
    for place, query in enumerate(queries):
        mine = scores[place :: len(queries)]
        failures = {
            index: reasons[pair]
            for index, pair in enumerate(range(place, len(scores), len(queries)))
            if pair in reasons
        }
        order = np.argsort(-mine, kind="stable").tolist()
        best = [index for index in order if index not in failures][:top_k]
        ranking = [Ranked(index, float(mine[index]), texts[index]) for index in best]
        answers.append(_answer(query, records, ranking, failures))
    return answers


def _answer(
    query: Query,
    records: Sequence[Record],
    ranking: Sequence[Ranked],
    failures: Mapping[int, str],
    layers: Sequence[int] = (),
) -> Answer:
    rows = []
    for index, score, _ in ranking:
        record = records[index]
        rows.append(Row(score, record.fields.get("id"), record, layers[index] if layers else None))
    return Answer(
        query,
        rows,
        [(records[index].number, reason) for index, reason in sorted(failures.items())],
        {record.number: count for record, count in zip(records, layers, strict=False)},
    )
