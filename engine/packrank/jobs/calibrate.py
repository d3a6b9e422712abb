"""Queries and their candidates, each from a file, to logits after every exit layer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from packrank.checkpoint.files import shown
from packrank.errors import InputError
from packrank.jobs.pace import Doubling
from packrank.jobs.queries import OnFailure, of_no_query, read_queries
from packrank.records.file import RecordFile, is_stdin, nothing_in
from packrank.records.formats import Format
from packrank.records.record import CANDIDATES, Record
from packrank.reranker import Reranker

# Most queries that are scored at once.
_WINDOW_QUERIES = 64


@dataclass
class Asked:
    """A query, the records of its candidates, and their logits once they are scored."""

    text: str
    records: list[Record] = field(default_factory=list)
    logits: NDArray[np.float32] | None = None


def read_asked(
    queries: str, candidates: str, on_failure: OnFailure, format: Format | None = None
) -> list[Asked]:
    """Queries in their order, each with its candidates.

    Args:
        queries: a file of records with "id" and "text"; "-" is standard input.
        candidates: likewise, with "query", the id of one, and "text".
        on_failure: is told of what cannot be used; of candidates of a query that cannot be used
            it is not.
        format: what both files are; None: as their first bytes and their names say.

    Raises:
        InputError: both are standard input, or a file is not read or has nothing that can be used.
        OSError: a file cannot be opened.
    """
    if is_stdin(queries) and is_stdin(candidates):
        raise InputError("queries and candidates cannot both come from standard input")
    unusable: set[str] = set()
    asked: dict[str | None, Asked] = {}
    texts: dict[str, str | None] = {}
    for query in read_queries(queries, format, on_failure, unusable=unusable):
        first = texts.setdefault(query.text, query.id)
        if first == query.id:
            asked[query.id] = Asked(query.text)
        else:  # the same text in both halves would make one tell of the other
            on_failure(query.place, f'"text" is that of query {shown(first)} before')
            unusable.add(str(query.id))
    wrong: list[tuple[int, str]] = []
    usable = 0
    with RecordFile(candidates, CANDIDATES, format) as file:
        for record in file.records():
            try:
                if record.error is not None:
                    raise InputError(record.error)
                id = record.fields["query"]
                if id in asked:
                    asked[id].records.append(record)
                elif id not in unusable:
                    raise InputError(of_no_query(id))
                usable += 1
            except InputError as error:
                wrong.append((record.number, str(error)))
        if not usable:
            raise InputError(nothing_in(file, wrong))
        for number, reason in wrong:
            on_failure(f"{file.name}, {file.part} {number}", reason)
    return list(asked.values())


def score_queries(
    model: Reranker, queries: Sequence[Asked], layers: tuple[int, ...], bar: "tqdm[None]"
) -> Iterator[tuple[Record, str]]:
    """Give every query its logits; yields the candidates that cannot be scored, and why."""
    start, pace = 0, Doubling(1, _WINDOW_QUERIES)
    while window := queries[start : start + pace.size]:
        records = [record for query in window for record in query.records]
        pairs = [(query.text, str(one.fields["text"])) for query in window for one in query.records]
        with pace.kept():
            logits, reasons = model.try_score(
                pairs, activation="identity", cutoff_layers=list(layers)
            )
        usable = np.ones(len(pairs), dtype=np.bool_)
        usable[list(reasons)] = False
        at = 0
        for query in window:
            mine = slice(at, at + len(query.records))
            query.logits = logits[mine][usable[mine]]
            at = mine.stop
        for place, reason in reasons.items():
            yield records[place], reason
        bar.update(len(pairs))
        start += len(window)
