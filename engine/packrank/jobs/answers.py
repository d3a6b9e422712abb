"""What queries come to, and lines of it: a JSON object a document, or a TREC run."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from packrank.jobs.queries import Query, trec_id
from packrank.records.record import Record
from packrank.work import Calls, Work

_SAVED = ("prefix", "exits", "last_layer", "compression")


class Row(NamedTuple):
    """A document in its place.

    Attributes:
        score: of it; -inf of a document without token vectors.
        id: of it in a store; as its record has it, None if it has none.
        record: that it came from, None of a store.
        layers: that it ran, None where there are none to leave out.
    """

    score: float
    id: Any
    record: Record | None = None
    layers: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a query came to.

    Attributes:
        query: that was asked.
        rows: best first.
        failures: number of the record, or place in the store, and why it has no score.
        layers: number of each record -> layers that it ran; empty in late interaction.
        work: of it and of the queries of its window after it; None of those, in late interaction,
            and where several devices shared it.
        error: why nothing was ranked, None if something could have been.
        calls: what the model was asked, where it judges several documents at a time; else None.
    """

    query: Query
    rows: list[Row]
    failures: list[tuple[int, str]]
    layers: dict[int, int] = field(default_factory=dict)
    work: Work | None = None
    error: str | None = None
    calls: Calls | None = None


def json_lines(answer: Answer) -> Iterator[str]:
    """{"query", its id if it has one, "rank", "score", and what is known of the document}."""
    query = {} if answer.query.id is None else {"query": answer.query.id}
    for rank, (score, id, record, layers) in enumerate(answer.rows, start=1):
        row: dict[str, object] = {**query, "rank": rank, "score": number(score)}
        if record is None:
            row["id"] = id
        else:
            row["line"] = record.number
            if layers is not None:
                row["layers"] = layers
            row |= {name: record.fields[name] for name in ("id", "text") if name in record.fields}
        yield json.dumps(row)


def trec_lines(answer: Answer) -> Iterator[str]:
    """Of a TREC run: query, Q0, document, rank, score and packrank."""
    for rank, (score, id, record, _) in enumerate(answer.rows, start=1):
        name = id if record is None else trec_id(record)
        yield f"{answer.query.id} Q0 {name} {rank} {score!r} packrank"


def summary_of(
    layers: dict[int, int], work: Work | None, calls: Calls | None = None
) -> dict[str, object]:
    """What a query took of a reranker: layers by number of a record, and token-layers or calls."""
    return {"layers": layers} | _token_layers(work) | _calls(calls)


def summary_of_many(
    queries: int, documents: int, layers: int, work: Work | None, calls: Calls | None = None
) -> dict[str, object]:
    """What queries took of a reranker: how many of each, layers of all documents, and the rest."""
    counts: dict[str, object] = {"queries": queries, "documents": documents, "layers": layers}
    return counts | _token_layers(work) | _calls(calls)


def _calls(calls: Calls | None) -> dict[str, object]:
    return {} if calls is None else {"calls": asdict(calls)}


def _token_layers(work: Work | None) -> dict[str, object]:
    if work is None:
        return {}
    shown = {name: getattr(work, name) for name in ("total", "computed", "recomputed")}
    saved = {f"saved_by_{what}": getattr(work, f"saved_by_{what}") for what in _SAVED}
    return {"token_layers": shown | saved}


def number(score: float) -> float | None:
    """As JSON has it, in which -inf, of a document without token vectors, has no spelling."""
    return None if score == -math.inf else score
