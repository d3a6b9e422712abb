"""Files of a store or an index, read as what they are: regular, whole, and as they were opened."""

import errno
import mmap
import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.errors import InputError, StoreError

# Who maps a file to write into copies of its pages need not have memory for all of them. (Python
# names the flag from 3.13 on.)
_PRIVATE = mmap.MAP_PRIVATE | getattr(
    mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0
)

# Size, time of the last change, and which file it is.
Stamp = tuple[int, int, int, int]


def folder_path(path: str | os.PathLike[str]) -> Path:
    """A folder that a caller names.

    Raises:
        InputError: it is no path.
    """
    named = path if isinstance(path, str) else getattr(path, "__fspath__", lambda: None)()
    if not isinstance(named, str):
        raise InputError(f"the path of a store is a {type(path).__name__}, expected a str or Path")
    if "\0" in named:
        raise InputError(f"the path of a store is {named!r}, and no path holds a NUL")
    return Path(named)


def present_folder(path: str | os.PathLike[str], maker: str) -> Path:
    """A folder that a caller names, and that is there.

    Args:
        path: as `folder_path` takes it.
        maker: the command that makes such folders, for the message.

    Raises:
        InputError: it is no path.
        StoreError: there is no folder.
    """
    folder = folder_path(path)
    try:
        if not folder.is_dir():
            kind = "is no folder" if folder.exists() else "is not there"
            raise StoreError(f"{folder} {kind}; pass a folder made by {maker}")
    except OSError as error:
        raise StoreError(f"{folder} cannot be opened: {error.strerror}") from None
    return folder


def is_file(path: Path) -> bool:
    """Whether there is a regular file; False where that cannot be told."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, a folder that nobody may enter
        return False


def open_file(path: Path) -> int:
    """A regular file, to read from; a link to one may stand in its place.

    Raises:
        StoreError: it is missing, cannot be read, or is a folder, a device or a pipe.
    """
    try:
        # A pipe would wait for who writes into it.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise StoreError(f"{path.parent} has no {path.name}; it is not whole") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise StoreError(f"{path} is no regular file, and nothing else is read")
    return file


def read(path: Path) -> bytes:
    """A whole file.

    Raises:
        StoreError: as `open_file`, or it does not fit in memory.
    """
    with os.fdopen(open_file(path), "rb") as file:
        try:
            return file.read()
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from None
        except MemoryError:
            raise StoreError(f"{path} does not fit in memory") from None


def stamp(file: int | Path) -> Stamp:
    """What changes when somebody writes to a file or puts another in its place."""
    found = os.fstat(file) if isinstance(file, int) else file.stat()
    return found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino


class MappedFile:
    """Numbers of a file, mapped.

    Attributes:
        path: of the file.
        numbers: [count]. Who writes to them writes to a copy of the page, never to the file.
    """

    def __init__(self, path: Path, dtype: str, count: int, offset: int = 0) -> None:
        """Map `count` numbers from a byte on.

        Raises:
            StoreError: as `open_file`, or there are not as many, or they cannot be mapped.
        """
        self.path = path
        self.numbers: NDArray[Any] = np.empty(0, dtype)
        self._end = offset + count * np.dtype(dtype).itemsize
        self._map: mmap.mmap | None = None
        file = open_file(path)
        try:
            self._stamp = stamp(file)
            if self._stamp[0] < self._end:
                raise StoreError(
                    f"{path} holds {self._stamp[0]:,} bytes, and should hold {self._end:,}; "
                    "it was cut off"
                )
            if not count:
                return
            start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            self._map, shared = _map(file, self._end - start, start)
            self.numbers = np.frombuffer(self._map, dtype, count, offset - start)
            if shared:
                self.numbers = np.asarray(_Writable(self.numbers))
        except (OSError, ValueError, OverflowError) as error:
            raise StoreError(f"{path} cannot be mapped: {error}") from None
        finally:
            os.close(file)

    def check_length(self) -> None:
        """Raise StoreError if the file has become shorter: to read there would end the process.

        It may grow, and another may take its name: the one that was mapped stays.
        """
        if self._map is not None and self._map.size() < self._end:
            raise StoreError(f"{self.path} was cut off while it was open; open it again")

    def check_unchanged(self) -> None:
        """Raise StoreError if somebody has written to the file, or put another in its place."""
        try:
            same = stamp(self.path) == self._stamp
        except OSError:
            same = False
        if not same:
            raise StoreError(f"{self.path} was rewritten while it was open; open it again")


def _map(file: int, length: int, start: int) -> tuple[mmap.mmap, bool]:
    """A mapping that may be written without a change to the file; else one that may not, True."""
    prot = mmap.PROT_READ | mmap.PROT_WRITE
    try:
        return mmap.mmap(file, length, flags=_PRIVATE, prot=prot, offset=start), False
    except OSError as error:
        if error.errno != errno.ENOMEM:  # of a system that counts every page that may be written
            raise
    return mmap.mmap(file, length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ, offset=start), True


class _Writable:
    """An array of which numpy is told that it may be written, or torch would warn."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array  # kept alive by who holds this
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
