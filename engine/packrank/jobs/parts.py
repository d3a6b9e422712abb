"""Parts of a folder: each written whole, once its rows are safe, beside what goes on."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, count, islice
from pathlib import Path
from types import TracebackType
from typing import Any

from packrank.errors import JobError
from packrank.jobs.writers import Writer
from packrank.stores import disk

# A part ends with the row that brings it to so many rows, or to so many scores.
_ROWS = 1 << 17
_SLOTS = 1 << 20

Rows = Iterator[Mapping[str, Any]]


class Parts:
    """Writes the parts of a folder in a thread of its own; use as a context manager.

    Args:
        folder: where they go, by names part-00000 and so on; those that are there are whole.
        rows: of the output, one a row of the input; asked for as parts are written.
        writer: of a part.
    """

    def __init__(self, folder: Path, rows: Callable[[], Rows], writer: Writer) -> None:
        self._folder, self._rows, self._writer = folder, rows, writer
        self._coming: Rows | None = None
        self._ends: list[int] = []
        self._begun = self._seen = self._slots = 0
        self._started = 0
        self._has_failed = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="packrank-parts")
        self._writing: deque[Future[None]] = deque()

    def feed(self, sizes: Sequence[int]) -> None:
        """Rows that follow those before: of each, how many scores it has."""
        for size in sizes:
            self._seen += 1
            self._slots += size
            if self._seen - self._begun >= _ROWS or self._slots >= _SLOTS:
                self._end()

    def _end(self) -> None:
        self._ends.append(self._seen)
        self._begun, self._slots = self._seen, 0

    def advance(self, rows: int) -> None:
        """Write the parts that so many rows fill.

        Raises:
            PackrankError, OSError: what an earlier one met.
        """
        while self._writing and self._writing[0].done():  # they end in their order
            self._writing.popleft().result()
        while self._started < len(self._ends) and self._ends[self._started] <= rows:
            number = self._started
            size = self._ends[number] - (self._ends[number - 1] if number else 0)
            self._writing.append(self._pool.submit(self._write, number, size))
            self._started += 1

    def finish(self) -> int:
        """Write what is left, and wait; returns how many parts there are."""
        if self._seen > self._begun or not self._ends:
            self._end()
        self.advance(self._seen)
        for part in self._writing:
            part.result()
        if self._coming is not None and next(self._coming, None) is not None:
            raise AssertionError("rows are left over")
        return len(self._ends)

    def _write(self, number: int, size: int) -> None:
        if self._has_failed:  # and the rows have not been taken as they should have
            return
        self._has_failed = True
        if self._coming is None:
            self._coming = self._rows()
        taken = _Taken(islice(self._coming, size))
        _write_part(part_of(self._folder, number, self._writer), taken, self._writer, size)
        self._has_failed = False

    def __enter__(self) -> "Parts":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Taken:
    """Rows, and how many have been taken."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self.count = rows, 0

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> Mapping[str, Any]:
        row = next(self._rows)
        self.count += 1
        return row


def write_parts(folder: Path, rows: Rows, writer: Writer) -> int:
    """Rows as parts of so many, at least one; those that are there are whole."""
    for number in count():
        first = list(islice(rows, 1))
        if number and not first:
            return number
        some = _Taken(chain(first, islice(rows, _ROWS - 1)))
        _write_part(part_of(folder, number, writer), some, writer, None)
    raise AssertionError("count() has no end")


def part_of(folder: Path, number: int, writer: Writer) -> Path:
    """The file of a part."""
    return folder / f"part-{number:05d}{writer.suffix}"


def _write_part(path: Path, rows: _Taken, writer: Writer, size: int | None) -> None:
    """A part that is there once it is whole and on the disk; of `size` rows, if that is known."""
    if path.exists():
        writer.skip(rows)
        return
    unfinished = path.parent / "_job" / f"{path.name}.unfinished"
    try:
        with open(unfinished, "wb") as sink:
            writer.write(rows, sink)
            sink.flush()
            os.fsync(sink.fileno())
        if size is not None and rows.count != size:
            raise JobError("the input is not what was scored: it was written to; begin anew")
        os.replace(unfinished, path)
        with suppress(PermissionError):  # of a folder that may not be listed
            disk.sync_folder(path.parent)
    except OSError as error:
        if error.filename not in (None, str(unfinished), str(path)):
            raise  # of what is read
        raise JobError(
            f"{path} cannot be written: {error.strerror}; what was scored is safe, and the same "
            "command goes on"
        ) from None
    finally:
        with suppress(OSError):  # a full disk needs the room
            unfinished.unlink(missing_ok=True)
