"""Reads that are whole, writes that are on the disk when they return, and a lock."""

import errno
import fcntl
import os
import stat
from pathlib import Path

from packrank.errors import StoreError


def open_own(path: Path, *, empty: bool = False) -> int:
    """A file of the folder's own, to be written; made if it is not there.

    Args:
        path: of the file.
        empty: cut off what it holds.

    Raises:
        StoreError: it is a link, a device or a pipe, or has another name elsewhere: to write would
            change what is not the store's.
        OSError: it cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StoreError(f"{path} is a symbolic link, through which no store is written") from None
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{path} is no regular file, and nothing else is written")
        if found.st_nlink > 1:
            raise StoreError(
                f"{path} has another name elsewhere (a hard link), where a write would show too; "
                "copy the store and write to the copy"
            )
        if empty:
            os.ftruncate(file, 0)
    except BaseException:
        os.close(file)
        raise
    return file


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


def read(file: int, offset: int, size: int) -> bytes:
    """So many bytes at an offset of an open file; fewer only where it ends."""
    pieces = bytearray()
    while len(pieces) < size:
        piece = os.pread(file, size - len(pieces), offset + len(pieces))
        if not piece:
            break
        pieces += piece
    return bytes(pieces)


def write_file(path: Path, content: bytes) -> None:
    """A file that holds the content alone, and is on the disk."""
    file = open_own(path, empty=True)
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
