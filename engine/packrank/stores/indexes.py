"""Indexes of ColBERTv2, PLAID and fast-plaid, read as they are.

A folder holds centroids, bucket cutoffs and bucket weights, and chunks of documents: a centroid a
token (codes), packed residuals, and tokens a document (doclens). ColBERT writes tensors (.pt),
fast-plaid arrays (.npy). A token's vector is centroid + residual, brought to length 1.

Source: Santhanam et al. 2022; colbert/indexing/codecs/residual.py and search/index_storage.py;
fast-plaid's rust/index.
"""

import json
from collections.abc import Callable
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from packrank.errors import StoreError
from packrank.stores.manifest import map_file
from packrank.stores.manifest import read as read_file
from packrank_kernels import Codec, TokenEmbeddings

# Tokens whose lengths are computed at once: 64 MB at 128 dimensions.
_TOKENS_AT_ONCE = 1 << 15


def is_index(folder: Path) -> bool:
    """Whether a folder looks like an index."""
    return (folder / "centroids.pt").exists() or (folder / "centroids.npy").exists()


def open_index(folder: Path) -> TokenEmbeddings:
    """All documents of an index, in the order of its chunks.

    Residuals of a fast-plaid index of one chunk are mapped, everything else is read into memory.

    Raises:
        StoreError: a file is missing, damaged or does not fit the others; the message names it.
    """
    colbert = (folder / "centroids.pt").exists()
    load, suffix = (_load_tensors, "pt") if colbert else (_load_array, "npy")
    codec = _read_codec(folder, load, suffix)
    chunks = _read_json(folder / "metadata.json", dict).get("num_chunks")
    if not isinstance(chunks, int) or chunks < 1:
        raise StoreError(f"{folder / 'metadata.json'}: num_chunks is {chunks!r}, expected a number")
    doclens = [_read_doclens(folder / f"doclens.{chunk}.json") for chunk in range(chunks)]
    cu_seqlens = torch.tensor([0, *chain(*doclens)], dtype=torch.int64).cumsum(0)
    tokens, width = int(cu_seqlens[-1]), codec.size * codec.bits // 8
    codes = torch.empty(tokens, dtype=torch.int32)
    residuals = torch.empty(tokens if chunks > 1 else 0, width, dtype=torch.uint8)
    start = 0
    for chunk, stop in enumerate(accumulate(map(sum, doclens))):
        path = folder / f"{chunk}.codes.{suffix}"
        found = _tensor(load(path), path, stop - start, None)
        if len(found) and not (int(found.min()) >= 0 and int(found.max()) < len(codec.centroids)):
            raise StoreError(f"{path} names a centroid beyond the {len(codec.centroids)} there are")
        codes[start:stop] = found
        path = folder / f"{chunk}.residuals.{suffix}"
        found = _tensor(load(path), path, stop - start, width)
        if chunks == 1:
            residuals = found
        else:
            residuals[start:stop] = found
        start = stop
    scales = torch.empty(tokens)
    for start in range(0, tokens, _TOKENS_AT_ONCE):
        part = slice(start, start + _TOKENS_AT_ONCE)
        scales[part] = codec.scales(codes[part], residuals[part])
    return TokenEmbeddings.of(residuals, cu_seqlens, scales, codes, codec)


def _read_codec(folder: Path, load: Callable[[Path], Any], suffix: str) -> Codec:
    path = folder / f"centroids.{suffix}"
    centroids = load(path)
    if suffix == "pt":
        buckets = load(folder / "buckets.pt")
        if not isinstance(buckets, tuple | list) or len(buckets) != 2:
            raise StoreError(f"{folder / 'buckets.pt'} holds no pair of cutoffs and weights")
        cutoffs, weights = buckets
    else:
        cutoffs, weights = (load(folder / f"bucket_{part}.npy") for part in ("cutoffs", "weights"))
    if not all(isinstance(x, Tensor) for x in (centroids, cutoffs, weights)):
        raise StoreError(f"{path} or the buckets beside it are no tensors")
    try:
        return Codec.of(centroids, cutoffs, weights)
    except ValueError as error:
        raise StoreError(f"{path} and the buckets beside it cannot be used: {error}") from None


def _load_tensors(path: Path) -> Any:
    """What torch.save wrote, as long as it is tensors only."""
    _check_there(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes it raise anything
        raise StoreError(f"{path} cannot be read: {_first_line(error)}") from None


def _load_array(path: Path) -> Tensor:
    """A .npy file, mapped."""
    _check_there(path)
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.memmap) or not mapped.flags.c_contiguous:
            return torch.from_numpy(np.array(mapped))
        return torch.from_numpy(
            map_file(path, mapped.dtype.str, mapped.size, mapped.offset).reshape(mapped.shape)
        )
    except Exception as error:  # a damaged header makes it raise anything
        raise StoreError(f"{path} cannot be read: {_first_line(error)}") from None


def _tensor(x: Any, path: Path, tokens: int, width: int | None) -> Tensor:
    """A chunk's part, checked: codes [T] of whole numbers, or residuals [T, width] of bytes."""
    shape = (tokens,) if width is None else (tokens, width)
    allowed = (torch.int32, torch.int64) if width is None else (torch.uint8,)
    if not isinstance(x, Tensor) or x.dtype not in allowed or x.shape != shape:
        found = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        expected = f"{' or '.join(str(dtype) for dtype in allowed)} {list(shape)}"
        raise StoreError(f"{path} holds {found}, expected {expected}")
    return x.contiguous()


def _read_doclens(path: Path) -> list[int]:
    lengths: list[int] = _read_json(path, list)
    if not all(isinstance(length, int) and 0 <= length < 2**31 for length in lengths):
        raise StoreError(f"{path} holds something other than lengths of documents")
    return lengths


def _read_json(path: Path, kind: type) -> Any:
    _check_there(path)
    try:
        content = json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, kind):
        raise StoreError(f"{path} holds a {type(content).__name__}, expected a {kind.__name__}")
    return content


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise StoreError(f"{path.parent} has no {path.name}; it is no whole index")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
