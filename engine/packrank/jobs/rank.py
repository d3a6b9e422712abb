"""Queries and what is to be ranked for each, to rankings, a window of queries at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from packrank.errors import InputError
from packrank.jobs.answers import Answer, Row
from packrank.jobs.facts import Ranker
from packrank.jobs.pace import Doubling
from packrank.jobs.queries import Query, Request, is_fit_for_trec, trec_surplus
from packrank.late.text_scores import SCORES_AT_ONCE
from packrank.late_interaction import LateInteraction
from packrank.ordering.joint_ranker import JointRanker
from packrank.records.record import Record
from packrank.request import Ranked
from packrank.reranker import Reranker

# A window is ranked at once: up to these queries, and it ends with the one that brings it to so
# many pairs or characters.
_WINDOW_QUERIES = 64
_WINDOW_PAIRS = 4096
_WINDOW_CHARACTERS = 16_000_000
# In late interaction the documents that queries share are encoded once for so many of them: of more
# documents fewer queries, so that neither their scores nor their rows fill the memory.
_ALIKE_QUERIES = 1024
_ALIKE_ROWS = 1 << 21

_Window = list[tuple[Query, Sequence[Record]]]


def rank_texts(
    model: Ranker, requests: Iterable[Request], top_k: int | None, options: Mapping[str, Any]
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
    if isinstance(model, LateInteraction):
        for window in _alike(requests, top_k):
            yield from _by_late_interaction(model, window, top_k)
        return
    coming, pace = iter(requests), Doubling(1, _WINDOW_QUERIES)
    while window := _take(coming, pace.size):
        with pace.kept():
            answers = _by_reranker(model, window, top_k, options)
        yield from answers


def rank_store(
    model: LateInteraction,
    requests: Iterable[Request],
    top_k: int | None,
    exact: bool | int,
    on_unfit: Callable[[str], None] | None = None,
) -> Iterator[Answer]:
    """Rank documents of the store that is attached, by the "id" of records.

    Args and errors: see `rank_texts`; `exact` is that of `LateInteraction.rank`. Where `on_unfit`
    is given, rankings are such as a TREC run can hold: of documents of one id the best, and none
    whose id has blanks, of which it is told once.
    """
    assert model.store is not None
    surplus = 0 if on_unfit is None else trec_surplus(model.store.ids)
    unfit: set[str] = set()
    for query, records in requests:
        ids = None if records is None else [str(record.fields["id"]) for record in records]
        more = surplus if ids is None else 0
        most = None if top_k is None else top_k + more
        best = exact if isinstance(exact, bool) else exact + more
        try:
            ranking, failures = model.try_rank(query.text, None, most, candidates=ids, exact=best)
        except InputError as error:
            if query.id is None:
                raise
            yield Answer(query, [], [], error=str(error))
            continue
        rows = [Row(score, id) for _, score, id in ranking]
        if more and on_unfit is not None:
            by_id = {row.id: row for row in reversed(rows)}  # the best one stays
            for id in by_id:
                if not is_fit_for_trec(id) and id not in unfit:
                    unfit.add(id)
                    on_unfit(id)
            rows = [row for row in rows if row is by_id[row.id] and row.id not in unfit][:top_k]
        yield Answer(query, rows, sorted(failures.items()))


def _take(requests: Iterator[Request], most: int) -> _Window:
    """The next requests, a window of them; none at the end."""
    window: _Window = []
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


def _alike(requests: Iterable[Request], top_k: int | None) -> Iterator[_Window]:
    """Neighbours of the same records, as many of them as are ranked at once."""
    window: _Window = []
    most = 1
    for query, records in requests:
        assert records is not None
        if window and (records is not window[0][1] or len(window) == most):
            yield window
            window = []
        window.append((query, records))
        if len(window) == 1:
            rows = min(len(records), top_k or len(records))
            scores = min(SCORES_AT_ONCE // max(len(records), 1), _ALIKE_ROWS // max(rows, 1))
            most = max(1, min(_ALIKE_QUERIES, scores))
    if window:
        yield window


def _texts(records: Sequence[Record]) -> list[str]:
    return [str(record.fields["text"]) for record in records]


def _titled(records: Sequence[Record]) -> list[Any]:
    """Titles beside texts, where a prompt may name them; reading a record has joined the two."""
    found: list[Any] = []
    for record in records:
        text, title = str(record.fields["text"]), record.fields.get("title")
        if title:
            begins = f"{title} ".lstrip()
            rest = text.removeprefix(begins) if text.startswith(begins) else ""
            found.append({"title": title, "text": rest})
        else:
            found.append(text)
    return found


def _by_reranker(
    model: Reranker | JointRanker,
    window: _Window,
    top_k: int | None,
    options: Mapping[str, Any],
) -> list[Answer]:
    read = _titled if isinstance(model, JointRanker) else _texts
    requests = [(query.text, read(records)) for query, records in window]
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
        answer = replace(answer, calls=ranking.calls)
        # Of all requests, and so of the first.
        answers.append(answer if answers else replace(answer, work=ranking.work))
    return answers


def _by_late_interaction(
    model: LateInteraction, window: _Window, top_k: int | None
) -> Iterator[Answer]:
    """Of the same records."""
    records = window[0][1]
    texts = _texts(records)
    try:
        found = model.try_rank_many([(query.text, texts) for query, _ in window], top_k)
    except InputError as error:  # a query that cannot be encoded
        if len(window) > 1:
            for half in (window[: len(window) // 2], window[len(window) // 2 :]):
                yield from _by_late_interaction(model, half, top_k)
            return
        query = window[0][0]
        if query.id is None:
            raise
        yield Answer(query, [], [], error=str(error))
        return
    for (query, _), (ranking, failures) in zip(window, found, strict=True):
        yield _answer(query, records, ranking, failures)


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
