"""Indexes of ColBERTv2, PLAID and fast-plaid, read as they are.

A folder holds centroids, bucket cutoffs and bucket weights, and chunks of documents: a centroid a
token (codes), packed residuals, and tokens a document (doclens). ColBERT writes tensors (.pt),
fast-plaid arrays (.npy). A token's vector is centroid + residual, brought to length 1.

fast-plaid keeps codes and residuals of all chunks end to end in merged files, with rows of padding
behind them; from version 1.7 on those are all that there is, but for chunks that it is just
changing, whose own files count then. Before, every chunk has its own, and the merged ones may be
old. A document that it deletes is taken out of all of them. ColBERT leaves a deleted document a
length of 0, which no document of its own has.

Source: Santhanam et al. 2022; colbert/indexing/codecs/residual.py, search/index_storage.py and
index_updater.py; fast-plaid's rust/index and search/storage.py.
"""

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from packrank.errors import StoreError
from packrank.stores.document_ids import Numbers
from packrank.stores.files import MappedFile, is_file
from packrank.stores.index_ids import read_ids
from packrank.stores.layouts import Layout
from packrank.stores.reading import Reading, first_line, unlocked
from packrank_kernels import Codec, TokenEmbeddings

# What fast-plaid locks while it writes.
_LOCK = "plaid.lock"
# Tokens whose lengths are computed at once: 64 MB at 128 dimensions.
_TOKENS_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class Index:
    """An index, read.

    Attributes:
        embeddings: of the documents that are left, in the order of their chunks.
        ids: theirs.
        deleted: documents that have been deleted, but still have a place.
        checkpoint: the model that its metadata names.
        mapped: residuals that are too large to be read, else None.
    """

    embeddings: TokenEmbeddings
    ids: Sequence[str]
    deleted: int
    checkpoint: str | None
    mapped: MappedFile | None


@dataclass(frozen=True)
class _Part:
    """Where the codes or residuals of a chunk are: rows [start, start + rows) of a file."""

    path: Path
    start: int
    rows: int


def open_index(layout: Layout) -> Index:
    """All documents of an index.

    It is read into memory: whoever owns it may rewrite its files at any time. Only residuals of
    fast-plaid that would fill more than half of the machine's memory, and lie in one file, are
    mapped.

    Raises:
        StoreError: a file is missing, damaged or does not fit the others, or somebody writes to it
            meanwhile; the message names it.
    """
    reading = Reading()
    with unlocked(layout.folder / _LOCK):
        try:
            index = _read(layout, reading)
        except (MemoryError, RuntimeError) as error:
            raise StoreError(f"{layout.folder} cannot be read: {first_line(error)}") from None
        reading.check()
    return index


