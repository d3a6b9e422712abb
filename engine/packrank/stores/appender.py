"""Writing a store: what is committed stays, whatever happens to the process or the machine.

Documents are appended to the files, they are brought to the disk, and then a new manifest takes the
place of the old one. What a writer that was stopped left beyond the manifest's totals is cut off by
the next.
"""

import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import blake2b
from time import monotonic
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from packrank.checkpoint.kind import TOKEN_IDS
from packrank.closing import Closing
from packrank.errors import StoreError
from packrank.stores import disk
from packrank.stores.files import folder_path
from packrank.stores.manifest import (
    CODEC,
    FILES,
    LOCK,
    MANIFEST,
    SEGMENTS,
    UNFINISHED,
    Manifest,
    Source,
    check_kind,
    check_sizes,
    check_sums,
)
from packrank.stores.segments import Growth
from packrank.stores.store import read_codec, stored_ids
from packrank_kernels import BITS, FORMATS, Codec, TokenEmbeddings

# What a writer makes before the first manifest is there.
_MADE = (*FILES, SEGMENTS, CODEC, UNFINISHED)
# What is appended is committed after so long: a process that is killed loses no more.
_COMMIT_SECONDS = 10.0


class Appender(Closing):
    """The one writer of a store; use as a context manager.

    Between commits it holds nothing of the documents but a digest of each id, some 100 bytes.

    Attributes:
        path: the folder.
        manifest: as of the last commit; None before `create`.
    """

    def __init__(self, path: str | os.PathLike[str], *, of_tokens: bool = False) -> None:
        """Take the folder, which is made if it is not there.

        Args:
            path: of the folder.
            of_tokens: it holds token ids, or will, and no embeddings.

        Raises:
            InputError: the path is none.
            StoreError: somebody else writes to it, it cannot be written to, it is damaged, or it
                holds something else.
        """
        self._of_tokens = of_tokens
        self.path = folder_path(path)
        self.manifest: Manifest | None = None
        self._codec: Codec | None = None
        self._codecs: dict[torch.device, Codec] = {}
        self._files: dict[str, int] = {}
        self._seen: set[bytes] | None = None
        self._growth: Growth | None = None
        self._committed_at = -math.inf
        with self._writing():
            self._is_new = not self.path.is_dir()
            self.path.mkdir(exist_ok=True)
            if not (self.path / MANIFEST).exists():
                self._check_new()
            for name in (MANIFEST, CODEC):
                if (self.path / name).is_symlink():
                    raise StoreError(
                        f"{self.path / name} is a symbolic link, through which no store is written"
                    )
            self._lock: int | None = disk.open_own(self.path / LOCK)
        try:
            with self._writing():
                free = disk.lock(self._lock)
            if not free:
                raise StoreError(
                    f"{self.path} is being written by another process; wait until it has ended"
                )
            if (self.path / MANIFEST).exists():
                self._open()
        except BaseException:
            self.close()
            raise

    def _check_new(self) -> None:
        """Raise StoreError if the folder holds anything that is not known to be worthless."""
        for name in sorted(os.listdir(self.path)):
            if name not in (*_MADE, LOCK):
                raise StoreError(
                    f"{self.path} is no store, and holds {name!r}; name a folder that is new or "
                    "empty"
                )
        values = self.path / FILES[0]
        if values.exists() and values.stat().st_size:
            raise StoreError(
                f"{self.path} holds documents and no {MANIFEST}; bring that back, or name another "
                "folder"
            )

    def _open(self) -> None:
        self.manifest = Manifest.load(self.path)
        check_kind(self.path, self.manifest, self._of_tokens)
        check_sizes(self.path, self.manifest)
        check_sums(self.path, self.manifest)
        if self.manifest.codec_crc32 is not None:
            self._codec = read_codec(self.path, self.manifest)
        with self._writing():
            (self.path / UNFINISHED).unlink(missing_ok=True)
            for name in self.manifest.sizes():
                self._files[name] = disk.open_own(self.path / name)
            self._cut_back()

    def create(
        self, format: str, size: int, model: Mapping[str, Any] | None, codec: Codec | None = None
    ) -> Manifest:
        """Begin a store of no documents, where there is none, and commit it.

        Args:
            format: as of `TokenEmbeddings`; of token ids `TOKEN_IDS`.
            size: D; of token ids 1.
            model: what encodes; anything JSON can hold, "vectors" tells models apart. Of token ids
                what `Tokenization` has.
            codec: of residual codes (8bit, 4bit, 2bit, 1bit).

        Raises:
            StoreError: codec and format do not fit, or the folder cannot be written or holds
                something else by now.
        """
        assert self.manifest is None
        if format not in ((TOKEN_IDS,) if self._of_tokens else FORMATS):
            raise StoreError(f"there is no format {format!r}; there are {', '.join(FORMATS)}")
        fits = (None if codec is None else codec.bits) == BITS.get(format)
        if not fits or (codec is not None and codec.size != size):
            raise StoreError(f"the codec does not fit format {format} of {size} dimensions")
        encoded = None if codec is None else _dump_codec(codec)
        known: dict[str, Any] | None = json.loads(json.dumps(model))  # as it will be read
        crc32 = None if encoded is None else zlib.crc32(encoded)
        manifest = Manifest(format, size, known, crc32, cut=0)
        with self._writing():
            self._check_new()
            for name in _MADE:
                (self.path / name).unlink(missing_ok=True)
            for name in manifest.sizes():
                self._files[name] = disk.open_own(self.path / name, empty=True)
            for name in ("cu_seqlens.bin", "id_offsets.bin"):
                disk.write(self._files[name], bytes(8), 0)
            if encoded is not None:
                disk.write_file(self.path / CODEC, encoded)
            for file in self._files.values():
                os.fsync(file)
            with suppress(PermissionError):  # of a folder that may not be listed
                disk.sync_folder(self.path.absolute().parent)
            self._replace(manifest)
        self._codec = codec
        return manifest

    def holds(self, id: str) -> bool:
        """Whether a document has this id; the first call reads the ids that are there."""
        return _digest(id) in self._ids()

    def append(
        self, ids: Sequence[str], documents: Sequence[Tensor], cut: int | None = None
    ) -> None:
        """Add documents, which are there once they are committed.

        Args:
            ids: any strings, of which none is there yet.
            documents: [L, D] each, on one device; finite. Of token ids [L, 1] int32.
            cut: how many were longer than their model read them; None if nobody counted.

        Raises:
            StoreError: an id is there already, or the disk is full; nothing since the last commit
                is kept then.
            ValueError: shapes disagree, or a value is not finite.
        """
        assert self.manifest is not None and self._growth is not None
        if len(ids) != len(documents):
            raise ValueError(f"store: {len(ids)} ids of {len(documents)} documents")
        if any(x.ndim != 2 or x.shape[1] != self.manifest.size for x in documents):
            raise ValueError(f"store: documents must be [L, {self.manifest.size}]")
        digests = [_digest(id) for id in ids]
        fresh: set[bytes] = set()
        for id, digest in zip(ids, digests, strict=True):
            if digest in self._ids() or digest in fresh:
                raise StoreError(f"{self.path} has a document {id!r} already; ids must differ")
            fresh.add(digest)
        if not ids:
            return
        growth = self._growth
        values, scales, codes = self._encode(documents)
        raw = [id.encode() for id in ids]
        token_ends = np.cumsum([len(x) for x in documents], dtype="<i8") + growth.tokens
        id_ends = np.cumsum([len(id) for id in raw], dtype="<i8") + growth.id_bytes
        parts = {
            "values.bin": _bytes_of(values),
            "scales.bin": None if scales is None else _bytes_of(scales),
            "codes.bin": None if codes is None else _bytes_of(codes),
            "cu_seqlens.bin": memoryview(token_ends.tobytes()),
            "ids.bin": memoryview(b"".join(raw)),
            "id_offsets.bin": memoryview(id_ends.tobytes()),
        }
        grown = growth.grown(self.manifest, parts, token_ends, id_ends, cut)
        offsets = growth.offsets(self.manifest)
        with self._writing():
            for name, content in parts.items():
                offset = offsets[name]
                if content is not None and offset is not None:
                    disk.write(self._files[name], content, offset)
        self._ids().update(fresh)
        self._growth = grown

    @contextmanager
    def whole(self, ids: Sequence[str]) -> Iterator[None]:
        """All that the block appends, documents of these ids, or nothing of it.

        A StoreError has gone back to the last commit, and so further.
        """
        before = self._growth
        try:
            yield
        except StoreError:
            raise
        except BaseException:
            self._growth = before
            self._ids().difference_update(map(_digest, ids))
            raise

    @property
    def num_documents(self) -> int:
        """Documents that are there or appended."""
        return 0 if self._growth is None else self._growth.documents

    @property
    def is_due(self) -> bool:
        """Whether this writer's last commit, if any, is so long ago that it should commit again."""
        return monotonic() - self._committed_at >= _COMMIT_SECONDS

    def commit(self, source: Source | None = None) -> Manifest:
        """Make what was appended safe.

        Args:
            source: how far a file has been encoded; None leaves it as it is.

        Raises:
            StoreError: the disk is full; nothing since the last commit is kept then.
        """
        old, growth = self.manifest, self._growth
        assert old is not None and growth is not None
        records = np.array(growth.ended, dtype="<i8").tobytes()
        new = replace(
            old,
            documents=growth.documents,
            tokens=growth.tokens,
            id_bytes=growth.id_bytes,
            segments=old.segments + len(growth.ended),
            segments_crc32=zlib.crc32(records, old.segments_crc32),
            tail=[*growth.tail] if any(growth.tail) else [],
            cut=growth.cut,
            source=old.source if source is None else source,
        )
        self._committed_at = monotonic()
        if new == old:
            return old
        with self._writing():
            if growth.documents > old.documents:
                disk.write(self._files[SEGMENTS], records, old.sizes()[SEGMENTS])
                for file in self._files.values():
                    os.fsync(file)
            self._replace(new)
        return new

    def close(self) -> None:
        """Let go of the folder, and of one made for nothing; what was not committed is cut off."""
        for file in self._files.values():
            os.close(file)
        self._files = {}
        if self._lock is not None:
            if self._is_new and self.manifest is None:
                with suppress(OSError):
                    if os.listdir(self.path) == [LOCK]:
                        os.unlink(self.path / LOCK)
                        os.rmdir(self.path)
            os.close(self._lock)
        self._lock = None

    def _ids(self) -> set[bytes]:
        if self._seen is None:
            there = [] if self.manifest is None else stored_ids(self.path, self.manifest)
            self._seen = set(map(_digest, there))
        return self._seen

    def _encode(self, documents: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Values, scales and codes, as far as the format has them.

        Residuals are those of directions, so that any length of vectors fits one codec.
        """
        assert self.manifest is not None
        if self._of_tokens:
            return torch.cat(list(documents)), None, None
        if self._codec is None:
            encoded = TokenEmbeddings.encode(documents, self.manifest.format)
            return encoded.values, encoded.scales, encoded.codes
        device = documents[0].device
        if device not in self._codecs:
            self._codecs[device] = self._codec.to(device)
        x = torch.cat(list(documents)).float()
        norms = torch.linalg.vector_norm(x, dim=1)
        directions = x / torch.where(norms > 0, norms, 1.0)[:, None]
        parts = torch.split(directions, [len(document) for document in documents])
        encoded = TokenEmbeddings.encode(parts, self.manifest.format, self._codecs[device])
        assert encoded.scales is not None
        return encoded.values, encoded.scales * norms, encoded.codes

    def _replace(self, manifest: Manifest) -> None:
        """The new manifest in place of the old one, in one step, and on the disk."""
        disk.write_file(self.path / UNFINISHED, manifest.dump())
        os.replace(self.path / UNFINISHED, self.path / MANIFEST)
        self.manifest, self._growth = manifest, Growth.of(manifest)
        disk.sync_folder(self.path)

    def _cut_back(self) -> None:
        """To the last commit."""
        assert self.manifest is not None
        self._growth, self._seen = Growth.of(self.manifest), None
        sizes = self.manifest.sizes()
        for name, file in self._files.items():
            os.ftruncate(file, sizes[name])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What the system refuses, in a sentence; and back to the last commit."""
        try:
            yield
        except OSError as error:
            kept = "nothing was encoded"
            if self.manifest is not None:
                kept = f"it is as of its last commit, {self.manifest.documents} documents"
                with suppress(OSError):
                    self._cut_back()
            raise StoreError(f"{self.path} cannot be written: {error.strerror}; {kept}") from None


def _digest(id: str) -> bytes:
    return blake2b(id.encode(errors="surrogatepass"), digest_size=16).digest()


def _bytes_of(x: Tensor) -> memoryview:
    return x.cpu().contiguous().view(torch.uint8).flatten().numpy().data


def _dump_codec(codec: Codec) -> bytes:
    parts = ("centroids", "bucket_cutoffs", "bucket_weights")
    return save({part: getattr(codec, part).cpu().contiguous() for part in parts})
