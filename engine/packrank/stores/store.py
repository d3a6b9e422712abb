"""Token embeddings of a corpus on disk, mapped into memory."""

import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from packrank.arguments import listed_texts
from packrank.errors import InputError, StoreError
from packrank.stores.indexes import is_index, open_index
from packrank.stores.manifest import CODEC, MANIFEST, Manifest, check_sizes, check_sums, map_file
from packrank.stores.manifest import read as read_file
from packrank_kernels import Codec, TokenEmbeddings

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
    "4bit": torch.uint8,
    "2bit": torch.uint8,
}
_IDS_AT_ONCE = 1 << 16


class Store:
    """Token embeddings of a corpus, from `packrank encode` or an index of ColBERT or fast-plaid.

    Nothing is read before it is needed, and what is read need not fit in memory. A store that
    somebody appends to stays, for who has opened it, as it was.

    Attributes:
        path: the folder.
        format: as of `TokenEmbeddings`.
        size: D.
        num_tokens: T.
        model: what encoded it: "name", "fingerprint" (what tells models apart) and some of its
            settings; None where nobody wrote that down.
        complete: whether the last file of documents has been encoded whole.
        embeddings: on the CPU; of a store, and of an index of one chunk as far as it has the form,
            mapped from the files, not to be written to.
        ids: [N] ids of the documents; those of an index are "0", "1" and so on.
    """

    def __init__(
        self,
        path: Path,
        embeddings: TokenEmbeddings,
        ids: Sequence[str],
        manifest: Manifest | None = None,
    ) -> None:
        self.path = path
        self.embeddings = embeddings
        self.ids = ids
        self.format = embeddings.format
        self.size = embeddings.size
        self.num_tokens = len(embeddings.values)
        source = None if manifest is None else manifest.source
        self.model: dict[str, Any] | None = None if manifest is None else manifest.model
        self.complete = source is None or source.complete

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> "Store":
        """Open a store, or an index of ColBERTv2, PLAID or fast-plaid.

        Of an index the chunks are checked against each other and the lengths of its vectors
        computed, which reads it once.

        Args:
            path: the folder.
            verify: check the checksums, which reads the whole store; else only its codec's, the
                sizes of its files and where documents begin and end. An index has no checksums.

        Raises:
            StoreError: there is none, or it is cut off, damaged, or of a newer version; the message
                names the file.
        """
        folder = Path(path)
        if not folder.is_dir():
            kind = "is no folder" if folder.exists() else "is not there"
            raise StoreError(f"{folder} {kind}; pass a folder made by packrank encode")
        if (folder / MANIFEST).is_file():
            return cls._open(folder, verify)
        if is_index(folder):
            embeddings = open_index(folder)
            return cls(folder, embeddings, _Numbers(len(embeddings)))
        raise StoreError(
            f"{folder} is no store: it has no {MANIFEST}, and no centroids.pt or centroids.npy of "
            "an index of ColBERT or fast-plaid"
        )

    @classmethod
    def _open(cls, folder: Path, verify: bool) -> "Store":
        manifest = Manifest.load(folder)
        check_sizes(folder, manifest)
        if verify:
            check_sums(folder, manifest)
        documents, tokens = manifest.documents, manifest.tokens
        codec = None if manifest.codec_crc32 is None else read_codec(folder, manifest.codec_crc32)
        values = _map(folder, "values", "u1", tokens * manifest.row_bytes)
        has_scales = codec is not None or manifest.format == "int8"
        try:
            embeddings = TokenEmbeddings.of(
                values.view(tokens, manifest.row_bytes).view(_DTYPES[manifest.format]),
                _map(folder, "cu_seqlens", "<i8", documents + 1),
                _map(folder, "scales", "<f4", tokens) if has_scales else None,
                _map(folder, "codes", "<i4", tokens) if codec is not None else None,
                codec,
            )
        except ValueError as error:
            raise StoreError(f"{folder} is damaged: {error}") from None
        return cls(folder, embeddings, _Ids(folder, manifest), manifest)

    def __len__(self) -> int:
        """N."""
        return len(self.embeddings)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}: {len(self)} documents in {self.format})"

    @classmethod
    def is_one(cls, path: Path) -> bool:
        """Whether a folder looks like a store, or an index that opens as one."""
        return (path / MANIFEST).is_file() or is_index(path)

    def indices(self, ids: Sequence[str]) -> Tensor:
        """Where documents are, by their ids; the first call reads all ids.

        Returns:
            [K] int64, as `maxsim` takes candidates.

        Raises:
            InputError: no document has one of these ids.
        """
        wanted = listed_texts("ids", ids)
        found = list(self._places.find(wanted))
        for id, index in zip(wanted, found, strict=True):
            if index is None:
                raise InputError(f"no document of {self.path} has the id {id!r}")
        return torch.tensor(found, dtype=torch.int64)

    @cached_property
    def _places(self) -> "_Numbers | _Places":
        return self.ids if isinstance(self.ids, _Numbers) else _Places(self.ids)


def read_codec(folder: Path, crc32: int) -> Codec:
    """The codec of a store, if it has this checksum."""
    path = folder / CODEC
    raw = read_file(path)
    if zlib.crc32(raw) != crc32:
        raise StoreError(f"{path} is damaged: its checksum is wrong")
    try:
        parts = load(raw)
        return Codec.of(parts["centroids"], parts["bucket_cutoffs"], parts["bucket_weights"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise StoreError(f"{path} is damaged: {error}") from None


def _map(folder: Path, part: str, dtype: str, count: int) -> Tensor:
    return torch.from_numpy(map_file(folder / f"{part}.bin", dtype, count))


class _Ids(Sequence[str]):
    """Ids in two mapped files."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._path = folder / "ids.bin"
        self._bytes = map_file(self._path, "u1", manifest.id_bytes)
        offsets = folder / "id_offsets.bin"
        self._offsets = map_file(offsets, "<i8", manifest.documents + 1)
        ends = int(self._offsets[0]), int(self._offsets[-1])
        if ends != (0, manifest.id_bytes) or (self._offsets[1:] < self._offsets[:-1]).any():
            raise StoreError(
                f"{offsets} is damaged: it does not rise from 0 to {manifest.id_bytes}"
            )

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
        return self._decode(self._bytes[start:stop].tobytes())

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _IDS_AT_ONCE):
            offsets = self._offsets[first : first + _IDS_AT_ONCE + 1].tolist()
            block, base = self._bytes[offsets[0] : offsets[-1]].tobytes(), offsets[0]
            for start, stop in pairwise(offsets):
                yield self._decode(block[start - base : stop - base])

    def _decode(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise StoreError(f"{self._path} is damaged: an id is not UTF-8") from None


class _Places:
    """From ids to places, in 16 bytes a document."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = ids
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        self._order: NDArray[np.int64] = np.argsort(hashes, kind="stable")
        self._hashes: NDArray[np.int64] = hashes[self._order]

    def find(self, ids: Sequence[str]) -> Iterator[int | None]:
        wanted = np.fromiter(map(hash, ids), np.int64, len(ids))
        starts = np.searchsorted(self._hashes, wanted, "left").tolist()
        stops = np.searchsorted(self._hashes, wanted, "right").tolist()
        for id, start, stop in zip(ids, starts, stops, strict=True):
            places: Iterable[int] = self._order[start:stop].tolist()
            yield next((place for place in places if self._ids[place] == id), None)


class _Numbers(Sequence[str]):
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

    def find(self, ids: Sequence[str]) -> Iterator[int | None]:
        for id in ids:
            place = int(id) if id.isdecimal() and len(id) < 20 else -1
            yield place if place in self._range and str(place) == id else None
