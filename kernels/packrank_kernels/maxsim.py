"""Late-interaction scores: contract, checks, dispatch, and the best of them.

score(q, d) = sum over query tokens i of  u_i * m_i,    m_i = max over document tokens j of s_ij

Documents in float32, float16 or bfloat16: queries are rounded to their dtype, s_ij = q_i . d_j in
float32, u_i = 1. Documents in int8 or residual codes: queries are quantized as by `quantize_int8`,
s_ij = float32(integer product) * scales[j], u_i = the query token's scale (times the codec's step).
Where dimensions of a codec outlie (see `residual`), their products o_ie * v_je in float32 are added
before the scale, one after the other: o = query / scale, v = (centroid + weight) / step.

The sum runs in one order everywhere: 32 lanes, token i in lane i % 32, each lane in the order of
its tokens, then the upper half of the lanes onto the lower, five times. Integer products are exact,
so scores of int8 and residual codes have the same bits on every backend and device. Scores of the
others have the same bits on one backend, whatever the company.

`exact` scores of any format are those of its decoded vectors in float32, and queries in float32.

An empty document scores -inf, NaN propagates.

Source: Khattab and Zaharia 2020, eq. 3.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from packrank_kernels.checks import check_float, check_like, check_shape
from packrank_kernels.dispatch import choose
from packrank_kernels.packed import FLOATS, PackedCodec, Queries
from packrank_kernels.residual import to_planes
from packrank_kernels.token_embeddings import TokenEmbeddings, quantize_int8
from packrank_kernels.top_k import TopK, best, from_keys, keys, padded

# Scores alive at once where only the best are wanted: 16 MB.
_SCORES_AT_ONCE = 1 << 22
# Elements of documents decoded at once: 16 MB.
_DECODED_AT_ONCE = 1 << 22
# An outlying dimension of a query in units of its scale, at most.
_MOST_STEPS = 2.0**30

Candidates = Tensor | Sequence[Tensor] | None


class Matches(NamedTuple):
    """Which document token each query token matched.

    Attributes:
        tokens: [K, Q] int32, place in the document, the first of equals; -1 in an empty document.
        scores: [K, Q] float32, u_i * m_i: what each query token adds to the score.
    """

    tokens: Tensor
    scores: Tensor


def maxsim(
    queries: Tensor | Sequence[Tensor],
    documents: TokenEmbeddings,
    candidates: Candidates = None,
    top_k: int | None = None,
    *,
    exact: bool = False,
    backend: str = "auto",
) -> Tensor | TopK | list[Tensor]:
    """Late-interaction scores of one or many queries against documents of any length.

    Args:
        queries: [Q, D] for one, or a sequence of M such tensors, of any lengths; float32, float16
            or bfloat16, on the documents' device.
        documents: N documents.
        candidates: what to score: None for all documents; [K] int64 for the same ones for every
            query; or, of several queries, a sequence of one such tensor each. Any order,
            repetitions allowed.
        top_k: how many of the best to return; equal scores in the order of the documents. All
            scores if None.
        exact: decode the documents, a block at a time, and round neither them nor the queries:
            slower, and waits for a CUDA device.
        backend: "auto", or a name in `dispatch.TABLE["maxsim"]`.

    Returns:
        Without top_k: [N] or [K] float32 for one query; [M, N] or [M, K] for several; a list of
        [K_m] for lists of their own. With top_k: a `TopK`, k = min(top_k, most candidates of a
        query); memory does not grow with N.

    Raises:
        ValueError: shapes, dtypes or devices disagree, a candidate is no document, or `backend`
            refuses (the message says why). On a CUDA device candidates are not looked at, that
            would wait for it: one that is no document scores NaN.

    Cost: 2 * R * D operations a document token of R query rows, over one read of the documents.
        Bound by operations for R > 9 on Zen 4.
    """
    op = "maxsim"
    single = isinstance(queries, Tensor)
    every = [queries] if isinstance(queries, Tensor) else list(queries)
    exact = exact and documents.format != "float32"
    prepared = _prepare(op, every, documents, exact)
    if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
        raise ValueError(f"{op}: top_k is {top_k!r}, expected at least 1")
    shared: Tensor | None = None
    own: list[Tensor] | None = None
    if isinstance(candidates, Tensor):
        shared = candidates
        _check_candidates(op, shared, documents)
    elif candidates is not None:
        own = list(candidates)
        if not all(isinstance(ids, Tensor) for ids in own):
            kind = type(own[0]).__name__
            raise ValueError(f"{op}: candidates is a list of {kind}, expected an int64 tensor")
        if single or len(own) != len(every):
            raise ValueError(
                f"{op}: {len(own)} lists of candidates for "
                f"{'a single query' if single else f'{len(every)} queries'}; expected one a query"
            )
        for ids in own:
            _check_candidates(op, ids, documents)
    dtype = prepared.values.dtype
    chosen = choose(op, backend, documents.device, dtype, **_facts(documents, exact))

    def scores_of(part: TokenEmbeddings, ids: Tensor | None, owners: Tensor | None) -> Tensor:
        ids = None if ids is None else ids.contiguous()
        if not exact:
            found: Tensor = chosen.run(prepared, part, ids, owners)
            return found
        pieces = []
        for run, block in _decoded(part, ids):
            some = None if owners is None else torch.arange(len(block), device=block.device)
            own = None if owners is None else owners[run].contiguous()
            pieces.append(chosen.run(prepared, block, some, own))
        scores = torch.cat(pieces, dim=-1)
        return scores if ids is None else scores.masked_fill(~_are_documents(part, ids), torch.nan)

    if own is not None:
        lengths = [len(ids) for ids in own]
        ids = torch.cat(list(own)) if own else documents.cu_seqlens[:0]
        repeats = torch.tensor(lengths, dtype=torch.int64, device=ids.device)
        places = torch.arange(len(own), dtype=torch.int32, device=ids.device)
        owners = places.repeat_interleave(repeats, output_size=len(ids))
        parts = list(torch.split(scores_of(documents, ids, owners), lengths))
        if top_k is None:
            return parts
        found = [best(keys(s, i), top_k) for s, i in zip(parts, own, strict=True)]
        return from_keys(padded(found) if found else documents.cu_seqlens.new_empty(0, 0))
    if top_k is None:
        scores = scores_of(documents, shared, None)
        return scores[0] if single else scores
    total = len(documents) if shared is None else len(shared)
    step = max(_SCORES_AT_ONCE // max(len(every), 1), 1024)
    so_far = documents.cu_seqlens.new_empty(len(every), 0)
    for start in range(0, total, step):
        stop = min(start + step, total)
        if shared is None:
            ids = torch.arange(start, stop, device=documents.device)
            scores = scores_of(documents.slice(start, stop), None, None)
        else:
            ids = shared[start:stop]
            scores = scores_of(documents, ids, None)
        so_far = best(torch.cat([so_far, keys(scores, ids)], dim=1), top_k)
    return from_keys(so_far[0] if single else so_far)


def matches(
    query: Tensor, documents: TokenEmbeddings, candidates: Tensor, *, backend: str = "auto"
) -> Matches:
    """Which token of each candidate every query token matched, and what it adds to the score.

    The sum of a row of `Matches.scores`, in the order of the module, is the score of `maxsim` on
    the same backend, bit for bit. A query token that meets NaN matches the first token that has it.

    Args:
        query: [Q, D], as for `maxsim`.
        documents: N documents, in any format.
        candidates: [K] int64.
        backend: "auto", or a name in `dispatch.TABLE["matches"]`.

    Raises:
        ValueError: as `maxsim`.
    """
    op = "matches"
    prepared = _prepare(op, [query], documents)
    _check_candidates(op, candidates, documents)
    dtype = prepared.values.dtype
    chosen = choose(op, backend, documents.device, dtype, **_facts(documents))
    return Matches(*chosen.run(prepared, documents, candidates.contiguous()))


def _decoded(
    documents: TokenEmbeddings, ids: Tensor | None
) -> Iterator[tuple[slice, TokenEmbeddings]]:
    """Documents [K] or all, in float32, and which of them; at least one block, if of none."""
    starts = documents.cu_seqlens
    if ids is None:
        ends = (starts - starts[0]).cpu()
    else:
        ids = torch.where(_are_documents(documents, ids), ids, 0)
        ends = torch.nn.functional.pad((starts[ids + 1] - starts[ids]).cumsum(0), (1, 0)).cpu()
    most = max(_DECODED_AT_ONCE // documents.size, 1)
    first, last = 0, len(ends) - 1
    while True:
        fitting = int(torch.searchsorted(ends, ends[first] + most, right=True)) - 1
        stop = min(max(fitting, first + 1), last)
        run = slice(first, stop)
        yield (
            run,
            documents.slice(first, stop).decoded() if ids is None else documents.decoded(ids[run]),
        )
        first = stop
        if first >= last:
            return


def _are_documents(documents: TokenEmbeddings, ids: Tensor) -> Tensor:
    return (ids >= 0) & (ids < len(documents))


def _facts(documents: TokenEmbeddings, exact: bool = False) -> dict[str, object]:
    """What backends go by."""
    if exact:
        return {"size": documents.size, "format": "float32"}
    outlies = documents.codec is not None and documents.codec.outliers is not None
    return {"size": documents.size, "format": documents.format, "outlies": outlies}


def _prepare(
    op: str, queries: list[Tensor], documents: TokenEmbeddings, exact: bool = False
) -> Queries:
    for query in queries:
        check_shape(op, "query", query, "Q", documents.size)
        check_float(op, "query", query)
        check_like(op, "query", query, query.dtype, documents.device)
    starts = [0]
    for query in queries:
        starts.append(starts[-1] + len(query))
    if queries:
        alike = len({query.dtype for query in queries}) == 1
        rows = torch.cat(queries if alike else [query.float() for query in queries])
    else:
        rows = documents.values.new_empty(0, documents.size, dtype=torch.float32)
    if exact:
        return Queries(rows.float().contiguous(), None, tuple(starts))
    if documents.format in FLOATS:
        return Queries(rows.to(FLOATS[documents.format]).contiguous(), None, tuple(starts))
    if documents.codec is None:
        values, weights = quantize_int8(rows)
        return Queries(values, weights, tuple(starts))
    return residual_queries(rows, tuple(starts), documents.codec)


def residual_queries(rows: Tensor, starts: tuple[int, ...], codec: PackedCodec) -> Queries:
    """[R, D] rows of queries for documents in residual codes."""
    rows = to_planes(rows.float(), 8 // codec.bits)
    if codec.outliers is None:
        values, weights = quantize_int8(rows)
        return Queries(values, weights * codec.step, starts)
    columns = codec.outliers.columns.long()
    outliers = rows[:, columns]
    # As documents have: float32 must hold the products.
    values, weights = quantize_int8(
        rows.index_fill(1, columns, 0.0), outliers.abs().amax(dim=1) / _MOST_STEPS
    )
    # 0 where a row is not finite: its weight says so.
    outliers = torch.nan_to_num(outliers / weights[:, None], nan=0.0, posinf=0.0, neginf=0.0)
    return Queries(values, weights * codec.step, starts, outliers)


def _check_candidates(op: str, ids: Tensor, documents: TokenEmbeddings) -> None:
    check_shape(op, "candidates", ids, "K")
    check_like(op, "candidates", ids, torch.int64, documents.device)
    if ids.device.type == "cpu" and len(ids):
        low, high = (int(x) for x in ids.aminmax())
        if low < 0 or high >= len(documents):
            wrong = low if low < 0 else high
            raise ValueError(f"{op}: candidate {wrong} is not among {len(documents)} documents")
