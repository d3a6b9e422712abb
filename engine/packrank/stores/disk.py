"""Writes that are on the disk when they return, and a lock; `writer` says in which order."""

import fcntl
import os
from pathlib import Path


def lock(file: int) -> bool:
    """Keep others from an open file until it is closed; False if somebody else does already."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write(file: int, content: bytes | memoryview, offset: int) -> None:
    """All of the content at an offset of an open file."""
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def write_file(path: Path, content: bytes) -> None:
    """A file that holds the content alone, and is on the disk."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        write(file, content, 0)
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(folder: Path) -> None:
    """Bring the names that a folder holds to the disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