def _read(layout: Layout, reading: Reading) -> Index:
    folder, suffix = layout.folder, "pt" if layout.kind == "colbert" else "npy"
    codec = _read_codec(folder, reading, suffix)
    path = folder / "metadata.json"
    metadata = reading.json(path, dict)
    config = metadata.get("config")
    config = config if isinstance(config, dict) else {}
    bits = metadata.get("nbits", config.get("nbits", codec.bits))
    if bits != codec.bits:
        raise StoreError(f"{path} says {bits!r} bits, and there are weights of {codec.bits} bits")
    chunks = metadata.get("num_chunks")
    if type(chunks) is not int or chunks < 1:
        raise StoreError(f"{path}: num_chunks is {chunks!r}, expected a number")
    doclens = [_read_doclens(folder / f"doclens.{i}.json", reading) for i in range(chunks)]
    merged_only = bool(metadata.get("frozen")) and not metadata.get("mutable")
    lengths = list(chain(*doclens))
    kept, ids = _kept(layout, reading, lengths)
    rows = [sum(part) for part in doclens]
    codes = _join(reading, _parts(folder, "codes", suffix, rows, merged_only, reading), None)
    if len(codes) and not (int(codes.min()) >= 0 and int(codes.max()) < len(codec.centroids)):
        raise StoreError(
            f"{folder} names a centroid beyond the {len(codec.centroids)} there are, in its codes"
        )
    parts = _parts(folder, "residuals", suffix, rows, merged_only, reading)
    width, mapped = codec.size * codec.bits // 8, None
    left = [length for length, keep in zip(lengths, kept, strict=True) if keep]
    if suffix == "npy" and sum(left) == len(codes) and _is_large(len(codes) * width):
        mapped = _map(reading, parts, width)
    residuals = (
        _join(reading, parts, width)
        if mapped is None
        else torch.from_numpy(mapped.numbers).view(-1, width)
    )
    if sum(left) < len(codes):
        tokens = torch.from_numpy(np.repeat(kept, lengths))
        codes, residuals = codes[tokens], residuals[tokens]
    cu_seqlens = torch.tensor([0, *left], dtype=torch.int64).cumsum(0)
    scales = torch.empty(len(codes))
    for start in range(0, len(codes), _TOKENS_AT_ONCE):
        part = slice(start, start + _TOKENS_AT_ONCE)
        scales[part] = codec.scales(codes[part], residuals[part])
    checkpoint = config.get("checkpoint")
    return Index(
        TokenEmbeddings.of(residuals, cu_seqlens, scales, codes, codec),
        ids,
        len(lengths) - len(left),
        checkpoint if isinstance(checkpoint, str) and checkpoint else None,
        mapped,
    )


def _kept(layout: Layout, reading: Reading, lengths: list[int]) -> tuple[list[bool], Sequence[str]]:
    """Which documents have not been deleted, and their ids."""
    if layout.ids is None:
        if layout.kind == "fast-plaid" or all(lengths):
            return [True] * len(lengths), Numbers(len(lengths))
        kept = [length > 0 for length in lengths]
        return kept, [str(place) for place, keep in enumerate(kept) if keep]
    ids = read_ids(reading, layout.ids)
    for place in ids:
        if place >= len(lengths):
            raise StoreError(
                f"{layout.ids} has an id of document {place}, and {layout.folder} has "
                f"{len(lengths)}; whoever writes to the index may not have ended"
            )
    kept = [place in ids for place in range(len(lengths))]
    if layout.kind == "colbert":  # fast-plaid's search leaves out what has no id
        for place, (keep, length) in enumerate(zip(kept, lengths, strict=True)):
            if length and not keep:
                raise StoreError(
                    f"{layout.ids} has no id of document {place}, which {layout.folder} has; "
                    "whoever writes to the index may not have ended"
                )
    return kept, [ids[place] for place in sorted(ids)]


def _parts(
    folder: Path, name: str, suffix: str, rows: list[int], merged_only: bool, reading: Reading
) -> list[_Part]:
    """Where the codes or residuals of each chunk are, by the numbers of their rows."""
    merged = folder / f"merged_{name}.npy"
    if suffix == "pt" or not is_file(merged):
        return [_Part(folder / f"{i}.{name}.{suffix}", 0, n) for i, n in enumerate(rows)]
    manifest, found = merged.with_suffix(".manifest.json"), {}
    if is_file(manifest) and not merged_only:
        found = reading.json(manifest, dict)
    # A chunk that is being changed has another number of rows in the merged file than in its own.
    entries = [found.get(f"{i}.{name}.npy", {}) for i in range(len(rows))]
    if not all(isinstance(entry, dict) for entry in entries):
        raise StoreError(f"{manifest} holds something other than entries of chunks")
    inside = [entry.get("rows", 0) for entry in entries] if found else rows
    if not all(type(n) is int and n >= 0 for n in inside):
        raise StoreError(f"{manifest} holds something other than numbers of rows")
    parts = []
    for i, (start, n) in enumerate(zip(accumulate(inside, initial=0), rows, strict=False)):
        own = folder / f"{i}.{name}.{suffix}"
        if not merged_only and is_file(own):
            parts.append(_Part(own, 0, n))
        elif n != inside[i] or not (merged_only or not found or entries[i].get("merged") or not n):
            raise StoreError(
                f"{folder} has no {own.name}, and {merged.name} does not have its {n} rows; "
                "it is not whole, or is being written"
            )
        else:
            parts.append(_Part(merged, start, n))
    return parts


