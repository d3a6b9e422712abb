"""Queries and their candidates, each from a file, to logits after every exit layer."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from packrank.checkpoint.files import shown
from packrank.errors import InputError
from packrank.lines import Line, open_lines, read_jsonl
from packrank.reranker import Reranker

# Queries are scored a window at a time; windows double while one takes less than these seconds.
_WINDOW_SECONDS = 2.0
_WINDOW_QUERIES = 64


@dataclass
class Query:
    """A query, the lines of its candidates, and their logits once they are scored."""

    text: str
    lines: list[Line] = field(default_factory=list)
    logits: NDArray[np.float32] | None = None


def read_queries(
    queries: str, candidates: str, failures: list[tuple[str, int, str]]
) -> list[Query]:
    """Queries in their order, each with its candidates.

    Args:
        queries: a file of JSON Lines with "id" and "text"; "-" is standard input.
        candidates: likewise, with "query", the id of one, and "text".
        failures: gains file, line number and reason of what cannot be used.

    Raises:
        InputError: both are standard input.
        OSError: a file cannot be read.
    """
    if queries == candidates == "-":
        raise InputError("queries and candidates cannot both come from standard input")
    # None: left out, as the same text in both halves would make one tell of the other.
    known: dict[str, Query | None] = {}
    texts: dict[str, str] = {}
    with open_lines(queries) as source:
        for line in read_jsonl(source, "text"):
            try:
                id = _id(line, "id", "_id")
                if id in known:
                    raise InputError(f'"id" is {shown(id)}, as of a query before')
                text = str(line.fields["text"])
                first = texts.setdefault(text, id)
                known[id] = Query(text) if first == id else None
                if first != id:
                    raise InputError(f'"text" is that of query {shown(first)} before')
            except InputError as error:
                failures.append((queries, line.number, str(error)))
    with open_lines(candidates) as source:
        for line in read_jsonl(source, "text"):
            try:
                id = _id(line, "query")
                if id not in known:
                    raise InputError(f'"query" is {shown(id)}, which is the id of no query')
                if (query := known[id]) is not None:
                    query.lines.append(line)
            except InputError as error:
                failures.append((candidates, line.number, str(error)))
    return [query for query in known.values() if query is not None]


def _id(line: Line, *names: str) -> str:
    """The first of these fields that a line has; a number is its digits."""
    if line.error is not None:
        raise InputError(line.error)
    id = next((line.fields[name] for name in names if name in line.fields), None)
    if id is None:
        raise InputError(f'the object has no "{names[0]}"')
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise InputError(f'"{names[0]}" is {shown(id)}, expected a string')
    return str(id)


def score_queries(
    model: Reranker, queries: Sequence[Query], layers: tuple[int, ...], bar: "tqdm[None]"
) -> Iterator[tuple[Line, str]]:
    """Give every query its logits; yields the candidates that cannot be scored, and why."""
    start, most = 0, 1
    while window := queries[start : start + most]:
        began = time.perf_counter()
        lines = [line for query in window for line in query.lines]
        pairs = [(query.text, str(line.fields["text"])) for query in window for line in query.lines]
        logits, reasons = model.try_score(pairs, activation="identity", cutoff_layers=list(layers))
        usable = np.ones(len(pairs), dtype=np.bool_)
        usable[list(reasons)] = False
        at = 0
        for query in window:
            mine = slice(at, at + len(query.lines))
            query.logits = logits[mine][usable[mine]]
            at = mine.stop
        for place, reason in reasons.items():
            yield lines[place], reason
        bar.update(len(pairs))
        start += len(window)
        if time.perf_counter() - began < _WINDOW_SECONDS:
            most = min(2 * most, _WINDOW_QUERIES)
