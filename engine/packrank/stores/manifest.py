"""What lies in the folder of a store, and how much of it counts.

| file | holds |
|---|---|
| values.bin, scales.bin, codes.bin | as in `TokenEmbeddings`, as far as the format has them |
| cu_seqlens.bin | [N + 1] int64 |
| ids.bin, id_offsets.bin | the ids of the documents in UTF-8, end to end; [N + 1] int64 |
| codec.safetensors | of 4bit and 2bit |
| segments.bin | [S, 9] int64: documents, tokens, bytes of ids, and a CRC-32 of each file above |
| store.json | the manifest |
| lock | nothing; who writes holds it |

All numbers are little-endian. Files only grow, and what lies beyond the totals of the manifest does
not count: a segment is there once the manifest that tells of it is.
"""

import json
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.errors import StoreError
from packrank_kernels import FORMATS, get_num_threads

VERSION = 1
MANIFEST = "store.json"
UNFINISHED = "store.json.unfinished"
CODEC = "codec.safetensors"
SEGMENTS = "segments.bin"
LOCK = "lock"
FILES = ("values.bin", "scales.bin", "codes.bin", "cu_seqlens.bin", "ids.bin", "id_offsets.bin")
_COLUMNS = 3 + len(FILES)
_BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "4bit": 4, "2bit": 2}


@dataclass(frozen=True)
class Source:
    """How far the last file of documents has been encoded.

    Attributes:
        lines: taken, from its first on.
        sha256: of those lines, the ends of lines aside.
        failed: how many of them were left out.
        complete: whether they are all that it held.
        before: lines of the files before it, and documents that a program added.
        earlier: SHA-256 of each whole file before it.
    """

    lines: int = 0
    sha256: str = ""
    failed: int = 0
    complete: bool = False
    before: int = 0
    earlier: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Manifest:
    """What counts of a store.

    Attributes:
        format: as of `TokenEmbeddings`.
        size: D.
        model: what encoded it, if that is known; "fingerprint" tells models apart.
        codec_crc32: of codec.safetensors, None where the format has no codec.
        documents: N.
        tokens: T.
        id_bytes: of ids.bin.
        segments: S.
        segments_crc32: of segments.bin.
        source: where encoding goes on, None if not from a file.
    """

    format: str
    size: int
    model: dict[str, Any] | None
    codec_crc32: int | None = None
    documents: int = 0
    tokens: int = 0
    id_bytes: int = 0
    segments: int = 0
    segments_crc32: int = 0
    source: Source | None = None

    def dump(self) -> bytes:
        """store.json, which ends in a checksum of itself."""
        fields = {"packrank_store": VERSION, **asdict(self)}
        text = json.dumps(fields, indent=2)
        return json.dumps({**fields, "crc32": zlib.crc32(text.encode())}, indent=2).encode() + b"\n"

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """The manifest of a store.

        Raises:
            StoreError: it is missing, damaged, or of a newer version.
        """
        path = folder / MANIFEST
        raw = read(path)
        damaged = StoreError(f"{path} is damaged; encode the documents anew")
        try:
            fields = json.loads(raw)
            version, _ = fields.pop("packrank_store"), fields.pop("crc32")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise damaged from None
        if version != VERSION and isinstance(version, int):
            raise StoreError(
                f"{path} is of version {version} of the format, and this Packrank reads version "
                f"{VERSION}; open it with the Packrank that wrote it, or a newer one"
            )
        try:
            source = fields.pop("source")
            manifest = cls(**fields, source=None if source is None else Source(**source))
        except (KeyError, TypeError):
            raise damaged from None
        if manifest.dump() != raw or manifest.format not in FORMATS:
            raise damaged
        return manifest

    @property
    def row_bytes(self) -> int:
        """Of values.bin, for a token."""
        return self.size * _BITS[self.format] // 8

    @property
    def bytes_per_token(self) -> float:
        """Codec and offsets not counted."""
        sizes = (self.extents(0, tokens, 0) for tokens in (0, 1))
        before, after = (sum(size or 0 for size in of) for of in sizes)
        return float(after - before)

    def extents(self, documents: int, tokens: int, id_bytes: int) -> list[int | None]:
        """Bytes of each of `FILES` that so much takes; None for a file that the format lacks."""
        residual = self.format in ("4bit", "2bit")
        return [
            tokens * self.row_bytes,
            4 * tokens if residual or self.format == "int8" else None,
            4 * tokens if residual else None,
            8 * (documents + 1),
            id_bytes,
            8 * (documents + 1),
        ]

    def sizes(self) -> dict[str, int]:
        """Bytes that count, of each file that the store has beside manifest and codec."""
        sizes = self.extents(self.documents, self.tokens, self.id_bytes)
        named = {name: size for name, size in zip(FILES, sizes, strict=True) if size is not None}
        return {**named, SEGMENTS: 8 * _COLUMNS * self.segments}


