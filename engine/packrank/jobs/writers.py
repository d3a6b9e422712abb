"""Finished rows to a file: JSON Lines, Parquet, or a TREC run."""

import io
import json
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from itertools import islice
from typing import Any, BinaryIO, Protocol

from packrank.arguments import check_text
from packrank.errors import InputError
from packrank.jobs.output import ERROR, json_line
from packrank.records.record import shown
from packrank.records.tables import arrow

_ROWS = 1 << 13  # of a row group


class Writer(Protocol):
    """Writes rows to a binary file."""

    suffix: str
    misfits: int

    def write(self, rows: Iterable[Mapping[str, Any]], sink: BinaryIO) -> None:
        """All of them; the same rows always give the same bytes."""
        ...

    def skip(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take rows that are written already, and count what was left out of them."""
        ...


class _Whole:
    """Leaves out nothing."""

    misfits = 0

    def skip(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """See `Writer`."""
        deque(rows, maxlen=0)


class JsonLines(_Whole):
    """A JSON object a row."""

    suffix = ".jsonl"

    def write(self, rows: Iterable[Mapping[str, Any]], sink: BinaryIO) -> None:
        """See `Writer`."""
        for row in rows:
            sink.write(json_line(row).encode())


class Lines(_Whole):
    """Rows that are lines already, of a TREC run."""

    suffix = ".trec"

    def write(self, rows: Iterable[Mapping[str, Any]], sink: BinaryIO) -> None:
        """See `Writer`; a row is {"line": ...}."""
        for row in rows:
            sink.write(row["line"].encode())


class Parquet:
    """A table in row groups of as many rows each, compressed by zstd.

    Args:
        schema: of the columns that the input has and the output keeps, pyarrow's.
        added: names of columns, and what each holds, after those.
        mixed: columns of text in which what is no text is JSON.
        has_errors: whether there is a column of errors.

    Attributes:
        misfits: values that have been left out.
    """

    suffix = ".parquet"

    def __init__(
        self,
        schema: Any,
        added: Mapping[str, Any],
        mixed: Set[str] = frozenset(),
        *,
        has_errors: bool = True,
    ) -> None:
        self._arrow, self._mixed = arrow("Parquet is asked for"), mixed
        pyarrow = self._arrow
        fields = [pyarrow.field(name, type) for name, type in added.items()]
        if has_errors:
            fields.append(pyarrow.field(ERROR, pyarrow.string()))
        replaced = {field.name for field in fields}
        kept = [field for field in schema if field.name not in replaced]
        # Not what a library noted of its own table, the columns of which these are no longer.
        self._schema = pyarrow.schema([*kept, *fields])
        self._names = set(self._schema.names)
        self.misfits = 0
        for field in self._schema:
            try:
                table = pyarrow.schema([field]).empty_table()
                pyarrow.parquet.write_table(table, io.BytesIO())
            except pyarrow.ArrowException:
                raise InputError(
                    f"the column {field.name!r} holds {field.type}, which Parquet has not; write "
                    "jsonl, or name the columns to keep, without it (--columns)"
                ) from None

    def write(self, rows: Iterable[Mapping[str, Any]], sink: BinaryIO) -> None:
        """See `Writer`. What a column cannot hold is left out, and the row's error says so.

        Raises:
            InputError: Parquet cannot hold it, though the column can.
        """
        with self._arrow.parquet.ParquetWriter(sink, self._schema, compression="zstd") as writer:
            for batch in self._batches(rows):
                try:
                    writer.write_batch(batch)
                except self._arrow.ArrowException as error:
                    raise InputError(
                        f"a row is none of Parquet's: {error}; write jsonl, or name the columns to "
                        "keep (--columns)"
                    ) from None

    def skip(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """See `Writer`."""
        deque(self._batches(rows), maxlen=0)

    def _batches(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
        coming = iter(rows)
        while some := [self._known(row) for row in islice(coming, _ROWS)]:
            yield self._batch(some)

    def _known(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._mixed:
            texts = {name: _text(row[name]) for name in self._mixed & row.keys()}
            row = {**row, **texts}
        if row.keys() <= self._names:
            return row
        self.misfits += 1
        new = ", ".join(sorted(map(repr, row.keys() - self._names)))
        return _with_error(row, f"the first rows have no {new}, so no column holds it")

    def _batch(self, rows: list[Mapping[str, Any]]) -> Any:
        make = self._arrow.RecordBatch.from_pylist
        try:
            return make(rows, schema=self._schema)
        except (self._arrow.ArrowException, TypeError, ValueError, OverflowError):
            return make([self._fitted(row) for row in rows], schema=self._schema)

    def _fitted(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        fitting = dict(row)
        for field in self._schema:
            value = row.get(field.name)
            try:
                self._arrow.array([value], field.type)
            except (self._arrow.ArrowException, TypeError, ValueError, OverflowError):
                fitting[field.name] = None
                self.misfits += 1
                reason = f'"{field.name}" is {shown(value)}, and its column holds {field.type}'
                fitting = _with_error(fitting, reason)
        return fitting


def schema_of(
    values: Iterable[object], kept: Collection[str] | None = None
) -> tuple[Any, set[str]]:
    """What columns rows from JSON or CSV have, by those that come first.

    Args:
        values: the first rows.
        kept: names of the columns that count; None: all.

    Returns:
        pyarrow's schema; and names of columns that hold texts among other things.

    Raises:
        InputError: a name is not valid Unicode.
    """
    pyarrow = arrow("Parquet is asked for")
    seen: dict[str, list[Any]] = {}
    for value in values:
        if isinstance(value, Mapping):
            for name, one in value.items():
                if kept is not None and name not in kept:
                    continue
                seen.setdefault(name, []).append(one)
    fields, mixed = [], set()
    for name, found in seen.items():
        check_text(name, "name of a column")
        try:
            type = pyarrow.array(found).type
            is_open = _is_open(type, pyarrow)
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError, RecursionError):
            is_open = True
        if is_open:
            type = pyarrow.string()
            mixed.add(name)
        fields.append(pyarrow.field(name, type))
    return pyarrow.schema(fields), mixed


def _is_open(type: Any, pyarrow: Any) -> bool:
    """Whether later rows may have more in it: an object, or what was always null or empty."""
    if pyarrow.types.is_null(type) or pyarrow.types.is_struct(type):
        return True
    return any(_is_open(type.field(i).type, pyarrow) for i in range(type.num_fields))


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _with_error(row: Mapping[str, Any], reason: str) -> dict[str, Any]:
    before = row.get(ERROR)
    return {**row, ERROR: f"{before}; {reason}" if before else reason}
