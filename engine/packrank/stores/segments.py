"""How far a store has grown, and where its segments end."""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from packrank.stores.manifest import COLUMNS, FILES, Manifest

# A segment ends with the document that brings it to so many tokens.
_SEGMENT_TOKENS = 1 << 18


@dataclass(frozen=True)
class Growth:
    """A store with what has been appended, committed or not.

    Attributes:
        documents: N.
        tokens: T.
        id_bytes: of ids.bin.
        cut: as of the manifest.
        tail: the record of the segment that has not ended; all 0 where there is none.
        ended: records of segments that have ended since the last commit.
    """

    documents: int
    tokens: int
    id_bytes: int
    cut: int | None
    tail: tuple[int, ...]
    ended: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> "Growth":
        """As of a commit."""
        tail = tuple(manifest.tail) or (0,) * COLUMNS
        totals = manifest.documents, manifest.tokens, manifest.id_bytes
        return cls(*totals, manifest.cut, tail)

    def offsets(self, manifest: Manifest) -> dict[str, int | None]:
        """Where what comes next begins in each file; None for a file that the format lacks."""
        extents = manifest.extents(self.documents, self.tokens, self.id_bytes)
        return dict(zip(FILES, extents, strict=True))

    def grown(
        self,
        manifest: Manifest,
        parts: Mapping[str, memoryview | None],
        token_ends: NDArray[np.int64],
        id_ends: NDArray[np.int64],
        cut: int | None,
    ) -> "Growth":
        """With documents more.

        Args:
            manifest: of the store.
            parts: bytes that they add to each file; None for a file that the format lacks.
            token_ends: [N] where each ends in the store, in tokens.
            id_ends: [N] the same in bytes of ids.
            cut: how many of them were cut; None if that is not known.
        """
        starts, tail, ended = self.offsets(manifest), self.tail, [*self.ended]
        before = self
        for stop in self._ends(token_ends):
            now = replace(
                before,
                documents=self.documents + stop,
                tokens=int(token_ends[stop - 1]),
                id_bytes=int(id_ends[stop - 1]),
            )
            sums = tail[3:]
            first, last = before.offsets(manifest), now.offsets(manifest)
            pieces = [_piece(parts[name], starts[name], first[name], last[name]) for name in FILES]
            added = (
                now.documents - before.documents,
                now.tokens - before.tokens,
                now.id_bytes - before.id_bytes,
            )
            tail = (
                *(a + b for a, b in zip(tail, added, strict=False)),
                *(zlib.crc32(piece, sum) for piece, sum in zip(pieces, sums, strict=True)),
            )
            if tail[1] >= _SEGMENT_TOKENS:
                ended.append(tail)
                tail = (0,) * COLUMNS
            before = now
        total = None if self.cut is None or cut is None else self.cut + cut
        return replace(before, cut=total, tail=tail, ended=tuple(ended))

    def _ends(self, token_ends: NDArray[np.int64]) -> Iterator[int]:
        """After how many of the new documents a segment ends; last, how many there are."""
        begin, stop = self.tokens - self.tail[1], 0
        while stop < len(token_ends):
            # The first that brings the segment to as many tokens, or the last there is.
            stop = max(int(np.searchsorted(token_ends, begin + _SEGMENT_TOKENS)) + 1, stop + 1)
            stop = min(stop, len(token_ends))
            begin = int(token_ends[stop - 1])
            yield stop


def _piece(
    part: memoryview | None, start: int | None, first: int | None, last: int | None
) -> memoryview:
    if part is None or start is None or first is None or last is None:
        return memoryview(b"")
    return part[first - start : last - start]
