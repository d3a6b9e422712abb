"""What lies in the folder of a store, and how much of it counts.

| file | holds |
|---|---|
| values.bin, scales.bin, codes.bin | as in `TokenEmbeddings`, as far as the format has them |
| cu_seqlens.bin | [N + 1] int64 |
| ids.bin, id_offsets.bin | the ids of the documents in UTF-8, end to end; [N + 1] int64 |
| codec.safetensors | of 8bit, 4bit, 2bit and 1bit |
| segments.bin | [S, 9] int64: of a segment documents, tokens, bytes of ids, a CRC-32 a file above |
| store.json | the manifest |
| lock | nothing; who writes holds it |

All numbers are little-endian. A store of token ids has them in values.bin, [T] int32. Files only
grow, and what lies beyond the totals of the manifest does not count: a document is there once the
manifest that tells of it is. A segment ends with the document that brings it to so many tokens, and
then has its record; that of the last, which has not ended, is in the manifest. So the bytes follow
from the documents, whenever they were committed.

Version 1 had no `tail` and no `cut`; its segments ended wherever something was committed.
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

from packrank.checkpoint.kind import STORE_FILE, TOKEN_IDS
from packrank.errors import StoreError
from packrank.stores.files import MappedFile, read
from packrank_kernels import FORMATS, get_num_threads

VERSION = 2
_EARLIER = 1
MANIFEST = STORE_FILE
UNFINISHED = "store.json.unfinished"
CODEC = "codec.safetensors"
SEGMENTS = "segments.bin"
LOCK = "lock"
FILES = ("values.bin", "scales.bin", "codes.bin", "cu_seqlens.bin", "ids.bin", "id_offsets.bin")
COLUMNS = 3 + len(FILES)
# Of a number of values.bin.
_BITS = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, TOKEN_IDS: 32}
# What a manifest says of who made token ids.
_TOKENIZATION = ("name", "tokenizer", "before", "after")
# Far beyond any store, and its products far below 2**63: what is computed from a manifest is exact.
MOST_DIMENSIONS = 1 << 20
_MOST_COUNTED = 1 << 45


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

    def is_sound(self) -> bool:
        """Whether every field is of its type and range."""
        return (
            all(_is_count(count) for count in (self.lines, self.failed, self.before))
            and type(self.complete) is bool
            and isinstance(self.earlier, list)
            and all(isinstance(sha256, str) for sha256 in (self.sha256, *self.earlier))
        )


@dataclass(frozen=True)
class Manifest:
    """What counts of a store.

    Attributes:
        format: as of `TokenEmbeddings`, or `TOKEN_IDS`.
        size: D; of token ids 1.
        model: what encoded it, if that is known; "vectors" tells models apart. Of token ids what
            `Tokenization` has.
        codec_crc32: of codec.safetensors, None where the format has no codec.
        documents: N.
        tokens: T.
        id_bytes: of ids.bin.
        segments: S.
        segments_crc32: of segments.bin.
        tail: the record of the segment that has not ended; empty where there is none.
        cut: documents that were longer than the model read them; None where nobody counted.
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
    tail: list[int] = field(default_factory=list)
    cut: int | None = None
    source: Source | None = None

    def dump(self, version: int = VERSION) -> bytes:
        """store.json, which ends in a checksum of itself."""
        fields = {"packrank_store": version, **asdict(self)}
        if version == _EARLIER:
            del fields["tail"], fields["cut"]
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
        if type(version) is not int:
            raise damaged
        if version not in (_EARLIER, VERSION):
            raise StoreError(
                f"{path} is of version {version} of the format, and this Packrank reads versions "
                f"up to {VERSION}; open it with the Packrank that wrote it, or a newer one"
            )
        try:
            source = fields.pop("source")
            manifest = cls(**fields, source=None if source is None else Source(**source))
            if manifest.dump(version) != raw or not manifest._is_sound():
                raise damaged
        except (KeyError, TypeError, ValueError, RecursionError):
            raise damaged from None
        return manifest

    def _is_sound(self) -> bool:
        """Whether every field is what a writer would write, whoever made the checksum."""
        counts = (self.documents, self.tokens, self.id_bytes, self.segments)
        model, source = self.model or {}, self.source
        return (
            self.format in (*FORMATS, TOKEN_IDS)
            and (not self.is_of_tokens or self._says_how())
            and (self.model is None or isinstance(self.model, dict))
            and all(
                isinstance(model.get(part, ""), str) for part in ("name", "vectors", "fingerprint")
            )
            and _is_count(self.size, MOST_DIMENSIONS)
            and self.size > 0
            and self.size * self._bits % 8 == 0
            and all(_is_count(count) for count in counts)
            and self.segments <= self.documents
            and (self.documents > 0 or not any(counts))
            and _is_count(self.segments_crc32, (1 << 32) - 1)
            and (_is_count(self.codec_crc32, (1 << 32) - 1) == self.is_residual)
            and (self.is_residual or self.codec_crc32 is None)
            and isinstance(self.tail, list)
            and len(self.tail) in (0, COLUMNS)
            and all(_is_count(count) for count in self.tail)
            and (self.cut is None or _is_count(self.cut, self.documents))
            and (source is None or source.is_sound())
        )

    def _says_how(self) -> bool:
        return self.size == 1 and all(
            isinstance((self.model or {}).get(part), str) for part in _TOKENIZATION
        )

    @property
    def is_of_tokens(self) -> bool:
        """Whether its numbers are token ids, and no embeddings."""
        return self.format == TOKEN_IDS

    @property
    def is_residual(self) -> bool:
        """Whether tokens are residual codes."""
        return self.format not in _BITS

    @property
    def _bits(self) -> int:
        return int(self.format.removesuffix("bit")) if self.is_residual else _BITS[self.format]

    @property
    def row_bytes(self) -> int:
        """Of values.bin, for a token."""
        return self.size * self._bits // 8

    @property
    def bytes_per_token(self) -> float:
        """Codec and offsets not counted."""
        sizes = (self.extents(0, tokens, 0) for tokens in (0, 1))
        before, after = (sum(size or 0 for size in of) for of in sizes)
        return float(after - before)

    def extents(self, documents: int, tokens: int, id_bytes: int) -> list[int | None]:
        """Bytes of each of `FILES` that so much takes; None for a file that the format lacks."""
        return [
            tokens * self.row_bytes,
            4 * tokens if self.is_residual or self.format == "int8" else None,
            4 * tokens if self.is_residual else None,
            8 * (documents + 1),
            id_bytes,
            8 * (documents + 1),
        ]

    def sizes(self) -> dict[str, int]:
        """Bytes that count, of each file that the store has beside manifest and codec."""
        sizes = self.extents(self.documents, self.tokens, self.id_bytes)
        named = {name: size for name, size in zip(FILES, sizes, strict=True) if size is not None}
        return {**named, SEGMENTS: 8 * COLUMNS * self.segments}


