"""Files of records, opened as one: a file, those of a folder, those that a pattern matches."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from packrank.closing import Closing
from packrank.errors import InputError
from packrank.records.formats import Format
from packrank.records.opened import OpenFile
from packrank.records.paths import files_of
from packrank.records.record import Kind, Record, fields_of

_OBJECTS_SEEN = 64
_PARTS_SEEN = 1 << 16  # among which objects are looked for
_ONE = {"line": "a line", "row": "a row", "element": "an element"}


class Part(NamedTuple):
    """A line, row or element of a file, as it has it.

    Attributes:
        raw: its bytes; empty where it cannot be read.
        number: its place in all files together, from 1.
        within: its place in its own.
        file: that holds it.
        error: why it cannot be read, None if it can.
        value: what it says, all of it, where that is known without reading the bytes.
    """

    raw: bytes
    number: int
    within: int
    file: OpenFile
    error: str | None = None
    value: Any = None


class Row(NamedTuple):
    """What a part says, all of it.

    Attributes:
        value: an object, or whatever else the part says; None where it cannot be read.
        error: why it cannot.
        place: where it is, for messages.
    """

    value: Any
    error: str | None
    place: str


class RecordFile(Closing):
    """A file of records, or several read one after the other; use as a context manager.

    Attributes:
        name: of the file, for messages.
        paths: of the files.
        kind: what it is a list of.
        part: what a record is of it; see `Record`.
        can_rewind: whether it can be read again.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        kind: Kind,
        format: Format | None = None,
        *,
        keep_damaged: bool = False,
    ) -> None:
        """Open a file, and see what it is; of several every one.

        Args:
            path: of a file, a folder or a pattern, see `files_of`, or several; "-" is standard
                input.
            kind: what it should be a list of.
            format: what it is, if not as `formats.format_of` finds.
            keep_damaged: what is damaged is a part with an error, and reading goes on behind it.

        Raises:
            OSError: it cannot be opened.
            InputError: it is none of these formats, is damaged, or lacks a column; standard input
                is closed.
        """
        given = [path] if isinstance(path, str) else list(path)
        if not given:
            raise InputError("no file is named; name one at least")
        self.paths = files_of(given, kind.beir)
        others = f" and {len(given) - 1} more" if len(given) > 1 else ""
        self.name = self.paths[0] if len(self.paths) == 1 else f"{given[0]}{others}"
        self.kind, self._format, self._keep_damaged = kind, format, keep_damaged
        self._place, self._file = 0, OpenFile(self.paths[0], kind, format)
        self._coming: Iterator[Part] | None = None
        try:
            if len(self.paths) == 1:
                self.name = self._file.name
            parts = {self._file.part}
            for other in self.paths[1:]:
                with OpenFile(other, kind, format) as file:
                    parts.add(file.part)
        except BaseException:
            self.close()
            raise
        self.part = parts.pop() if len(parts) == 1 else "line"
        self.can_rewind = len(self.paths) > 1 or self._file.can_rewind

    def close(self) -> None:
        """Close the file; standard input stays open."""
        self._file.close()

    def rewind(self) -> None:
        """Let `raw` begin anew."""
        if len(self.paths) == 1:
            self._file.rewind()
        else:
            self._open(0)

    def columns(self) -> dict[str, bool]:
        """Names of its columns, and whether each holds lists.

        Of what is no table they are the fields that most of the first objects have.
        """
        if self._file.table is not None:
            return self._file.table.lists
        if self._file.columns:
            return dict.fromkeys(self._file.columns, False)
        values = self.first_values()
        there: Counter[str] = Counter()
        lists: Counter[str] = Counter()
        for value in values:
            there.update(name for name, one in value.items() if one is not None)
            lists.update(name for name, one in value.items() if isinstance(one, list))
        usual = {
            name: 2 * lists[name] > there[name] for name in there if 2 * there[name] >= len(values)
        }
        others = {name: 2 * lists[name] > there[name] for name in there}
        return usual if len(usual) > 1 else others

    def first_values(self, count: int = _OBJECTS_SEEN) -> list[dict[str, Any]]:
        """The first objects, so many as there are; what is no object is passed over.

        Whatever is read comes again.
        """
        parts, held = self.raw(whole=True), list[Part]()
        found: list[dict[str, Any]] = []
        for part in parts:
            held.append(part)
            row = self.row(part)
            if row is not None and isinstance(row.value, dict):
                found.append(row.value)
            if len(found) == count or len(held) == _PARTS_SEEN:
                break
        if self.can_rewind:
            self.rewind()
        else:
            self._coming = chain(held, parts)
        return found

    @property
    def is_table(self) -> bool:
        """Whether the file, or the first of several, is Parquet or Arrow."""
        return self._file.table is not None

    def schemas(self) -> list[Any]:
        """The schema, as pyarrow has it, of each file that is Parquet or Arrow."""
        if not self.can_rewind:
            return [] if self._file.table is None else [self._file.table.schema]
        found = []
        for path in self.paths:
            with OpenFile(path, self.kind, self._format) as file:
                if file.table is not None:
                    found.append(file.table.schema)
        return found

    def want(self, kind: Kind) -> None:
        """Take it for a list of something else than it was opened as.

        Raises:
            InputError: a file lacks a column of it, or holds something else there.
        """
        self.kind = kind
        self._file.want(kind)
        for other in self.paths[1:]:
            OpenFile(other, kind, self._format).close()

    def raw(self, *, whole: bool = False) -> Iterator[Part]:
        """Every part, blank ones and headers included.

        Args:
            whole: of Parquet and Arrow the values of all columns, in place of bytes.

        Raises:
            OSError, InputError: as for the constructor; a file is damaged.
        """
        coming, self._coming = self._coming, None
        return self._parts(whole) if coming is None else coming

    def _parts(self, whole: bool = False) -> Iterator[Part]:
        number = 0
        while True:
            within, file = 0, self._file
            try:
                for found in file.whole() if whole else file.raw():
                    number, within = number + 1, within + 1
                    if isinstance(found, bytes):
                        yield Part(found, number, within, file)
                    elif not isinstance(found, InputError):
                        yield Part(b"", number, within, file, value=found)
                    elif self._keep_damaged:
                        yield Part(b"", number, within, file, str(found))
                    else:
                        raise found
            except InputError as error:
                if not self._keep_damaged:
                    raise
                number += 1
                yield Part(b"", number, within + 1, file, str(error))
            if self._place + 1 == len(self.paths):
                return
            self._open(self._place + 1)

    def row(self, part: Part) -> Row | None:
        """What a part says, of Parquet and Arrow what was wanted of it; None of a blank one."""
        file, value, error = part.file, part.value, part.error
        if error is None and value is None:
            if file.is_blank(part.within, part.raw):
                return None
            try:
                value = file.value(part.within, part.raw)
            except InputError as wrong:
                error = str(wrong)
        place = f"{file.part} {part.within}"
        return Row(value, error, place if len(self.paths) == 1 else f"{file.name}, {place}")

    def rows(self) -> Iterator[Row]:
        """What every part says that is not blank, with all columns of Parquet and Arrow."""
        yield from (row for row in map(self.row, self.raw(whole=True)) if row is not None)

    def records(self, parts: Iterable[Part] | None = None) -> Iterator[Record]:
        """Records; blank parts and headers are passed over.

        Args:
            parts: of the file, all of it if None.
        """
        for part in self.raw() if parts is None else parts:
            row = self.row(part)
            if row is None:
                continue
            fields, error = dict[str, Any](), row.error
            if error is None:
                fields, error = fields_of(row.value, self.kind)
            within = "" if len(self.paths) == 1 else row.place
            yield Record(part.number, fields, error, part.file.part, within)

    def num_lines(self) -> int | None:
        """Parts of the file, if to count them is quick and it can be read again after that."""
        total = 0
        for path in self.paths:
            if len(self.paths) == 1:
                return self._file.num_lines()
            with OpenFile(path, self.kind, self._format) as file:
                count = file.num_lines()
            if count is None:
                return None
            total += count
        return total

    def _open(self, place: int) -> None:
        self._file.close()
        self._place = place
        self._file = OpenFile(self.paths[place], self.kind, self._format)


def is_stdin(path: str | None) -> bool:
    """Whether what is read there is standard input."""
    return path in ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


def nothing_in(file: RecordFile, failures: Sequence[tuple[int, str]]) -> str:
    """What to say of a file of which no record can be used.

    Args:
        file: as it is.
        failures: numbers of records, and why they cannot be used; the first one counts.
    """
    name = file.kind.name
    if not failures:
        return f"{file.name} holds no {name}; expected one {_ONE[file.part]}"
    number, reason = min(failures)
    return f"{file.name} holds no usable {name}; {file.part} {number}: {reason}"
