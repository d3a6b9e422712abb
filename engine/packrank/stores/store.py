"""Token embeddings of a corpus on disk, mapped into memory."""

import os
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from packrank.arguments import listed_texts
from packrank.checkpoint.kind import in_words
from packrank.errors import InputError, StoreError
from packrank.stores.document_ids import Numbers, Places, StoredIds
from packrank.stores.files import MappedFile, folder_path, open_file, present_folder, read
from packrank.stores.indexes import open_index
from packrank.stores.layouts import layout_of, stores_in
from packrank.stores.manifest import (
    CODEC,
    MANIFEST,
    Manifest,
    check_kind,
    check_sizes,
    check_sums,
)
from packrank_kernels import Codec, TokenEmbeddings

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}


class Store:
    """Token embeddings of a corpus, from `packrank encode` or an index of another package.

    What `packrank encode` wrote is mapped: nothing is read before it is needed, and it need not fit
    in memory; offsets of documents are read when it is opened. A store that somebody appends to
    stays, for who has opened it, as it was. An index of ColBERT, PyLate, RAGatouille or fast-plaid
    is read into memory, since its owner may rewrite its files; only residuals of more than half of
    the machine's memory are mapped.

    Attributes:
        path: the folder.
        layout: what it holds, in words: "packrank", or whose index.
        format: as of `TokenEmbeddings`.
        size: D.
        num_tokens: T.
        model: what encoded it: "name", "vectors" (what tells models apart) and some of its
            settings; of an index "name" alone; None where nobody wrote that down.
        complete: whether the last file of documents has been encoded whole.
        num_cut: documents that were longer than the model read them; None where nobody counted.
        deleted: documents that the owner of an index has deleted; they are none of its documents.
        ids: [N] ids of the documents; those of an index without any are their places, "0", "1" and
            so on. In an index of passages several may have the id of one document.
    """

    def __init__(
        self,
        path: Path,
        embeddings: TokenEmbeddings,
        ids: Sequence[str],
        manifest: Manifest | None = None,
        *,
        layout: str = "packrank",
        checkpoint: str | None = None,
        deleted: int = 0,
        mapped: Sequence[MappedFile] = (),
    ) -> None:
        self.path = path
        self.layout = layout
        self.ids = ids
        self.format = embeddings.format
        self.size = embeddings.size
        self.num_tokens = len(embeddings.values)
        self.deleted = deleted
        source = None if manifest is None else manifest.source
        self.model: dict[str, Any] | None = None if manifest is None else manifest.model
        if checkpoint is not None:
            self.model = {"name": checkpoint}
        self.complete = source is None or source.complete
        self.num_cut = None if manifest is None else manifest.cut
        self._embeddings = embeddings
        self._mapped = mapped

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> "Store":
        """Open a store, or an index of ColBERTv2, PLAID, PyLate, RAGatouille or fast-plaid.

        Args:
            path: the folder.
            verify: check the checksums, which reads the whole store; else only its codec's, the
                sizes of its files and where documents begin and end. An index has no checksums: it
                is read once, and its files are checked against each other.

        Raises:
            InputError: the path is none.
            StoreError: there is no store, or it is cut off, damaged, or of a newer version, or an
                index is being written; the message names the file.
        """
        folder = present_folder(path, "packrank encode")
        layout = layout_of(folder)
        if layout is None:
            inside, model = stores_in(folder), in_words(folder)
            if model is not None:
                raise StoreError(
                    f"{folder} holds {model} and no store; encode documents with it first "
                    "(packrank encode)"
                )
            raise StoreError(
                f"{folder} is no store: it has no {MANIFEST}, and no centroids.pt or centroids.npy "
                "of an index of ColBERT or fast-plaid"
                + (f"; pass a folder that it holds, such as {inside[0]}" if inside else "")
            )
        if layout.kind == "packrank":
            return cls._open(folder, verify)
        index = open_index(layout)
        return cls(
            folder,
            index.embeddings,
            index.ids,
            layout=layout.name,
            checkpoint=index.checkpoint,
            deleted=index.deleted,
            mapped=[] if index.mapped is None else [index.mapped],
        )

    @classmethod
    def _open(cls, folder: Path, verify: bool) -> "Store":
        manifest = Manifest.load(folder)
        check_kind(folder, manifest, of_tokens=False)
        check_sizes(folder, manifest)
        if verify:
            check_sums(folder, manifest)
        tokens, mapped = manifest.tokens, []

        def map_part(part: str, dtype: str, count: int) -> Tensor:
            mapped.append(MappedFile(folder / f"{part}.bin", dtype, count))
            return torch.from_numpy(mapped[-1].numbers)

        codec = None if manifest.codec_crc32 is None else read_codec(folder, manifest)
        values = map_part("values", "u1", tokens * manifest.row_bytes)
        has_scales = codec is not None or manifest.format == "int8"
        try:
            embeddings = TokenEmbeddings.of(
                values.view(tokens, manifest.row_bytes).view(
                    _DTYPES.get(manifest.format, torch.uint8)
                ),
                torch.from_numpy(offsets_of(folder / "cu_seqlens.bin", manifest.documents, tokens)),
                map_part("scales", "<f4", tokens) if has_scales else None,
                map_part("codes", "<i4", tokens) if codec is not None else None,
                codec,
            )
        except ValueError as error:
            raise StoreError(f"{folder} is damaged: {error}") from None
        return cls(folder, embeddings, stored_ids(folder, manifest), manifest, mapped=mapped)

    @property
    def embeddings(self) -> TokenEmbeddings:
        """All documents, on the CPU. Who writes to what is mapped changes no file.

        Raises:
            StoreError: a file that is mapped has been cut off since, or that of an index rewritten.
        """
        self.check()
        return self._embeddings

    @property
    def is_mapped(self) -> bool:
        """Whether documents are read from files when they are needed."""
        return bool(self._mapped)

    def check(self) -> None:
        """Raise StoreError if a file that is mapped is no longer what was opened.

        A store's files only grow; what is written over them in place is not noticed. To be sure
        before every use costs a microsecond a file.
        """
        for mapped in self._mapped:
            if self.layout == "packrank":
                mapped.check_length()
            else:
                mapped.check_unchanged()

    def __len__(self) -> int:
        """N."""
        return len(self._embeddings)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}: {len(self)} documents in {self.format})"

    @classmethod
    def is_one(cls, path: str | os.PathLike[str]) -> bool:
        """Whether a folder looks like a store, of whatever, or an index that opens as one."""
        try:
            return layout_of(folder_path(path)) is not None
        except InputError:
            return False
        except StoreError:  # more than one: to open it says so
            return True

    def indices(self, ids: Sequence[str]) -> Tensor:
        """Where documents are, by their ids; the first call reads all ids.

        Returns:
            [K] int64, as `maxsim` takes candidates.

        Raises:
            InputError: no document has one of these ids, or several have.
        """
        wanted = listed_texts("ids", ids)
        found: list[int] = []
        for id, places in zip(wanted, self._places.find(wanted), strict=True):
            if not places:
                raise InputError(f"no document of {self.path} has the id {id!r}")
            if len(places) > 1:
                raise InputError(
                    f"{len(places)} documents of {self.path} have the id {id!r}, the first of them "
                    f"at places {places[0]} and {places[1]}; pass places to maxsim instead"
                )
            found.append(places[0])
        return torch.tensor(found, dtype=torch.int64)

    @cached_property
    def _places(self) -> Numbers | Places:
        return self.ids if isinstance(self.ids, Numbers) else Places(self.ids)


