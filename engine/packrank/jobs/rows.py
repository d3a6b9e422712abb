"""Rows of a job: what each asks for, in windows in which nothing is scored twice."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from packrank.jobs.lookup import Texts, Tokens
from packrank.records.file import Part, RecordFile, Row
from packrank.records.shapes import Asked, Problem, Shape
from packrank.records.tables import text_of

# Of a window, whose distinct pairs are scored once: 4096 pairs of 200 tokens are some 200 packs.
WINDOW_PAIRS = 4096
WINDOW_CHARACTERS = 16_000_000
_WINDOW_ROWS = 1 << 16

Pair = tuple[Any, Any]


class Failure(NamedTuple):
    """Something that has no score.

    Attributes:
        row: its number in the whole input, from 0, blank parts not counted.
        slot: the number of the score among all; None: the row as a whole.
        kind: of problem.
        reason: in a sentence.
        place: of the row, for messages.
    """

    row: int
    slot: int | None
    kind: str
    reason: str
    place: str


class Read(NamedTuple):
    """A row, and how it is told from others.

    Attributes:
        row: what it says.
        digest: of all rows up to this one.
    """

    row: Row
    digest: bytes


@dataclass
class Window:
    """Rows whose pairs are scored together.

    Attributes:
        rows: R of them, where they are kept.
        ends: how many slots the first, the first two, ... rows have; a slot is a score to be.
        where: each row is, for messages.
        digests: of all rows up to each of these.
        places: of each slot, which of the pairs it is; -1: none.
        pairs: P distinct pairs of texts.
        problems: (row, slot or None, problem) of this window's slots that have no pair.
    """

    rows: list[Row] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    places: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    pairs: list[Pair] = field(default_factory=list)
    problems: list[tuple[int, int | None, Problem]] = field(default_factory=list)


def read_rows(file: RecordFile) -> Iterator[Read]:
    """The rows of a file, with all columns of a table."""
    digest = b""
    for part in file.raw(whole=True):
        row = file.row(part)
        if row is not None or part.raw.strip():  # of a table of text its header too
            digest = _digest(digest, part)
        if row is not None:
            yield Read(row, digest)


def _digest(before: bytes, part: Part) -> bytes:
    """Of a row and of all before it; how its line ends does not count."""
    content = part.raw.rstrip(b"\r\n")
    if part.error is not None:
        content = part.error.encode()
    elif part.value is not None:
        content = json.dumps(part.value, default=text_of).encode()
    return blake2b(before + content, digest_size=16).digest()


def windows(
    rows: Iterable[Read],
    shape: Shape,
    queries: Texts | None,
    documents: Texts | Tokens | None,
    *,
    keep_rows: bool,
) -> Iterator[Window]:
    """Rows in windows.

    Args:
        rows: that are asked for.
        shape: of them.
        queries: texts of queries by id, where the rows have ids.
        documents: texts of documents, or their tokens, likewise.
        keep_rows: whether what rows say is needed afterwards.
    """
    window, asked, characters = Window(), list[Asked | Problem](), 0
    by_id = sum(table.mean_length for table in (queries, documents) if table is not None)
    for row, digest in rows:
        if row.error is not None:
            problem = Problem("unreadable", row.error)
            whole: Problem | None = problem
            found: list[Asked | Problem] = [problem] * shape.size(None)
        else:
            found, whole = shape.pairs(row.value)
        number = len(window.ends)
        if whole is not None:
            window.problems.append((number, None, whole))
        if keep_rows:
            window.rows.append(row)
        asked += found
        window.ends.append(len(asked))
        window.where.append(row.place)
        window.digests.append(digest)
        characters += sum(len(a) + len(b) + by_id for a, b in found if whole is None)
        if (
            len(asked) >= WINDOW_PAIRS
            or characters >= WINDOW_CHARACTERS
            or len(window.ends) >= _WINDOW_ROWS
        ):
            yield _filled(window, asked, queries, documents)
            window, asked, characters = Window(), [], 0
    if window.ends:
        yield _filled(window, asked, queries, documents)


def _filled(
    window: Window,
    asked: list[Asked | Problem],
    queries: Texts | None,
    documents: Texts | Tokens | None,
) -> Window:
    """The same with the pairs that its slots ask for."""
    sound = [one for one in asked if isinstance(one, Asked)]
    known_queries = {} if queries is None else queries.find([one.query for one in sound])
    known_documents = {} if documents is None else documents.find([one.document for one in sound])
    places = np.full(len(asked), -1, dtype=np.int64)
    numbers: dict[Pair, int] = {}
    row = 0
    of_whole_row = {number for number, slot, _ in window.problems if slot is None}
    for slot, one in enumerate(asked):
        while window.ends[row] <= slot:
            row += 1
        problem = one if isinstance(one, Problem) else None
        if isinstance(one, Asked):
            query = known_queries.get(one.query, one.query)
            document = known_documents.get(one.document, one.document)
            problem = next((x for x in (query, document) if isinstance(x, Problem)), None)
            if problem is None:
                places[slot] = numbers.setdefault((query, document), len(numbers))
        if problem is not None and row not in of_whole_row:
            window.problems.append((row, slot, problem))
    window.places, window.pairs = places, list(numbers)
    window.problems.sort(key=lambda found: (found[0], -1 if found[1] is None else found[1]))
    return window
