"""Tables of a program's own to the same tables with their scores, batch by batch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from packrank.errors import InputError
from packrank.records.shapes import Problem, Shape
from packrank.records.tables import arrow, is_list, values_of
from packrank.scoring.pair_scorer import LogitStream

# Rows of a table, and pairs of them unless a row alone has more, that are a batch.
_ROWS = 4096
_PAIRS = 4096
_Pairs = list[tuple[str, str]]


class _Piece(NamedTuple):
    """Rows of a table, and which pair each of their slots is.

    Attributes:
        table: the rows.
        shape: of them.
        values: what they say, as far as it is scored.
        places: of each slot which pair it is; -1: none.
        problems: slot -> why it is none.
        wholes: row -> why it has none.
    """

    table: Any
    shape: Shape
    values: list[dict[str, Any]]
    places: list[int]
    problems: dict[int, str]
    wholes: dict[int, str]


def score_tables(
    stream: Callable[[Iterable[_Pairs]], LogitStream],
    scores: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    tables: Iterable[Any],
    shape_of_columns: Callable[[dict[str, bool]], Shape],
) -> Iterator[Any]:
    """Tables with their scores, in their order and in pieces of some thousands of pairs.

    Args:
        stream: batches of pairs to their logits.
        scores: logits to scores.
        tables: what pyarrow takes for one: tables, record batches, and what exports them.
        shape_of_columns: names of columns, and whether each holds lists -> which are scored.

    Raises:
        InputError: pyarrow is not installed, or columns are not those of rows that are scored.
    """
    pyarrow = arrow("a table is scored")
    if isinstance(tables, pyarrow.Table | pyarrow.RecordBatch):
        tables = [tables]
    pieces: deque[_Piece] = deque()

    def batches() -> Iterator[_Pairs]:
        for given in tables:
            table = _table(pyarrow, given)
            names = table.column_names
            if twice := [name for name in names if names.count(name) > 1]:
                raise InputError(f"a table has two columns {twice[0]!r}; rename one")
            shape = shape_of_columns({one.name: is_list(one.type) for one in table.schema})
            for start in range(0, max(table.num_rows, 1), _ROWS):
                for piece, pairs in _pieces(table.slice(start, _ROWS), shape):
                    pieces.append(piece)
                    yield pairs

    with closing(stream(batches())) as found:
        for logits, failures in found:
            yield _finished(pyarrow, pieces.popleft(), scores(logits), failures)


def _pieces(table: Any, shape: Shape) -> Iterator[tuple[_Piece, _Pairs]]:
    """The rows of a table, so many that their pairs are a batch."""
    names = {shape.query.column, *(side.column for side in shape.documents), "title"}
    read = [name for name in table.column_names if name in names]
    columns = [values_of(table.column(name)) for name in read]
    rows = [dict(zip(read, row, strict=True)) for row in zip(*columns, strict=True)]
    start = 0
    while not start or start < len(rows):
        sizes = np.cumsum([shape.size(row) for row in rows[start:]])
        count = max(int(np.searchsorted(sizes, _PAIRS, side="right")), 1)  # one row at least
        yield _piece(table.slice(start, count), shape, rows[start : start + count])
        start += count


def _piece(table: Any, shape: Shape, rows: list[dict[str, Any]]) -> tuple[_Piece, _Pairs]:
    numbers: dict[tuple[str, str], int] = {}
    piece = _Piece(table, shape, rows, [], {}, {})
    for number, row in enumerate(rows):
        asked, whole = shape.pairs(row)
        if whole is not None:
            piece.wholes[number] = whole.reason
        for one in asked:
            if isinstance(one, Problem):
                piece.problems[len(piece.places)] = one.reason
                piece.places.append(-1)
            else:
                key = one.query, one.document
                piece.places.append(numbers.setdefault(key, len(numbers)))
    return piece, list(numbers)


def _finished(
    pyarrow: Any, piece: _Piece, scores: NDArray[np.float32], failures: dict[int, str]
) -> Any:
    """A piece of a table with columns of scores and of errors."""
    table, shape = piece.table, piece.shape
    places = enumerate(piece.places)
    reasons = piece.problems | {s: failures[place] for s, place in places if place in failures}
    rows = scores.tolist()
    plain = [
        None if slot in reasons else rows[place][0] if len(rows[place]) == 1 else rows[place]
        for slot, place in enumerate(piece.places)
    ]
    one = pyarrow.float32() if scores.shape[1] == 1 else pyarrow.list_(pyarrow.float32())
    starts = np.cumsum([0, *(shape.size(value) for value in piece.values)]).tolist()
    errors = [_error(piece, reasons, row, starts) for row in range(len(piece.values))]
    for side in shape.documents:
        if not side.is_list:
            table = _with(table, side.scores, pyarrow.array(plain, one))
            continue
        found = [value.get(side.column) for value in piece.values]
        sizes = [len(each) if isinstance(each, list) else None for each in found]
        lists = [
            None if size is None else plain[start : start + size]
            for start, size in zip(starts, sizes, strict=False)
        ]
        starts = [start + (size or 0) for start, size in zip(starts, sizes, strict=False)]
        table = _with(table, side.scores, pyarrow.array(lists, pyarrow.list_(one)))
    return _with(table, "error", pyarrow.array(errors, pyarrow.string()))


def _error(piece: _Piece, reasons: dict[int, str], row: int, starts: list[int]) -> str | None:
    if row in piece.wholes:
        return piece.wholes[row]
    shape, value = piece.shape, piece.values[row]
    said = [
        reasons[slot]
        if shape.is_pairs
        else f"{shape.place(value, slot - starts[row])}: {reasons[slot]}"
        for slot in range(starts[row], starts[row + 1])
        if slot in reasons
    ]
    return "; ".join(said) or None


def _with(table: Any, name: str, column: Any) -> Any:
    """The table with a column at its end, in place of one of this name."""
    if name in table.column_names:
        table = table.drop_columns([name])
    return table.append_column(name, column)


def _table(pyarrow: Any, given: Any) -> Any:
    try:
        if isinstance(given, pyarrow.RecordBatch):
            return pyarrow.Table.from_batches([given])
        return given if isinstance(given, pyarrow.Table) else pyarrow.table(given)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            f"a batch is a {type(given).__name__}, expected a table or a record batch of Arrow, or "
            f"what exports one ({error})"
        ) from None