def read_codec(folder: Path, manifest: Manifest) -> Codec:
    """The codec of a store, if it is the one that the manifest tells of."""
    path = folder / CODEC
    raw = read(path)
    if zlib.crc32(raw) != manifest.codec_crc32:
        raise StoreError(f"{path} is damaged: its checksum is wrong")
    try:
        parts = load(raw)
        named = [parts[part] for part in ("centroids", "bucket_cutoffs", "bucket_weights")]
        if not all(part.is_floating_point() for part in named):
            raise ValueError("it holds other than floating-point numbers")
        codec = Codec.of(*named)
    except Exception as error:  # a damaged file makes its readers raise anything
        raise StoreError(f"{path} is damaged: {error}") from None
    if (f"{codec.bits}bit", codec.size) != (manifest.format, manifest.size):
        raise StoreError(
            f"{path} is damaged: it is of {codec.bits} bits and {codec.size} dimensions, and "
            f"{MANIFEST} says {manifest.format} and {manifest.size}"
        )
    return codec


def stored_ids(folder: Path, manifest: Manifest) -> StoredIds:
    """The ids of a store's documents; StoreError if they are damaged."""
    source = folder / "id_offsets.bin"
    offsets = offsets_of(source, manifest.documents, manifest.id_bytes)
    return StoredIds(folder / "ids.bin", offsets)


def offsets_of(path: Path, count: int, end: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """[count + 1] int64 that rise from 0 to `end`, read into memory; StoreError if they do not."""
    with os.fdopen(open_file(path), "rb") as file:
        offsets = np.fromfile(file, "<i8", count + 1).astype(np.int64, copy=False)
    if len(offsets) <= count:
        raise StoreError(f"{path} was cut off while it was opened")
    if offsets[0] != 0 or offsets[-1] != end or (offsets[1:] < offsets[:-1]).any():
        raise StoreError(f"{path} is damaged: it does not rise from 0 to {end}")
    return offsets