def read(path: Path) -> bytes:
    """A whole file.

    Raises:
        StoreError: it is missing, or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path.parent} has no {path.name}; it is no whole store") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raise StoreError unless every file is there and as long as the manifest says."""
    for name, size in manifest.sizes().items():
        path = folder / name
        try:
            found = path.stat().st_size
        except FileNotFoundError:
            raise StoreError(f"{folder} has no {name}; it is no whole store") from None
        if found < size:
            raise StoreError(
                f"{path} holds {found:,} bytes, and its store {size:,}; it was cut off"
            )


def check_sums(folder: Path, manifest: Manifest) -> None:
    """Raise StoreError unless every checksum but the codec's is right; reads the whole store.

    The sizes must have been checked.
    """
    segments = map_file(folder / SEGMENTS, "<i8", manifest.segments * _COLUMNS)
    if zlib.crc32(segments.data) != manifest.segments_crc32:
        raise StoreError(f"{folder / SEGMENTS} is damaged: its checksum is wrong")
    files = {
        name: map_file(folder / name, "u1", size)
        for name, size in manifest.sizes().items()
        if name != SEGMENTS
    }

    def is_sound(piece: tuple[str, int, int, int, int, int]) -> bool:
        name, start, stop, crc32, _, _ = piece
        return zlib.crc32(files[name][start:stop].data) == crc32

    pieces = list(_pieces(manifest, segments.reshape(-1, _COLUMNS)))
    with ThreadPoolExecutor(get_num_threads()) as pool:
        for piece, sound in zip(pieces, pool.map(is_sound, pieces), strict=True):
            if not sound:
                name, *_, first, last = piece
                raise StoreError(
                    f"{folder / name} is damaged: the checksum of documents {first} to {last - 1} "
                    "is wrong"
                )


def _pieces(
    manifest: Manifest, segments: NDArray[np.int64]
) -> Iterator[tuple[str, int, int, int, int, int]]:
    """File, first byte, end, checksum, first document, end: of every segment in every file."""
    totals = list(accumulate(segments[:, :3].tolist(), _added, initial=[0, 0, 0]))
    for record, before, after in zip(segments.tolist(), totals[:-1], totals[1:], strict=True):
        starts, stops = manifest.extents(*before), manifest.extents(*after)
        for name, start, stop, crc32 in zip(FILES, starts, stops, record[3:], strict=True):
            if start is not None and stop is not None:
                yield name, start, stop, crc32, before[0], after[0]


def _added(totals: list[int], more: list[int]) -> list[int]:
    return [a + b for a, b in zip(totals, more, strict=True)]


def map_file(path: Path, dtype: str, count: int, offset: int = 0) -> NDArray[Any]:
    """`count` numbers of a file [count], mapped read-only, from a byte on.

    numpy is told that they may be written, or torch would warn: who writes is stopped by the
    system. A mapping that may be written counts as memory, and could not be larger.
    """
    if not count:
        return np.empty(0, dtype)
    try:
        return np.asarray(_Mapping(np.memmap(path, dtype, "r", offset, (count,))))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be mapped: {error}") from None


class _Mapping:
    def __init__(self, mapped: "np.memmap[Any, Any]") -> None:
        self._mapped = mapped  # kept alive by who holds this
        interface = dict(mapped.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface
