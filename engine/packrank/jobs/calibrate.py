"""Queries and their candidates, each from a file, to logits after every exit layer."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from packrank.checkpoint.files import shown
from packrank.errors import InputError
from packrank.records.file import RecordFile, is_stdin, nothing_in
from packrank.records.formats import Format
from packrank.records.record import CANDIDATES, QUERIES, Record
from packrank.reranker import Reranker

# Queries are scored a window at a time; windows double while one takes less than these seconds.
_WINDOW_SECONDS = 2.0
_WINDOW_QUERIES = 64


@dataclass
class Query:
    """A query, the records of its candidates, and their logits once they are scored."""

    text: str
    records: list[Record] = field(default_factory=list)
    logits: NDArray[np.float32] | None = None


def read_queries(
    queries: str,
    candidates: str,
    failures: list[tuple[str, str, str]],
    format: Format | None = None,
) -> list[Query]:
    """Queries in their order, each with its candidates.

    Args:
        queries: a file of records with "id" and "text"; "-" is standard input.
        candidates: likewise, with "query", the id of one, and "text".
        failures: gains file, place in it and reason of what cannot be used.
        format: what both files are; None: as their first bytes and their names say.

    Raises:
        InputError: both are standard input, or a file is not read or has nothing that can be used.
        OSError: a file cannot be opened.
    """
    if is_stdin(queries) and is_stdin(candidates):
        raise InputError("queries and candidates cannot both come from standard input")
    # None: left out, as the same text in both halves would make one tell of the other.
    known: dict[str, Query | None] = {}
    texts: dict[str, str] = {}
    wrong: list[tuple[int, str]] = []
    with RecordFile(queries, QUERIES, format) as file:
        for record in file.records():
            try:
                _check(record)
                id, text = record.fields["id"], record.fields["text"]
                if id in known:
                    raise InputError(f'"id" is {shown(id)}, as of a query before')
                first = texts.setdefault(text, id)
                known[id] = Query(text) if first == id else None
                if first != id:
                    raise InputError(f'"text" is that of query {shown(first)} before')
            except InputError as error:
                wrong.append((record.number, str(error)))
        if not known:
            raise InputError(nothing_in(file, wrong))
        failures += [(queries, f"{file.part} {number}", reason) for number, reason in wrong]
    wrong, usable = [], 0
    with RecordFile(candidates, CANDIDATES, format) as file:
        for record in file.records():
            try:
                _check(record)
                id = record.fields["query"]
                if id not in known:
                    raise InputError(f'"query" is {shown(id)}, which is the id of no query')
                usable += 1
                if (query := known[id]) is not None:
                    query.records.append(record)
            except InputError as error:
                wrong.append((record.number, str(error)))
        if not usable:
            raise InputError(nothing_in(file, wrong))
        failures += [(candidates, f"{file.part} {number}", reason) for number, reason in wrong]
    return [query for query in known.values() if query is not None]


def _check(record: Record) -> None:
    if record.error is not None:
        raise InputError(record.error)


def score_queries(
    model: Reranker, queries: Sequence[Query], layers: tuple[int, ...], bar: "tqdm[None]"
) -> Iterator[tuple[Record, str]]:
    """Give every query its logits; yields the candidates that cannot be scored, and why."""
    start, most = 0, 1
    while window := queries[start : start + most]:
        began = time.perf_counter()
        records = [record for query in window for record in query.records]
        pairs = [(query.text, str(one.fields["text"])) for query in window for one in query.records]
        logits, reasons = model.try_score(pairs, activation="identity", cutoff_layers=list(layers))
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
        if time.perf_counter() - began < _WINDOW_SECONDS:
            most = min(2 * most, _WINDOW_QUERIES)
