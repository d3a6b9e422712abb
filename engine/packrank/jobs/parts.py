"""Parts of a folder: each written whole, once its rows are safe, beside what goes on."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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


class Parts:
    """Writes the parts of a folder in a thread of its own; use as a context manager.

    Args:
        folder: where they go, by names part-00000 and so on; those that are there are whole.
        rows: of the output, from the first on; asked for as parts are written.
        writer: of a part.
    """

    def __init__(
        self, folder: Path, rows: Callable[[], Iterator[Mapping[str, Any]]], writer: Writer
    ) -> None:
        self._folder, self._rows, self._writer = folder, rows, writer
        self._coming: Iterator[Mapping[str, Any]] | None = None
        self._ends: list[int] = []
        self._begun = self._seen = self._slots = 0
        self._started = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="packrank-parts")
        self._writing: list[Future[None]] = []

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
            JobError: an earlier one could not be written.
        """
        for part in self._writing:
            if part.done():
                part.result()
        self._writing = [part for part in self._writing if not part.done()]
        while self._started < len(self._ends) and self._ends[self._started] <= rows:
            number = self._started
            size = self._ends[number] - (self._ends[number - 1] if number else 0)
            self._writing.append(self._pool.submit(self._write, number, size))
            self._started += 1

    def finish(self) -> None:
        """Write what is left, and wait."""
        if self._seen > self._begun or not self._ends:
            self._end()
        self.advance(self._seen)
        for part in self._writing:
            part.result()

    def _write(self, number: int, size: int) -> None:
        if self._coming is None:
            self._coming = self._rows()
        path = part_of(self._folder, number, self._writer)
        _write_part(path, islice(self._coming, size), self._writer)

    def __enter__(self) -> "Parts":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def write_parts(folder: Path, rows: Iterator[Mapping[str, Any]], writer: Writer) -> None:
    """Rows as parts of so many; those that are there are whole."""
    for number in count():
        path, some = part_of(folder, number, writer), islice(rows, _ROWS)
        first = list(islice(some, 1))
        if number and not first:
            return
        _write_part(path, chain(first, some), writer)


def part_of(folder: Path, number: int, writer: Writer) -> Path:
    """The file of a part."""
    return folder / f"part-{number:05d}{writer.suffix}"


def _write_part(path: Path, rows: Iterator[Mapping[str, Any]], writer: Writer) -> None:
    if path.exists():
        deque(rows, maxlen=0)
        return
    unfinished = path.parent / "_job" / f"{path.name}.unfinished"
    try:
        with open(unfinished, "wb") as sink:
            writer.write(rows, sink)
            sink.flush()
            os.fsync(sink.fileno())
        os.replace(unfinished, path)
        disk.sync_folder(path.parent)
    except OSError as error:
        raise JobError(
            f"{path} cannot be written: {error.strerror}; what was scored is safe, and the same "
            "command goes on"
        ) from None