def _join(reading: Reading, parts: list[_Part], width: int | None) -> Tensor:
    """Codes [T] int32, or residuals [T, width] uint8, of all chunks, checked.

    Raises:
        StoreError: a file holds something else, or fewer rows than it should.
    """
    row_bytes = 4 if width is None else width
    for part in parts:  # before memory is taken for what a length says
        if reading.size(part.path) < (part.start + part.rows) * row_bytes:
            raise StoreError(
                f"{part.path} holds fewer rows than the {part.start + part.rows} "
                "that the documents have"
            )
    tokens = sum(part.rows for part in parts)
    shape = (tokens,) if width is None else (tokens, width)
    whole = torch.empty(shape, dtype=torch.int32 if width is None else torch.uint8)
    start = 0
    for part in parts:
        allowed = (torch.int32, torch.int64) if width is None else (torch.uint8,)
        expected = (part.rows, *shape[1:])
        if part.path.suffix == ".pt":
            x = reading.tensors(part.path)
        elif part.path.name.startswith("merged_"):
            x = reading.array(part.path, part.start, part.rows)
        else:
            x = reading.array(part.path)
        if not isinstance(x, Tensor) or x.dtype not in allowed or x.shape != expected:
            found = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            names = " or ".join(str(dtype) for dtype in allowed)
            raise StoreError(f"{part.path} holds {found}, expected {names} {list(expected)}")
        whole[start : start + part.rows] = x
        start += part.rows
    return whole


def _map(reading: Reading, parts: list[_Part], width: int) -> MappedFile | None:
    """Residuals that lie end to end in one file, mapped."""
    tokens = sum(part.rows for part in parts)
    starts = accumulate((part.rows for part in parts), initial=parts[0].start)
    path = parts[0].path
    if any(p.path != path or p.start != start for p, start in zip(parts, starts, strict=False)):
        return None
    offset, shape, dtype = reading.place(path)
    if len(shape) != 2 or shape[1] != width or shape[0] < tokens or dtype != "|u1":
        return None
    return MappedFile(path, "u1", tokens * width, offset)


def _is_large(size: int) -> bool:
    return 2 * size > os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE


def _read_codec(folder: Path, reading: Reading, suffix: str) -> Codec:
    path = folder / f"centroids.{suffix}"
    if suffix == "pt":
        centroids, buckets = reading.tensors(path), reading.tensors(folder / "buckets.pt")
        if not isinstance(buckets, list) or len(buckets) != 2:
            raise StoreError(f"{folder / 'buckets.pt'} holds no pair of cutoffs and weights")
        cutoffs, weights = buckets
    else:
        centroids = reading.array(path)
        cutoffs = reading.array(folder / "bucket_cutoffs.npy")
        weights = reading.array(folder / "bucket_weights.npy")
    parts = (centroids, cutoffs, weights)
    if not all(isinstance(x, Tensor) and x.is_floating_point() for x in parts):
        raise StoreError(f"{path} or the buckets beside it are no floating-point numbers")
    try:
        return Codec.of(centroids, cutoffs, weights)
    except ValueError as error:
        raise StoreError(f"{path} and the buckets beside it cannot be used: {error}") from None


def _read_doclens(path: Path, reading: Reading) -> list[int]:
    lengths: list[int] = reading.json(path, list)
    if not all(type(length) is int and 0 <= length < 2**31 for length in lengths):
        raise StoreError(f"{path} holds something other than lengths of documents")
    return lengths
