"""One file of records, opened: from its bytes to parts, more than once if it can be read again."""

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

from packrank.closing import Closing
from packrank.errors import InputError
from packrank.records.formats import DELIMITERS, GZIP, Format, format_of, header, is_text_alone
from packrank.records.record import Kind, parse
from packrank.records.splitting import cells, elements, rows, run_row
from packrank.records.tables import NAMES, ZSTD, Table, TableFormat, table_format, unpacked

_HEAD = 1 << 16  # bytes of which a format is told
_PARTS = {"json": "element"} | dict.fromkeys(("csv", "tsv", "parquet", "arrow"), "row")


class OpenFile(Closing):
    """A file of records, opened; use as a context manager.

    Attributes:
        name: of the file, for messages.
        kind: what it is a list of.
        format: what it is; see `formats`.
        part: what a record is of it; see `Record`.
        can_rewind: whether it can be read again.
        is_compressed: whether it is, as a whole.
        columns: of a table; none of anything else.
        table: what reads Parquet and Arrow; None of text.
    """

    def __init__(self, path: str, kind: Kind, format: Format | None = None) -> None:
        """Open a file, and see what it is.

        Args:
            path: of the file; "-" is standard input.
            kind: what it should be a list of.
            format: what it is, if not as `formats.format_of` finds.

        Raises:
            OSError: it cannot be opened.
            InputError: it is none of these formats, is damaged, or lacks a column; standard input
                is closed.
        """
        self.name = "standard input" if path == "-" else path
        self.kind = kind
        self._open = ExitStack()
        try:
            with _naming(self.name):
                head = self._prepare(path)
            self.format: Format | TableFormat = self._format_of(head, path, format)
            self.part = _PARTS.get(self.format, "line")
            self.columns, self._header = self._read_header(head)
        except BaseException:
            self.close()
            raise

    def _prepare(self, path: str) -> bytes:
        """Open the stream, decompressed; returns what it begins with."""
        stream: BinaryIO
        if path != "-":
            stream = self._open.enter_context(_open(path))
        elif sys.stdin is None:
            raise InputError("standard input is closed; name a file to read")
        else:
            stream = sys.stdin.buffer
        self.can_rewind = stream.seekable()
        self._start = stream.tell() if self.can_rewind else 0
        head, stream = self._peek(stream)
        self.is_compressed = head.startswith((GZIP, ZSTD))
        if self.is_compressed:
            plain: Any = gzip.GzipFile(fileobj=stream)
            if head.startswith(ZSTD):
                plain = unpacked(stream, self.name)
            self._start = 0
            head, stream = self._peek(plain)
        self._stream = stream
        return head

    def _format_of(self, head: bytes, path: str, asked: Format | None) -> Format | TableFormat:
        self.table: Table | None = None
        found = table_format(head)
        if found is None or is_text_alone(head):
            return format_of(head, self.name, path, self.kind, asked)
        if asked is not None:
            raise InputError(f"{self.name} is {NAMES[found]}, not {asked}; leave out the format")
        if self.is_compressed:
            what = f"{NAMES[found]} that is compressed as a whole"
            raise InputError(f"{self.name} is {what}, which is not read; unpack it")
        self.table = Table(self._stream, head, found, self.name)
        return found

    def _peek(self, stream: BinaryIO) -> tuple[bytes, BinaryIO]:
        head = stream.read(_HEAD)
        if self.can_rewind:
            stream.seek(self._start)
            return head, stream
        return head, io.BufferedReader(_Rejoined(head, stream))

    def _read_header(self, head: bytes) -> tuple[list[str], int]:
        """Names of columns, and the number of the row that has them; nothing, of no table."""
        if self.table is not None:
            self._check_columns(self.table.columns)
            self.table.want(self.kind)
            return self.table.columns, 0
        if self.format not in DELIMITERS:
            return [], 0
        delimiter = DELIMITERS[self.format]
        for number, row in enumerate(rows(io.BytesIO(head), delimiter), start=1):
            columns = header(row.removeprefix(codecs.BOM_UTF8), delimiter)
            if any(columns):
                self._check_columns(columns, "; expected a table whose first row names its columns")
                return columns, number
        return [], 0

    def want(self, kind: Kind) -> None:
        """Take it for a list of something else.

        Raises:
            InputError: it lacks a column of that, or holds something else there.
        """
        self.kind = kind
        if self.columns:
            self._check_columns(self.columns)
        if self.table is not None:
            self.table.want(kind)

    def _check_columns(self, columns: list[str], expected: str = "") -> None:
        if lacking := self.kind.lacks(columns):
            known = ", ".join(map(repr, columns))
            raise InputError(
                f"{self.name} has no column {' and no column '.join(map(repr, lacking))}, and "
                f"has {known if len(known) < 200 else known[:200] + ' ...'}{expected}"
            )
        if twice := [name for name in set(columns) if columns.count(name) > 1]:
            raise InputError(f"{self.name} has two columns {twice[0]!r}{expected}")

    def close(self) -> None:
        """Close the file; standard input stays open."""
        self._open.close()

    def rewind(self) -> None:
        """Let `raw` begin anew."""
        if self.table is not None:
            self.table.rewind()
        else:
            self._stream.seek(self._start)

    def raw(self) -> Iterator[bytes | InputError]:
        """The bytes of every part of the file, blank ones and the header included.

        Of Parquet and Arrow, whose rows are no bytes by themselves, JSON of what records have; in
        place of one that is damaged, why it cannot be read.

        Raises:
            InputError: it is damaged from there on, or cannot be read.
        """
        parts: Iterable[bytes | InputError] = self._stream
        if self.table is not None:
            parts = self.table.rows()
        elif self.format in DELIMITERS:
            parts = rows(self._stream, DELIMITERS[self.format])
        elif self.format == "json":
            parts = elements(self._stream, self.name)
        with _naming(self.name):
            # "yield from" would close the stream with what is made of it.
            for part in parts:  # noqa: UP028
                yield part

    def whole(self) -> Iterator[bytes | dict[str, Any] | InputError]:
        """As `raw`; of Parquet and Arrow what each row says in all of its columns."""
        return self.raw() if self.table is None else self.table.values()

    def is_blank(self, number: int, raw: bytes) -> bool:
        """Whether a part is no record: the header, or nothing but blanks.

        Of an array nothing is left out: between two commas there is an element, or should be.
        """
        return self.format != "json" and (number == self._header or not raw.strip())

    def value(self, number: int, raw: bytes) -> Any:
        """What a part says.

        Raises:
            InputError: it cannot be read.
        """
        raw = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if self.format in DELIMITERS:
            return self._row(cells(raw, DELIMITERS[self.format]))
        text = _decode(raw)
        if self.format == "trec":
            return run_row(text)
        return text.rstrip("\r\n") if self.format == "text" else parse(text)

    def num_lines(self) -> int | None:
        """Parts of the file, if to count them is quick and it can be read again after that."""
        if self.table is not None:
            return self.table.num_rows
        if not self.can_rewind or self.is_compressed or self.format == "json":
            return None
        chunks = iter(lambda: self._stream.read(1 << 20), b"")
        count = sum(chunk.count(b"\n") for chunk in chunks)
        self.rewind()
        return count

    def _row(self, found: list[str]) -> dict[str, str]:
        if len(found) != len(self.columns):
            raise InputError(
                f"the row has {len(found)} fields, and the header names {len(self.columns)}"
            )
        row = dict(zip(self.columns, found, strict=True))
        # What has no id has an empty cell for it.
        return {name: cell for name, cell in row.items() if cell or name not in ("id", "_id")}


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say in which file it is, and in a sentence, that something goes wrong in reading."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{name} is damaged or cut off: {error}; fetch or compress it anew"
        ) from None
    except OSError as error:
        if error.filename is not None:
            raise
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from None


class _Rejoined(io.RawIOBase):
    """What has been read of a stream, and then the rest of it."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
        else:
            piece = self._rest.read(size)
        buffer[: len(piece)] = piece
        return len(piece)


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except ValueError as error:
        raise InputError(f"{path!r} is no path of a file: {error}") from None


def _decode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte {error.start + 1} is 0x{raw[error.start]:02x}, which is not valid UTF-8"
        ) from None
