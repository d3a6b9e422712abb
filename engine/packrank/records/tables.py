"""Tables that are not text, Parquet and Arrow's own, row by row; and what zstd has compressed.

Both are read by pyarrow, which is looked for when the first such file comes.
"""

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Literal, NamedTuple

from packrank.errors import InputError
from packrank.records.record import Kind

TableFormat = Literal["parquet", "arrow"]
ZSTD = b"\x28\xb5\x2f\xfd"

NAMES = {"parquet": "Parquet", "arrow": "Arrow"}
_ROWS = 1024  # read at once
_FILE, _STREAM = b"ARROW1", b"\xff\xff\xff\xff"


def table_format(head: bytes) -> TableFormat | None:
    """What a file is that begins so; None: no table of these."""
    if head.startswith(b"PAR1"):
        return "parquet"
    return "arrow" if head.startswith((_FILE, _STREAM)) else None


class Table:
    """A table, opened.

    Attributes:
        columns: of those that it has.
    """

    def __init__(self, stream: BinaryIO, head: bytes, format: TableFormat, name: str) -> None:
        """Read what columns it has.

        Args:
            stream: of the file, at its beginning.
            head: its first bytes.
            format: what it is.
            name: for messages.

        Raises:
            InputError: it is damaged, or cannot be read as it comes.
        """
        self._name, self._stream, self._what = name, stream, NAMES[format]
        self._is_stream = head.startswith(_STREAM)
        self._arrow = arrow(f"{name} is {self._what}")
        if not self._is_stream and not stream.seekable():
            raise InputError(
                f"{name} is {self._what}, which ends with where everything lies, so it cannot be "
                "read from a pipe; name the file"
            )
        self._wanted: list[str] = []
        self._start = stream.tell() if stream.seekable() else 0
        self._reader = self._open()
        self.columns = list(self.schema.names)

    def _open(self) -> Any:
        try:
            if self._what == "Parquet":
                return self._arrow.parquet.ParquetFile(self._stream, pre_buffer=False)
            ipc = self._arrow.ipc
            return (ipc.open_stream if self._is_stream else ipc.open_file)(self._stream)
        except (self._arrow.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    @property
    def schema(self) -> Any:
        """Names and types of its columns, pyarrow's."""
        return self._reader.schema_arrow if self._what == "Parquet" else self._reader.schema

    @property
    def num_rows(self) -> int | None:
        """How many there are, where the file says so."""
        return int(self._reader.metadata.num_rows) if self._what == "Parquet" else None

    @property
    def lists(self) -> dict[str, bool]:
        """Its columns, and whether each holds lists."""
        return {field.name: is_list(field.type) for field in self.schema}

    def want(self, kind: Kind) -> None:
        """Read the columns of this kind alone.

        Raises:
            InputError: one holds neither what a record has there nor nothing.
        """
        texts = {*kind.strings, "title"}
        lists = {*kind.lists, *kind.id_lists}
        known = texts | lists | {*kind.ids, "id", "_id"}
        self._wanted = [name for name in self.columns if name in known]
        for name in self._wanted:
            found = inner = self.schema.field(name).type
            if name in lists:
                inner = found.value_type if is_list(found) else self._arrow.binary()
            expected = "texts" if name in texts or name in kind.lists else "texts or whole numbers"
            may_nest = name in ("document", *kind.lists)
            if not self._fits(inner, expected == "texts" and name not in kind.ids, may_nest):
                whole = f"lists of {expected}" if name in lists else expected
                raise InputError(
                    f"the column {name!r} of {self._name} holds {found}, expected {whole}"
                )

    def _fits(self, found: Any, is_text: bool, may_nest: bool) -> bool:
        types = self._arrow.types
        if types.is_dictionary(found):
            found = found.value_type
        view = getattr(types, "is_string_view", lambda found: False)
        texts = types.is_string(found) or types.is_large_string(found) or view(found)
        other = (types.is_struct(found) and may_nest) or (types.is_integer(found) and not is_text)
        return bool(texts or other or types.is_null(found))

    def rewind(self) -> None:
        """Let `rows` begin anew."""
        self._stream.seek(self._start)
        self._reader = self._open()

    def rows(self) -> Iterator[bytes | InputError]:
        """Each row as a JSON object, without ids that are null.

        In place of rows that cannot be read, as many as the file says there are, stands why.
        """
        for batch in self.batches(self._wanted):
            if isinstance(batch, Lost):
                yield from [batch.error] * batch.rows
                continue
            columns = [values_of(batch.column(name)) for name in self._wanted]
            for values in zip(*columns, strict=True):
                row = dict(zip(self._wanted, values, strict=True))
                held = {
                    name: value
                    for name, value in row.items()
                    if value is not None or name not in ("id", "_id")
                }
                yield json.dumps(held).encode()

    def values(self) -> Iterator[dict[str, Any] | InputError]:
        """Each row with all its columns, as `rows` has those that are wanted."""
        for batch in self.batches():
            if isinstance(batch, Lost):
                yield from [batch.error] * batch.rows
                continue
            columns = [values_of(batch.column(name)) for name in self.columns]
            for values in zip(*columns, strict=True):
                yield dict(zip(self.columns, values, strict=True))

    def batches(self, columns: list[str] | None = None) -> Iterator[Any]:
        """Record batches of these columns, all if None; `Lost` in place of what is damaged."""
        if self._what == "Parquet":
            yield from self._row_groups(columns)
        elif self._is_stream:
            yield from self._kept(self._reader, 1)
        else:
            for index in range(self._reader.num_record_batches):
                yield from self._kept(map(self._reader.get_batch, [index]), 1)

    def _row_groups(self, columns: list[str] | None) -> Iterator[Any]:
        for index in range(self._reader.metadata.num_row_groups):
            rows = self._reader.metadata.row_group(index).num_rows
            batches = self._reader.iter_batches(
                _ROWS, row_groups=[index], columns=columns, use_threads=False
            )
            yield from self._kept(batches, rows, f"row group {index} of ")

    def _kept(self, batches: Iterable[Any], rows: int, where: str = "") -> Iterator[Any]:
        """Batches, and `Lost` for what is left of so many rows where one cannot be read."""
        coming, left = iter(batches), rows
        while True:
            try:
                batch = next(coming, None)
            except (self._arrow.ArrowException, OSError) as error:
                yield Lost(self._damaged(error, where), max(left, 1))
                return
            if batch is None:
                return
            left -= batch.num_rows
            yield batch

    def _damaged(self, error: Exception, where: str = "") -> InputError:
        reason = str(error).partition("\n")[0].strip().rstrip(".")
        what = f"{where}{self._name}, which is {self._what},"
        return InputError(f"{what} is damaged or cut off: {reason}")


class Lost(NamedTuple):
    """Rows that cannot be read.

    Attributes:
        error: why.
        rows: how many, as far as that is known.
    """

    error: InputError
    rows: int


def is_list(type: Any) -> bool:
    """Whether a type of Arrow's is one of lists."""
    types = arrow("a table").types
    kinds = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    checks = [getattr(types, f"is_{kind}", None) for kind in kinds]  # the last are new
    return any(check(type) for check in checks if check is not None)


def unpacked(stream: BinaryIO, name: str) -> BinaryIO:
    """What zstd has compressed there, as it was; it cannot be read twice without `stream`.

    Raises:
        InputError: pyarrow is not installed.
    """
    return io.BufferedReader(_Unpacked(arrow(f"{name} is compressed by zstd"), stream))


class _Unpacked(io.RawIOBase):
    """Of frames one after the other; ends of reads fall where they will."""

    def __init__(self, arrow: Any, stream: BinaryIO) -> None:
        self._arrow, self._stream = arrow, stream
        self._start = stream.tell() if stream.seekable() else 0
        self._open()

    def _open(self) -> None:
        self._place = 0
        source = self._arrow.PythonFile(_Lent(self._stream), "r")
        self._native = self._arrow.CompressedInputStream(source, "zstd")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """To the beginning, or to where it is."""
        if place or whence not in (io.SEEK_SET, io.SEEK_CUR):
            raise io.UnsupportedOperation("what is compressed is read from its beginning")
        if whence == io.SEEK_SET:
            self._stream.seek(self._start)
            self._open()
        return self._place

    def readinto(self, buffer: Any) -> int:
        try:
            piece: bytes = self._native.read(len(buffer))
        except (self._arrow.ArrowException, OSError) as error:
            raise EOFError(str(error).partition("\n")[0]) from None
        buffer[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)


class _Lent:
    """A stream that pyarrow does not close when it is done with it."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self.read = stream.read

    def close(self) -> None:
        """Leave it open."""


def arrow(what: str) -> Any:
    """The package that reads and writes tables.

    Args:
        what: the beginning of a sentence, of what needs it.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"{what}, which needs pyarrow, and it cannot be imported ({error}); "
            "pip install 'packrank[tables]'"
        ) from None
    return pyarrow


def values_of(column: Any) -> list[Any]:
    """A column's values.

    Bytes that are no UTF-8 are lone surrogates, which whoever reads meets; what Python has no type
    for stays a scalar of Arrow's, of which `text_of` makes a text.
    """
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError, LookupError, TypeError):
        return [_value(one) for one in column]
    return values


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, LookupError, TypeError) as error:
        types = arrow("a table").types
        if types.is_map(scalar.type):
            return [tuple(map(_value, entry.values())) for entry in scalar.values]
        if is_list(scalar.type):
            return [_value(one) for one in scalar.values]
        if types.is_struct(scalar.type):
            return {name: _value(one) for name, one in scalar.items()}
        if isinstance(error, UnicodeDecodeError):
            return error.object.decode("utf-8", "surrogateescape")
        return scalar


def text_of(value: Any) -> str:
    """A text that stands for a cell for which JSON has no type."""
    if hasattr(value, "cast"):  # a scalar of Arrow's
        try:
            return str(value.cast("string").as_py())
        except Exception:  # of a time zone that is not known here, say
            return str(getattr(value, "value", value.type))
    return str(value)
