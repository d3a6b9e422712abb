"""An index of somebody else, read whole: nobody may write to it from its first file to its last."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from packrank.errors import StoreError
from packrank.stores.files import Stamp, open_file, stamp


class Reading:
    """Files that are read as one."""

    def __init__(self) -> None:
        self._stamps: dict[Path, Stamp] = {}

    def open(self, path: Path) -> IO[bytes]:
        """A regular file.

        Raises:
            StoreError: it is missing, or cannot be read.
        """
        file = open_file(path)
        self._stamps.setdefault(path, stamp(file))
        return os.fdopen(file, "rb")

    def bytes(self, path: Path) -> bytes:
        """All of a file."""
        with self.open(path) as file:
            return file.read()

    def size(self, path: Path) -> int:
        """Bytes of a file."""
        with self.open(path) as file:
            return os.fstat(file.fileno()).st_size

    def json(self, path: Path, kind: type) -> Any:
        """What a JSON file holds, if it is of a type.

        Raises:
            StoreError: it is not, or it is no JSON.
        """
        raw = self.bytes(path)
        try:
            content = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{path} cannot be read as JSON: {error}") from None
        if not isinstance(content, kind):
            raise StoreError(f"{path} holds a {type(content).__name__}, expected a {kind.__name__}")
        return content

    def tensors(self, path: Path) -> Any:
        """What torch.save wrote, as long as it is tensors only, each as `plain` makes it."""
        with self.open(path) as file:
            try:
                found = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # a damaged file makes it raise anything
                raise StoreError(f"{path} cannot be read: {first_line(error)}") from None
        if isinstance(found, tuple | list):
            return [plain(x, path) for x in found]
        return plain(found, path)

    def array(self, path: Path, start: int = 0, count: int | None = None) -> Tensor:
        """Rows [start, start + count) of a .npy file, or all; read, not mapped.

        Raises:
            StoreError: it is damaged, has fewer rows, or holds something else than numbers.
        """
        with self.open(path) as file:
            shape, dtype = _read_header(path, file)
            rows = shape[0] if shape else 1
            count = rows - start if count is None else count
            if count < 0 or start + count > rows:
                raise StoreError(f"{path} holds {rows} rows, expected at least {start + count}")
            row_bytes = prod(shape[1:]) * dtype.itemsize
            if os.fstat(file.fileno()).st_size - file.tell() < rows * row_bytes:
                raise StoreError(f"{path} cannot be read: it was cut off")
            file.seek(start * row_bytes, os.SEEK_CUR)
            try:
                found = np.fromfile(file, dtype, count * prod(shape[1:]))
                found = found.reshape((count, *shape[1:]) if shape else ())
            except (ValueError, MemoryError, OverflowError) as error:
                raise StoreError(f"{path} cannot be read: {first_line(error)}") from None
        return torch.from_numpy(found)

    def place(self, path: Path) -> tuple[int, tuple[int, ...], str]:
        """Where the numbers of a .npy file begin, their shape and their type."""
        with self.open(path) as file:
            shape, dtype = _read_header(path, file)
            return file.tell(), shape, dtype.str

    def check(self) -> None:
        """Raise StoreError if a file has changed since it was opened first."""
        for path, before in self._stamps.items():
            try:
                same = stamp(path) == before
            except OSError:
                same = False
            if not same:
                raise StoreError(f"{path} was rewritten while it was read; open the index again")


def plain(x: Any, path: Path) -> Tensor:
    """A tensor of real numbers in memory, one after the other.

    Raises:
        StoreError: it is something else, or it says that it is larger than what was saved of it.
    """
    if not isinstance(x, Tensor):
        raise StoreError(f"{path} holds a {type(x).__name__}, expected a tensor")
    kind = None
    if x.layout != torch.strided:
        kind = "sparse"
    elif x.device.type != "cpu":
        kind = f"on the device {x.device.type}"
    elif x.is_quantized or x.is_complex():
        kind = f"of {x.dtype}"
    elif x.numel() * x.element_size() > x.untyped_storage().nbytes():
        kind = "larger than what was saved of it"
    if kind is not None:
        raise StoreError(f"{path} holds a tensor that is {kind}, expected plain numbers")
    return x.detach().resolve_neg().contiguous()


@contextmanager
def unlocked(lock: Path) -> Iterator[None]:
    """Keep whoever writes to an index from it, if this is the file that they lock and it is there.

    Raises:
        StoreError: somebody is writing.
    """
    file = None
    with suppress(StoreError):
        file = open_file(lock)
    try:
        if file is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError(
                    f"{lock.parent} is being written by another process; wait until it has ended"
                ) from None
            except OSError:  # of a file system without locks
                pass
        yield
    finally:
        if file is not None:
            os.close(file)


def first_line(error: BaseException) -> str:
    """Of what it says, or its type."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _read_header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(file)
    except Exception as error:  # a damaged header makes it raise anything
        raise StoreError(f"{path} cannot be read: {first_line(error)}") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8 or dtype.byteorder == ">":
        raise StoreError(f"{path} cannot be read: it holds {dtype}, expected numbers")
    if fortran and len(shape) > 1:
        raise StoreError(f"{path} cannot be read: its numbers lie column by column")
    return shape, dtype
