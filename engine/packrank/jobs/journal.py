"""What a job has scored so far, so that a kill at any moment loses seconds of it and doubles none.

| file | holds |
|---|---|
| journal.json | the manifest: what the job is, and how much of the others counts |
| logits.bin | float32, a row of labels for every pair, in the order of the input |
| problems.jsonl | what has no score: [row, pair or null, kind, reason, place] a line |
| lock | nothing; who runs the job holds it |

Files only grow; what lies beyond the manifest's totals does not count, and is cut off by the next
run. Progress is so many rows from the first on, whatever blocks they came in.
"""

import json
import os
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.closing import Closing
from packrank.errors import JobError, StoreError
from packrank.jobs.rows import Failure
from packrank.stores import disk
from packrank.stores.files import open_file

VERSION = 1
FOLDER = "_job"  # in a folder of parts; readers of tables pass over such a name
MANIFEST, _UNFINISHED, _LOCK = "journal.json", "journal.json.unfinished", "lock"
_FILES = ("logits.bin", "problems.jsonl")
_COMMIT_SECONDS = 5.0
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Progress:
    """What counts of a journal.

    Attributes:
        about: what the job is, by name; another run must say the same.
        labels: scores of a pair.
        rows: done, from the first on.
        pairs: of those.
        problem_bytes: of problems.jsonl.
        logits_crc32: of logits.bin.
        problems_crc32: of problems.jsonl.
        digest: of the rows that are done, as they were read.
        failed: kind of problem -> how many rows or pairs.
        is_complete: whether there are no more rows.
        parts: that a folder has, once it is finished.
        unfit: what the output has no row for, once it is finished.
    """

    about: dict[str, Any]
    labels: int
    rows: int = 0
    pairs: int = 0
    problem_bytes: int = 0
    logits_crc32: int = 0
    problems_crc32: int = 0
    digest: str = ""
    failed: dict[str, int] = field(default_factory=dict)
    is_complete: bool = False
    parts: int = 0
    unfit: int = 0

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes that count, of logits.bin and of problems.jsonl."""
        return 4 * self.labels * self.pairs, self.problem_bytes

    def dump(self) -> bytes:
        """journal.json, which ends in a checksum of itself."""
        fields = {"packrank_job": VERSION, **asdict(self)}
        text = json.dumps(fields, indent=2)
        return json.dumps({**fields, "crc32": zlib.crc32(text.encode())}, indent=2).encode() + b"\n"

    @classmethod
    def load(cls, path: Path) -> "Progress":
        """Read it.

        Raises:
            JobError: it is damaged, or of a newer version.
        """
        with os.fdopen(open_file(path), "rb") as file:
            raw = file.read()
        damaged = JobError(f"{path} is damaged; remove {_output_of(path.parent)} to begin anew")
        try:
            fields = json.loads(raw)
            version, _ = fields.pop("packrank_job"), fields.pop("crc32")
            if version != VERSION:
                raise JobError(
                    f"{path} is of version {version} of the format, and this Packrank reads "
                    f"{VERSION}; finish the job with the Packrank that began it"
                )
            found = cls(**fields)
            if found.dump() != raw:
                raise damaged
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise damaged from None
        return found


class Journal(Closing):
    """The one writer of a job's folder; use as a context manager.

    Attributes:
        path: the folder.
        progress: as of the last commit; None before `begin`.
        now: with what has been appended since.
    """

    def __init__(self, path: Path, *, with_parent: bool = False) -> None:
        """Take the folder, which is made if it is not there.

        Args:
            path: the folder.
            with_parent: make the one that it lies in, too.

        Raises:
            JobError: another process runs the job, the folder is damaged or cannot be written to.
        """
        self.path = path
        self.progress: Progress | None = None
        self.now: Progress | None = None
        self._files: list[int] = []
        self._committed_at = monotonic()
        with self._writing():
            ours = (path, path.parent) if with_parent else (path,)
            self._made = [folder for folder in ours if not folder.is_dir()]
            for folder in reversed(self._made):
                folder.mkdir(exist_ok=True)
            self._lock = disk.open_own(path / _LOCK)
        try:
            with self._writing():
                if not disk.lock(self._lock):
                    raise JobError(
                        f"another process is at work on {path}; wait until it has ended, or stop it"
                    )
                if (path / MANIFEST).exists():
                    self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self.progress = Progress.load(self.path / MANIFEST)
        (self.path / _UNFINISHED).unlink(missing_ok=True)
        if not self.is_finished:
            self._files = [disk.open_own(self.path / name) for name in _FILES]
            sums = self.progress.logits_crc32, self.progress.problems_crc32
            sizes = self.progress.sizes
            for name, file, size, wanted in zip(_FILES, self._files, sizes, sums, strict=True):
                if os.fstat(file).st_size < size or _crc32(file, size) != wanted:
                    whole = _output_of(self.path)
                    raise JobError(f"{self.path / name} is damaged; remove {whole} to begin anew")
            self._cut_back()

    def begin(self, about: Mapping[str, Any], labels: int) -> None:
        """Begin a job where there is none; where there is one, it must be the same.

        Args:
            about: what the job is, by name; anything that JSON holds.
            labels: scores of a pair.

        Raises:
            JobError: the folder holds another job, or cannot be written to.
        """
        said = json.loads(json.dumps(about))
        if self.progress is not None:
            known = self.progress.about
            for name in sorted(known.keys() | said.keys()):
                if known.get(name) != said.get(name):
                    was, now = _shown(known.get(name)), _shown(said.get(name))
                    raise JobError(
                        f"{self.path} holds a job that was begun otherwise: {name} was {was}, now "
                        f"it is {now}; run it as it was begun, or name another output"
                    )
            return
        with self._writing():
            self._files = [disk.open_own(self.path / name, empty=True) for name in _FILES]
            for file in self._files:
                os.fsync(file)
            with suppress(PermissionError):  # of a folder that may not be listed
                disk.sync_folder(self.path.absolute().parent)
            self._replace(Progress(said, labels))

    def append(
        self, rows: int, logits: NDArray[np.float32], failures: Sequence[Failure], digest: bytes
    ) -> None:
        """Add rows that are done.

        Args:
            rows: how many.
            logits: [pairs of them, labels] float32.
            failures: of them, in their order.
            digest: of all rows up to the last of them.

        Raises:
            JobError: the disk is full; nothing since the last commit is kept then.
        """
        before = self.now
        assert before is not None
        lines = "".join(json.dumps(failure) + "\n" for failure in failures).encode()
        content = np.ascontiguousarray(logits, dtype="<f4").tobytes()
        failed = Counter(before.failed)
        failed.update(failure.kind for failure in failures)
        with self._writing():
            for file, piece, end in zip(self._files, (content, lines), before.sizes, strict=True):
                disk.write(file, piece, end)
        self.now = replace(  # in one step, wherever a signal falls
            before,
            rows=before.rows + rows,
            pairs=before.pairs + len(logits),
            problem_bytes=before.problem_bytes + len(lines),
            logits_crc32=zlib.crc32(content, before.logits_crc32),
            problems_crc32=zlib.crc32(lines, before.problems_crc32),
            digest=digest.hex(),
            failed=dict(sorted(failed.items())),
        )

    @property
    def is_finished(self) -> bool:
        """Whether the output has all of it."""
        is_complete = self.progress is not None and self.progress.is_complete
        return is_complete and not (self.path / _FILES[0]).exists()

    @property
    def is_due(self) -> bool:
        """Whether the last commit is so long ago that it is time for another."""
        return monotonic() - self._committed_at >= _COMMIT_SECONDS

    def commit(self, *, is_complete: bool = False) -> None:
        """Make what was appended safe.

        Args:
            is_complete: whether there are no more rows.

        Raises:
            JobError: the disk is full; nothing since the last commit is kept then.
        """
        assert self.now is not None
        self._committed_at = monotonic()
        new = replace(self.now, is_complete=is_complete)
        if new == self.progress:
            return
        with self._writing():
            for file in self._files:
                os.fsync(file)
            self._replace(new)

    def logits(self, start: int, stop: int) -> NDArray[np.float32]:
        """[stop - start, labels] float32 of pairs, appended at least."""
        assert self.progress is not None
        labels = self.progress.labels
        raw = _read(self._files[0], 4 * labels * start, 4 * labels * (stop - start))
        return np.frombuffer(raw, dtype="<f4").reshape(-1, labels)

    @property
    def problems_file(self) -> int:
        """Open to be read."""
        return self._files[1]

    def failures(self) -> "Failures":
        """What has no score, of all rows that have been appended, in their order."""
        return Failures(self)

    def finish(self, parts: int, unfit: int) -> None:
        """Let go of logits and problems: the output has them."""
        assert self.progress is not None
        with self._writing():
            self._replace(replace(self.progress, parts=parts, unfit=unfit))
            self._close_files()
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Let go of all of it."""
        self._close_files()
        with suppress(OSError):  # the output is there; what else may lie here is not ours
            for name in (MANIFEST, *_FILES, _UNFINISHED, _LOCK):
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    def _close_files(self) -> None:
        for file in self._files:
            os.close(file)
        self._files = []

    def close(self) -> None:
        """Let go of the folder, and of one made for nothing; what was not committed is cut off."""
        self._close_files()
        if self._lock >= 0:
            if self._made and self.progress is None:
                with suppress(OSError):
                    os.unlink(self.path / _LOCK)
                    for folder in self._made:
                        os.rmdir(folder)
            os.close(self._lock)
        self._lock = -1

    def _replace(self, progress: Progress) -> None:
        """The new manifest in place of the old one, in one step, and on the disk."""
        disk.write_file(self.path / _UNFINISHED, progress.dump())
        os.replace(self.path / _UNFINISHED, self.path / MANIFEST)
        self.progress = self.now = progress  # it counts from here on, whatever comes
        disk.sync_folder(self.path)

    def _cut_back(self) -> None:
        """To the last commit, as far as files are open."""
        assert self.progress is not None
        self.now = self.progress
        for file, size in zip(self._files, self.progress.sizes, strict=False):
            os.ftruncate(file, size)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What the system refuses, in a sentence; and back to the last commit."""
        try:
            yield
        except StoreError as error:
            raise JobError(str(error)) from None
        except OSError as error:
            kept = "nothing was scored"
            if self.progress is not None:
                kept = (
                    f"the first {self.progress.rows:,} rows are safe, and the same command goes on"
                )
                with suppress(OSError):
                    self._cut_back()
            raise JobError(f"{self.path} cannot be written: {error.strerror}; {kept}") from None


class Failures(Iterator[Failure]):
    """Failures of a journal; at its end it may be asked again once more has been appended."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._place, self._rest = journal, 0, b""
        self._ready: deque[Failure] = deque()

    def __next__(self) -> Failure:
        assert self._journal.now is not None
        end = self._journal.now.problem_bytes
        while not self._ready and self._place < end:
            piece = _read(self._journal.problems_file, self._place, min(_BLOCK, end - self._place))
            self._place += len(piece)
            *lines, self._rest = (self._rest + piece).split(b"\n")
            for line in lines:
                self._ready.append(Failure(*json.loads(line)))
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()


def _read(file: int, offset: int, size: int) -> bytes:
    content = disk.read(file, offset, size)
    if len(content) < size:
        raise JobError("the journal of the job was cut off while it was open")
    return content


def _crc32(file: int, size: int) -> int:
    found = 0
    for start in range(0, size, _BLOCK):
        found = zlib.crc32(_read(file, start, min(_BLOCK, size - start)), found)
    return found


def _output_of(journal: Path) -> Path:
    """What is to be removed with a journal: of a folder of parts all of it."""
    return journal.parent if journal.name == FOLDER else journal


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
