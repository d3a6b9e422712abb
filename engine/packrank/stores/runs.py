"""Documents in runs of bounded bytes, each on its way while the one before is scored."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from packrank.stores.pinned import CopyStream, Slot
from packrank_kernels import TokenEmbeddings

# Documents [start, stop) of those that are streamed, where they are scored.
Run = tuple[int, int, TokenEmbeddings]


def in_runs(documents: TokenEmbeddings, wanted: Tensor | None, run_bytes: int) -> Iterator[Run]:
    """The documents, or those wanted, a run at a time; at least one run, of none if need be.

    The pages of a run are on their way from disk while the one before is worked on.
    """
    ends = documents.cu_seqlens
    if wanted is not None:
        ends = pad((ends[wanted + 1] - ends[wanted]).cumsum(0), (1, 0))
    cuts = _cut(ends.numpy(), documents.bytes_per_token, run_bytes)

    def fetch(start: int, stop: int) -> None:
        if wanted is None:
            _will_need(documents, int(ends[start]), int(ends[stop]))
        elif is_large(documents):
            fetch_pages(documents, wanted[start:stop])

    fetch(*cuts[0])
    for (start, stop), following in zip_longest(cuts, cuts[1:]):
        if following is not None:
            fetch(*following)
        if wanted is None:
            yield start, stop, documents.slice(start, stop)
        else:
            yield start, stop, gather(documents, wanted[start:stop])


def uploaded(runs: Iterator[Run], documents: TokenEmbeddings, copies: CopyStream) -> Iterator[Run]:
    """Runs on the device, which is scoring one while the next one is copied."""
    codec = None if documents.codec is None else documents.codec.to(copies.device)
    slots = [Slot(copies), Slot(copies)]
    for start, stop, part in runs:
        slots.reverse()
        yield start, stop, replace(slots[0].send(part), codec=codec)
        slots[0].scored = copies.mark()


def gather(documents: TokenEmbeddings, indices: Tensor) -> TokenEmbeddings:
    """Some documents, [K] int64, as ones of their own, on the same device."""
    starts = documents.cu_seqlens[indices]
    lengths = documents.cu_seqlens[indices + 1] - starts
    ends = pad(lengths.cumsum(0), (1, 0))
    rows = torch.arange(int(ends[-1]), device=documents.device)
    rows += (starts - ends[:-1]).repeat_interleave(lengths)

    def take(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.index_select(0, rows)

    return replace(
        documents,
        values=documents.values.index_select(0, rows),
        cu_seqlens=ends,
        scales=take(documents.scales),
        codes=take(documents.codes),
    )


def num_bytes(documents: TokenEmbeddings) -> int:
    """Bytes of the documents, their offsets not counted."""
    tokens = int(documents.cu_seqlens[-1] - documents.cu_seqlens[0])
    return int(tokens * documents.bytes_per_token)


def is_large(documents: TokenEmbeddings) -> bool:
    """Whether documents in a memory map are likely not to be in memory."""
    return 2 * num_bytes(documents) > os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE


def fetch_pages(documents: TokenEmbeddings, wanted: Tensor) -> None:
    """Have the system read some documents ahead."""
    starts = documents.cu_seqlens
    rows = zip(starts[wanted].tolist(), starts[wanted + 1].tolist(), strict=True)
    for first, last in rows:
        _will_need(documents, first, last)


def _cut(ends: NDArray[np.int64], token_bytes: float, run_bytes: int) -> list[tuple[int, int]]:
    """[start, stop) of runs that take `run_bytes`, or more where a single document does."""
    most_tokens = int(run_bytes * 0.85 / token_bytes)
    most = max(run_bytes // 64, 1)  # an eighth of the bytes for their offsets
    cuts: list[tuple[int, int]] = []
    start, last = 0, len(ends) - 1
    while not cuts or start < last:
        stop = int(np.searchsorted(ends, ends[start] + most_tokens, side="right")) - 1
        stop = min(max(stop, start + 1), start + most, last)
        cuts.append((start, stop))
        start = stop
    return cuts


def _will_need(documents: TokenEmbeddings, first: int, last: int) -> None:
    """Have the system read the pages of some rows ahead; nothing to do for what it has."""
    for x in (documents.values, documents.scales, documents.codes):
        if x is not None and hasattr(mmap, "MADV_WILLNEED"):
            size = x[:1].nbytes
            start = x.data_ptr() + first * size
            aligned = start // mmap.PAGESIZE * mmap.PAGESIZE
            length = x.data_ptr() + last * size - aligned
            madvise = ctypes.CDLL(None).madvise
            madvise(ctypes.c_void_p(aligned), ctypes.c_size_t(length), mmap.MADV_WILLNEED)