def check_kind(folder: Path, manifest: Manifest, of_tokens: bool) -> None:
    """Raise StoreError unless a store holds what is wanted: token ids, or token embeddings."""
    if manifest.is_of_tokens != of_tokens:
        kinds = {
            True: "token ids, from packrank tokenize",
            False: "token embeddings, from packrank encode",
        }
        raise StoreError(
            f"{folder} holds {kinds[not of_tokens]}, and what is wanted is {kinds[of_tokens]}; "
            "name another folder"
        )


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Raise StoreError unless every file is there and as long as the manifest says."""
    for name, size in manifest.sizes().items():
        MappedFile(folder / name, "u1", 0, size)


def check_sums(folder: Path, manifest: Manifest) -> None:
    """Raise StoreError unless every checksum but the codec's is right; reads the whole store.

    The sizes must have been checked.
    """
    segments = MappedFile(folder / SEGMENTS, "<i8", manifest.segments * COLUMNS).numbers
    if zlib.crc32(segments.data) != manifest.segments_crc32:
        raise StoreError(f"{folder / SEGMENTS} is damaged: its checksum is wrong")
    segments = segments.reshape(-1, COLUMNS)
    if manifest.tail:
        segments = np.vstack([segments, np.array(manifest.tail, dtype="<i8")])
    parts = segments[:, :3]
    wanted = [manifest.documents, manifest.tokens, manifest.id_bytes]
    # Numbers beyond what is counted could add up to anything.
    inside = bool(((parts >= 0) & (parts <= _MOST_COUNTED)).all() and (parts[:, 0] > 0).all())
    if not inside or [sum(column) for column in parts.T.tolist()] != wanted:
        raise StoreError(f"{folder / SEGMENTS} is damaged: it does not add up to {MANIFEST}")
    files = {
        name: MappedFile(folder / name, "u1", size).numbers
        for name, size in manifest.sizes().items()
        if name != SEGMENTS
    }

    def is_sound(piece: tuple[str, int, int, int, int, int]) -> bool:
        name, start, stop, crc32, _, _ = piece
        return zlib.crc32(files[name][start:stop].data) == crc32

    pieces = list(_pieces(manifest, segments))
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


def _is_count(value: object, most: int = _MOST_COUNTED) -> bool:
    return type(value) is int and 0 <= value <= most


def _added(totals: list[int], more: list[int]) -> list[int]:
    return [a + b for a, b in zip(totals, more, strict=True)]
