"""MaxSim over documents that need not fit: run by run, each fetched while the last is scored.

On the CPU the documents may be a memory map of more than the machine's memory: the system is told
which pages come next. To a CUDA device runs go by two pinned buffers, and are copied on a stream of
their own while the device scores. Scores have the bits that they have in one piece.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import packrank_kernels
from packrank.arguments import checked_count, checked_exact
from packrank.errors import InputError
from packrank.runtime.device import choose_device
from packrank.stores.given import candidates_of, documents_of, queries_of
from packrank.stores.pinned import CopyStream
from packrank.stores.runs import Run, fetch_pages, in_runs, is_large, num_bytes, uploaded
from packrank.stores.store import Store
from packrank_kernels import TokenEmbeddings, TopK

# Of one run: much beside what the host does for each, little beside a device's memory.
RUN_BYTES = 1 << 28

Vectors = Tensor | NDArray[Any]
Documents = Store | TokenEmbeddings | Vectors | Sequence[Vectors]
Candidates = Tensor | Sequence[Tensor] | None
Scored = Tensor | TopK | list[Tensor]


def maxsim(
    queries: Vectors | Sequence[Vectors],
    documents: Documents,
    candidates: Any = None,
    top_k: int | None = None,
    *,
    mask: Any = None,
    exact: bool | int = False,
    device: str | torch.device | None = None,
) -> Scored:
    """Late-interaction scores of one or many queries against documents of any number.

    Args:
        queries: [Q, D] for one; [M, Q, D], or a sequence of M of [Q, D] of any lengths, for
            several. Tensors on any device, or arrays, of float32, float16 or bfloat16; float64 is
            rounded to float32.
        documents: a `Store`; `packrank_kernels.TokenEmbeddings`; N of [L, D], or [N, L, D], tensors
            or arrays of one such dtype. What is in the CPU's memory and not on `device` goes there
            in runs of bounded bytes.
        candidates: places of documents (of ids: `Store.indices`). None for all documents; K whole
            numbers (a tensor, an array, a range, any sequence), or a mask of N booleans, for the
            same ones for every query; or, of several queries, a sequence of one of these each. Any
            order, repetitions allowed.
        top_k: how many of the best to return; equal scores in the order of the documents. All
            scores if None.
        mask: [N, L] booleans, or N of [L]: which rows of tensors or arrays are tokens; None: all.
        exact: score by the vectors that the format decodes to, in float32, queries not rounded:
            True all documents; a number, at least `top_k`, so many of the best by the format's own
            scores. Documents are decoded a block at a time.
        device: what scores: "cpu", "cuda" or "cuda:N"; where the documents are if None.

    Returns:
        On `device`. Without top_k: [N] or [K] float32 for one query; [M, N] or [M, K] for several;
        a list of [K_m] for lists of their own. With top_k: a `packrank_kernels.TopK`, k =
        min(top_k, most candidates of a query), whose rows end in index -1 and score -inf for a
        query that has fewer; memory does not grow with N.

    Raises:
        InputError: shapes or dtypes disagree, a candidate is no document, there is no such device,
            or documents without a mask begin or end with rows of zeros, as if filled up.
    """
    top_k = checked_count("top_k", top_k)
    exact = checked_exact(exact, top_k)
    every = queries_of(queries)
    size = every.shape[-1] if isinstance(every, Tensor) else every[0].shape[1] if every else 0
    embeddings = _embeddings(documents, mask, size)
    target = embeddings.device if device is None else _device(device)
    here = every.to(target) if isinstance(every, Tensor) else [one.to(target) for one in every]
    chosen = candidates_of(candidates, len(embeddings))
    if isinstance(exact, bool):
        return _scored(here, embeddings, chosen, top_k, exact, target)
    best = _scored(here, embeddings, chosen, exact, False, target)
    assert isinstance(best, TopK)
    first = best.indices if isinstance(here, Tensor) else list(best.indices)
    some = first[first >= 0] if isinstance(first, Tensor) else [x[x >= 0] for x in first]
    return _scored(here, embeddings, some, top_k, True, target)


def _scored(
    here: Tensor | list[Tensor],
    embeddings: TokenEmbeddings,
    candidates: Candidates,
    top_k: int | None,
    exact: bool,
    target: torch.device,
) -> Scored:
    """`maxsim` of arguments that have been read, queries on the device."""
    try:
        if target.type == "cuda" and embeddings.device.type == "cpu":
            copies = CopyStream(target)
            return upload(here, embeddings, candidates, top_k, copies, RUN_BYTES, exact)
        embeddings = embeddings.to(target)
        if target.type == "cpu" and candidates is None:
            return _in_turn(here, in_runs(embeddings, None, RUN_BYTES), None, None, top_k, exact)
        found = _moved(candidates, target)
        if found is not None and target.type == "cpu" and is_large(embeddings):
            fetch_pages(embeddings, _union(found, embeddings))
        return packrank_kernels.maxsim(here, embeddings, found, top_k, exact=exact)
    except ValueError as error:
        raise InputError(str(error)) from None


def place(documents: TokenEmbeddings, device: torch.device) -> TokenEmbeddings:
    """The documents on a device if they fit in half of what is free there, else as they are."""
    if device.type == "cuda" and 2 * num_bytes(documents) <= _free_memory(device):
        with suppress(torch.OutOfMemoryError):
            return documents.to(device)
    return documents


def upload(
    queries: Tensor | list[Tensor],
    documents: TokenEmbeddings,
    candidates: Candidates,
    top_k: int | None,
    copies: CopyStream,
    run_bytes: int,
    exact: bool = False,
) -> Scored:
    """`maxsim` of documents in the CPU's memory, on the device of `copies`, queries there already.

    Of candidates only their rows are copied, each once.
    """
    chosen = _moved(candidates, torch.device("cpu"))
    wanted = None if chosen is None else _union(chosen, documents)
    runs = uploaded(in_runs(documents, wanted, run_bytes), documents, copies)
    if chosen is None or wanted is None:
        return _in_turn(queries, runs, None, None, top_k, exact)
    places: Tensor | list[Tensor]
    if isinstance(chosen, Tensor):
        places = torch.searchsorted(wanted, chosen)
    else:
        places = [torch.searchsorted(wanted, ids) for ids in chosen]
    return _in_turn(queries, runs, wanted.to(copies.device), places, top_k, exact)


def _in_turn(
    queries: Tensor | list[Tensor],
    runs: Iterator[Run],
    wanted: Tensor | None,
    candidates: Tensor | list[Tensor] | None,
    top_k: int | None,
    exact: bool,
) -> Scored:
    """Score run after run.

    Args:
        queries: where the runs are.
        runs: at least one.
        wanted: [U], the document that each of those streamed is; None if they are all.
        candidates: as for `maxsim`, on the CPU, counted among those streamed.
        top_k: as for `maxsim`.
        exact: whether every score is.
    """
    lists = [candidates] if isinstance(candidates, Tensor) else candidates
    best: TopK | None = None
    pieces: list[list[Tensor]] = []
    places: list[list[Tensor]] = []
    for start, stop, part in runs:
        here: Candidates = None
        if lists is not None:
            places.append([((ids >= start) & (ids < stop)).nonzero().flatten() for ids in lists])
            inside = zip(lists, places[-1], strict=True)
            numbers = [(ids[place] - start).to(part.device) for ids, place in inside]
            here = numbers[0] if isinstance(candidates, Tensor) else numbers
        found = packrank_kernels.maxsim(queries, part, here, top_k, exact=exact)
        if not isinstance(found, TopK):
            pieces.append(found if isinstance(found, list) else [found])
            continue
        indices = (found.indices + start).clamp(min=0)
        indices = indices if wanted is None else wanted[indices]
        found = TopK(found.scores, torch.where(found.indices < 0, -1, indices))
        best = found if best is None else packrank_kernels.merge([best, found], top_k or 1)
    if best is not None:
        most = max(map(len, lists)) if lists else None
        return TopK(best.scores[..., :most], best.indices[..., :most])
    whole = [torch.cat(found, dim=-1) for found in zip(*pieces, strict=True)]
    if lists is not None:
        for scores, *found in zip(whole, *places, strict=True):
            scores[..., torch.cat(found).to(scores.device)] = scores.clone()
    return whole if isinstance(candidates, list) else whole[0]


def _embeddings(documents: Documents, mask: Any, size: int) -> TokenEmbeddings:
    if not isinstance(documents, Store | TokenEmbeddings):
        return documents_of(documents, mask, size)
    if mask is not None:
        raise InputError("mask is for documents that are given as tensors or arrays")
    return documents.embeddings if isinstance(documents, Store) else documents


def _moved(candidates: Candidates, device: torch.device) -> Tensor | list[Tensor] | None:
    if candidates is None or isinstance(candidates, Tensor):
        return None if candidates is None else candidates.to(device)
    return [ids.to(device) for ids in candidates]


def _union(candidates: Tensor | list[Tensor], documents: TokenEmbeddings) -> Tensor:
    """[U] int64, which documents are candidates, rising; refuses what is none."""
    lists = [candidates] if isinstance(candidates, Tensor) else candidates
    for ids in lists:
        if ids.ndim != 1 or ids.dtype != torch.int64:
            raise InputError(
                f"candidates are {ids.dtype} of shape {list(ids.shape)}, expected [K] int64"
            )
    wanted = np.unique(torch.cat([documents.cu_seqlens[:0], *lists]).numpy())
    for wrong in wanted[(wanted < 0) | (wanted >= len(documents))]:
        raise InputError(f"candidate {wrong} is not among {len(documents)} documents")
    return torch.from_numpy(wanted)


def _free_memory(device: torch.device) -> int:
    """Bytes that could still be taken on a CUDA device."""
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free) + int(unused)


def _device(device: str | torch.device) -> torch.device:
    chosen, _ = choose_device(str(device), "auto")
    if chosen.type == "cuda" and chosen.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return chosen
