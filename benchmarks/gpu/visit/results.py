"""The folder of results: few files of bounded size, each whole whenever it is there."""

import contextlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MOST_FILES, MOST_BYTES = 8, 16 * 2**20
REPORT, ROWS = "report.json", "rows.jsonl"
TABLES, SUMMARY = "tables.md", "summary.md"
LOGS, CACHE = "logs.tar.gz", "triton-cache.tar.gz"
NAMES = (REPORT, ROWS, TABLES, SUMMARY, LOGS, CACHE)
LOG_BYTES = 2**20  # of a log the end is kept


class Results:
    """What is kept of a visit.

    Args:
        folder: made at the first word; what an earlier visit left there under these names goes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def clear(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            (self.folder / name).unlink(missing_ok=True)

    @property
    def rows(self) -> Path:
        """Where benchmarks add their rows, one as soon as it is there."""
        return self.folder / ROWS

    def records(self) -> list[dict[str, Any]]:
        return list(lines_of(self.rows))

    def write(self, name: str, text: str) -> None:
        self._replace(name, lambda path: path.write_text(text))

    def pack_logs(self, logs: Path) -> None:
        """All logs of a folder as one archive; long ones, and in need all, without their start."""
        kept = LOG_BYTES
        while not self._replace(LOGS, lambda path, kept=kept: _pack_ends(logs, path, kept)):
            kept //= 4

    def pack_cache(self, cache: Path) -> bool:
        """A Triton cache as one archive; False, and none, where that would be too large."""
        return self._replace(CACHE, lambda path: pack(cache, path))

    def _replace(self, name: str, write: Callable[[Path], object]) -> bool:
        """Whether what is written is small enough to be kept; then it takes the old one's place."""
        unfinished = self.folder / f".{name}"
        try:
            write(unfinished)
            if unfinished.stat().st_size > MOST_BYTES:
                return False
            os.replace(unfinished, self.folder / name)
        finally:
            unfinished.unlink(missing_ok=True)
        return True


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file of JSON lines; one cut short is passed over."""
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def pack(folder: Path, target: Path) -> None:
    with tarfile.open(target, "w:gz", compresslevel=1) as archive:
        archive.add(folder, arcname=".")


def unpack_cache(source: Path, folder: Path) -> int:
    """Put a packed Triton cache into a folder; returns how many kernels it has.

    A kernel's files are named in a list, by paths of the machine that made them.

    Raises:
        ValueError: there is no such list in it.
    """
    with tarfile.open(source, "r:*") as archive:
        names = [name for name in archive.getnames() if Path(name).match("__grp__*.json")]
        if not names:
            raise ValueError("it holds no kernels")
        folder.mkdir(parents=True, exist_ok=True)
        archive.extractall(folder, filter="data")
    groups = [folder / name for name in names]
    for group in groups:
        listed = json.loads(group.read_text())
        here = {name: str(group.parent / name) for name in listed["child_paths"]}
        group.write_text(json.dumps({**listed, "child_paths": here}))
    return len(groups)


def _pack_ends(logs: Path, target: Path, kept: int) -> None:
    with tarfile.open(target, "w:gz", compresslevel=1) as archive:
        for path in sorted(logs.glob("*.log")):
            # A program may still be writing to it: as long as it is now.
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                member = archive.gettarinfo(arcname=path.name, fileobj=file)
                member.size = min(size, kept)
                file.seek(size - member.size)
                archive.addfile(member, file)
