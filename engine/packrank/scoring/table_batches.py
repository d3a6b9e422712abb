"""Tables of a program's own to the same tables with their scores, batch by batch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from packrank.errors import InputError
from packrank.records.shapes import Problem, Shape
from packrank.scoring.pair_scorer import LogitStream

_ROWS = 4096  # of a table that are a batch


class _Piece(NamedTuple):
    """Rows of a table, and which pair each of their slots is."""

    table: Any
    sizes: list[int]
    places: list[int]
    problems: dict[int, str]  # by slot
    wholes: dict[int, str]  # by row


def score_tables(
    stream: Callable[[Iterable[list[tuple[str, str]]]], LogitStream],
    scores: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    tables: Iterable[Any],
    shape_of_columns: Callable[[dict[str, bool]], Shape],
) -> Iterator[Any]:
    """Tables with their scores, in their order and in pieces of some thousands of rows.

    Args:
        stream: batches of pairs to their logits.
        scores: logits to scores.
        tables: what pyarrow takes for one: tables, record batches, and what exports them.
        shape_of_columns: names of columns, and whether each holds lists -> which are scored.

    Raises:
        InputError: pyarrow is not installed, or columns are not those of rows that are scored.
    """
    arrow = _arrow()
    pieces: deque[_Piece] = deque()

    def batches() -> Iterator[list[tuple[str, str]]]:
        for given in tables:
            table = given if isinstance(given, arrow.Table) else _table(arrow, given)
            shape = shape_of_columns(_columns(arrow, table))
            for start in range(0, table.num_rows, _ROWS):
                piece, pairs = _piece(table.slice(start, _ROWS), shape)
                pieces.append(piece)
                shapes.append(shape)
                yield pairs

    shapes: deque[Shape] = deque()
    with closing(stream(batches())) as found:
        for logits, failures in found:
            piece, shape = pieces.popleft(), shapes.popleft()
            yield _finished(arrow, piece, shape, scores(logits), failures)


def _piece(table: Any, shape: Shape) -> tuple[_Piece, list[tuple[str, str]]]:
    numbers: dict[tuple[str, str], int] = {}
    piece = _Piece(table, [], [], {}, {})
    for row in table.select(_read(shape, table)).to_pylist():
        asked, whole = shape.pairs(row)
        if whole is not None:
            piece.wholes[len(piece.sizes)] = whole.reason
        piece.sizes.append(len(asked))
        for one in asked:
            if isinstance(one, Problem):
                piece.problems[len(piece.places)] = one.reason
                piece.places.append(-1)
            else:
                piece.places.append(numbers.setdefault((one.query, one.document), len(numbers)))
    return piece, list(numbers)


def _read(shape: Shape, table: Any) -> list[str]:
    columns = [shape.query.column, *(side.column for side in shape.documents)]
    return columns + ["title"] * ("title" in table.column_names)


def _finished(
    arrow: Any,
    piece: _Piece,
    shape: Shape,
    scores: NDArray[np.float32],
    failures: dict[int, str],
) -> Any:
    """A piece of a table with columns of scores and of errors."""
    reasons = dict(piece.problems)
    for slot, place in enumerate(piece.places):
        if place in failures:
            reasons[slot] = failures[place]
    rows = scores.tolist()
    plain = [
        None if place < 0 or slot in reasons else _value(rows[place])
        for slot, place in enumerate(piece.places)
    ]
    ends = np.cumsum([0, *piece.sizes]).tolist()
    errors = [_error(piece, shape, reasons, n, ends[n], ends[n + 1]) for n in range(len(ends) - 1)]
    table, compute = piece.table, arrow.compute
    one = arrow.float32() if scores.shape[1] == 1 else arrow.list_(arrow.float32())
    starts = ends[:-1]
    for side in shape.documents:
        if not side.is_list:
            table = _with(table, side.scores, arrow.array(plain, one))
            continue
        sizes = compute.list_value_length(table.column(side.column)).to_pylist()
        values = [
            None if size is None else plain[start : start + size]
            for start, size in zip(starts, sizes, strict=True)
        ]
        starts = [start + (size or 0) for start, size in zip(starts, sizes, strict=True)]
        table = _with(table, side.scores, arrow.array(values, arrow.list_(one)))
    return _with(table, "error", arrow.array(errors, arrow.string()))


def _error(
    piece: _Piece, shape: Shape, reasons: dict[int, str], row: int, start: int, stop: int
) -> str | None:
    if row in piece.wholes:
        return piece.wholes[row]
    said = [
        reasons[slot] if shape.is_pairs else f"{slot - start + 1}: {reasons[slot]}"
        for slot in range(start, stop)
        if slot in reasons
    ]
    return "; ".join(said) or None


def _with(table: Any, name: str, column: Any) -> Any:
    """The table with a column at its end, in place of one of this name."""
    if name in table.column_names:
        table = table.drop_columns([name])
    return table.append_column(name, column)


def _value(scores: list[float]) -> Any:
    return scores[0] if len(scores) == 1 else scores


def _columns(arrow: Any, table: Any) -> dict[str, bool]:
    def is_list(type: Any) -> bool:
        return bool(arrow.types.is_list(type) or arrow.types.is_large_list(type))

    return {field.name: is_list(field.type) for field in table.schema}


def _table(arrow: Any, given: Any) -> Any:
    try:
        if isinstance(given, arrow.RecordBatch):
            return arrow.Table.from_batches([given])
        return arrow.table(given)
    except (arrow.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            f"a batch is a {type(given).__name__}, expected a table or a record batch of Arrow, or "
            f"what exports one ({error})"
        ) from None


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.compute
    except ImportError as error:
        raise InputError(
            f"tables are read by pyarrow, which cannot be imported ({error}); "
            "pip install 'packrank[tables]'"
        ) from None
    return pyarrow
