"""Ids of documents: from place to id, and back."""

import os
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from packrank.errors import StoreError
from packrank.stores import disk
from packrank.stores.files import open_file

_IDS_AT_ONCE = 1 << 16


class StoredIds(Sequence[str]):
    """Ids that lie end to end in a file, read when they are asked for."""

    def __init__(self, path: Path, offsets: NDArray[np.int64]) -> None:
        """Open the file; id n is bytes [offsets[n], offsets[n + 1]) of it.

        Raises:
            StoreError: it cannot be opened.
        """
        self._path, self._offsets = path, offsets
        self._file = open_file(path)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        start, stop = self._offsets[place : place + 2].tolist()
        return self._decode(self._read(start, stop))

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _IDS_AT_ONCE):
            offsets = self._offsets[first : first + _IDS_AT_ONCE + 1].tolist()
            block, base = self._read(offsets[0], offsets[-1]), offsets[0]
            for start, stop in pairwise(offsets):
                yield self._decode(block[start - base : stop - base])

    def _read(self, start: int, stop: int) -> bytes:
        """Not mapped: to read a mapping of a file that was cut off would end the process."""
        content = disk.read(self._file, start, stop - start)
        if len(content) < stop - start:
            raise StoreError(f"{self._path} was cut off while it was open; open it again")
        return content

    def _decode(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise StoreError(f"{self._path} is damaged: an id is not UTF-8") from None


class Numbers(Sequence[str]):
    """Numbers as ids: "0", "1" and so on."""

    def __init__(self, count: int) -> None:
        self._range = range(count)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self._range[index]
        return str(found) if isinstance(found, int) else [str(place) for place in found]

    def find(self, ids: Sequence[str]) -> Iterator[list[int]]:
        """The place of each, or none."""
        for id in ids:
            place = int(id) if id.isdecimal() and len(id) < 20 else -1
            yield [place] if place in self._range and str(place) == id else []


class Places:
    """From ids to places, in 16 bytes a document."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = ids
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        self._order: NDArray[np.int64] = np.argsort(hashes, kind="stable")
        self._hashes: NDArray[np.int64] = hashes[self._order]

    def find(self, ids: Sequence[str]) -> Iterator[list[int]]:
        """Every place of each."""
        wanted = np.fromiter(map(hash, ids), np.int64, len(ids))
        starts = np.searchsorted(self._hashes, wanted, "left").tolist()
        stops = np.searchsorted(self._hashes, wanted, "right").tolist()
        for id, start, stop in zip(ids, starts, stops, strict=True):
            places: list[int] = self._order[start:stop].tolist()
            yield [place for place in places if self._ids[place] == id]
