"""MaxSim's kernels; `maxsim` says how they share the work."""

import triton
import triton.language as tl

from packrank_kernels.backend.triton.similarities import ranked, ranks, similarities

FAN = tl.constexpr(32)  # of the search for a share's first document: the lanes of a warp
LANES = tl.constexpr(32)  # of the sum


@triton.jit(
    do_not_specialize=["num_centroids", "num_documents", "num_columns", "shares", "step"],
    do_not_specialize_on_alignment=["owners", "firsts", "offsets"],
)
def maxima_kernel(
    queries,
    starts,
    owners,
    values,
    scales,
    codes,
    centroids,
    weights,
    num_centroids,
    outlier_columns,
    outlier_rows,
    outlier_weights,
    query_outliers,
    firsts,
    offsets,
    maxima,
    parts,
    num_documents,
    num_columns,
    shares,
    step,
    SIZE: tl.constexpr,
    BITS: tl.constexpr,
    OUTLIERS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Largest similarities of a block of columns, over the documents of one share.

    starts, owners: given where a document meets only the query that owns it; a column is then a
    token of that query. step: the largest power of FAN below num_documents.
    """
    blocks = tl.cdiv(num_columns, BLOCK_N)
    share = tl.program_id(0) // blocks
    columns = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < num_columns
    base = tl.load(offsets)
    span = _span(offsets, num_documents, shares, BLOCK_M)
    begin = share * span
    end = begin + span
    n = 0  # the last document that starts at or before `begin`
    while step > 0:
        entries = n + tl.arange(0, FAN) * step
        is_entry = entries < num_documents
        at = tl.load(offsets + entries, is_entry, 0) - base + entries.to(tl.int64) * BLOCK_M
        n += (tl.sum((is_entry & (at <= begin)).to(tl.int32), 0) - 1) * step
        step //= FAN
    at = tl.load(offsets + n) - base + tl.cast(n, tl.int64) * BLOCK_M
    while (n < num_documents) & (at < end):
        length = tl.load(offsets + n + 1) - tl.load(offsets + n)
        from_row = (tl.cdiv(tl.maximum(begin - at, 0), BLOCK_M) * BLOCK_M).to(tl.int32)
        to_row = tl.minimum(length, end - at).to(tl.int32)
        if from_row < to_row:
            if owners is None:
                query_rows, is_query = columns, is_column
            else:
                owner = tl.load(owners + n)
                query_rows = tl.load(starts + owner) + columns
                is_query = query_rows < tl.load(starts + owner + 1)
            first = tl.load(firsts + n)
            largest = tl.full((BLOCK_M, BLOCK_N), float("-inf"), tl.float32)
            for row in range(from_row, to_row, BLOCK_M):
                found = similarities(
                    queries, query_rows, is_query,
                    values, scales, codes, centroids, weights, num_centroids,
                    outlier_columns, outlier_rows, outlier_weights, query_outliers,
                    first + row, length - row,
                    SIZE, BITS, OUTLIERS, BLOCK_M, BLOCK_K,
                )  # fmt: skip
                largest = tl.maximum(largest, found, propagate_nan=tl.PropagateNan.ALL)
            if from_row == 0:
                to = maxima + tl.cast(n, tl.int64) * num_columns
            else:
                to = parts + share.to(tl.int64) * num_columns
            tl.store(to + columns, ranked(tl.max(ranks(largest), 0)), is_column)
        at += length + BLOCK_M
        n += 1


@triton.jit
def _span(offsets, num_documents, shares, BLOCK_M: tl.constexpr):
    """Length of a share, int64: at least a tile's, so that a document skips no share."""
    tokens = tl.load(offsets + num_documents) - tl.load(offsets)
    return tl.maximum(tl.cdiv(tokens + num_documents.to(tl.int64) * BLOCK_M, shares), BLOCK_M)


@triton.jit(
    do_not_specialize=[
        *("num_documents", "num_all", "scores_row", "num_columns", "shares"),
        *("first_row", "num_queries", "query_tokens"),
    ],
    do_not_specialize_on_alignment=["owners", "candidates", "offsets", "scores"],
)
def sums_kernel(
    maxima,
    parts,
    weights,
    starts,
    owners,
    candidates,
    offsets,
    scores,
    num_documents,
    num_all,
    scores_row,
    num_columns,
    shares,
    first_row,
    num_queries,
    query_tokens,
    BLOCK_M: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Scores of BLOCK_P documents for one of num_queries queries of query_tokens each.

    The first of them has row first_row. query_tokens: of the longest, where documents have owners.
    """
    n = (tl.program_id(0) // num_queries * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
    m = (tl.program_id(0) % num_queries).to(tl.int64)
    is_document = n < num_documents
    start = tl.load(offsets + n, is_document, 0)
    length = tl.load(offsets + n + 1, is_document, 0) - start
    at = start - tl.load(offsets) + n * BLOCK_M
    span = _span(offsets, num_documents, shares, BLOCK_M)
    share = at // span
    last = (at + tl.maximum(length - 1, 0) // BLOCK_M * BLOCK_M) // span
    num_parts = tl.max(tl.where(is_document, last - share, 0), 0).to(tl.int32)
    if owners is None:
        query_row = first_row + m * query_tokens + tl.zeros((BLOCK_P,), tl.int64)
        query_end = query_row + query_tokens
        column = query_row
    else:
        owner = tl.load(owners + n, is_document, 0)
        query_row = tl.load(starts + owner, is_document, 0)
        query_end = tl.load(starts + owner + 1, is_document, 0)
        column = tl.zeros((BLOCK_P,), tl.int64)
    lane = tl.arange(0, LANES)[None, :]
    lanes = tl.zeros((BLOCK_P, LANES), tl.float32)
    for i in range(0, query_tokens, LANES):
        rows = query_row[:, None] + i + lane
        columns = column[:, None] + i + lane
        mask = (length > 0)[:, None] & (rows < query_end[:, None])
        term = tl.load(maxima + n[:, None] * num_columns + columns, mask, 0.0)
        for j in range(1, num_parts + 1):
            is_part = mask & (share + j <= last)[:, None]
            part = tl.load(
                parts + (share + j)[:, None] * num_columns + columns, is_part, float("-inf")
            )
            term = tl.maximum(term, part, propagate_nan=tl.PropagateNan.ALL)
        if weights is not None:
            term *= tl.load(weights + rows, mask, 0.0)
        lanes += tl.where(mask, term, 0.0)
    total = _fold(_fold(_fold(_fold(_fold(lanes))))).reshape(BLOCK_P)
    score = tl.where(length > 0, total, float("-inf"))
    if candidates is not None:
        candidate = tl.load(candidates + n, is_document, 0)
        score = tl.where((candidate >= 0) & (candidate < num_all), score, float("nan"))
    tl.store(scores + m * scores_row + n, score, is_document)


@triton.jit
def _fold(x):
    """The upper half of the columns onto the lower."""
    rows: tl.constexpr = x.shape[0]
    half: tl.constexpr = x.shape[1] // 2
    lower, upper = tl.split(tl.permute(tl.reshape(x, (rows, 2, half)), (0, 2, 1)))
    return lower + upper


@triton.jit(
    do_not_specialize=["num_centroids", "num_all", "num_columns"],
    do_not_specialize_on_alignment=["firsts", "offsets", "candidates"],
)
def matches_kernel(
    queries,
    query_weights,
    values,
    scales,
    codes,
    centroids,
    weights,
    num_centroids,
    outlier_columns,
    outlier_rows,
    outlier_weights,
    query_outliers,
    firsts,
    offsets,
    candidates,
    tokens,
    scores,
    num_all,
    num_columns,
    SIZE: tl.constexpr,
    BITS: tl.constexpr,
    OUTLIERS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The best token of one document for every column of a block, and what it adds to the score."""
    n = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < num_columns
    first = tl.load(firsts + n)
    length = (tl.load(offsets + n + 1) - tl.load(offsets + n)).to(tl.int32)
    # Rank above, token below: the largest of these is the first token of the largest similarity.
    best = tl.full((BLOCK_M, BLOCK_N), -(2**63), tl.int64)
    for row in range(0, length, BLOCK_M):
        found = similarities(
            queries, columns, is_column,
            values, scales, codes, centroids, weights, num_centroids,
            outlier_columns, outlier_rows, outlier_weights, query_outliers,
            first + row, length - row,
            SIZE, BITS, OUTLIERS, BLOCK_M, BLOCK_K,
        )  # fmt: skip
        token = row + tl.arange(0, BLOCK_M)
        key = (ranks(found).to(tl.int64) << 32) + (0x7FFFFFFF - token)[:, None]
        best = tl.maximum(best, key)
    key = tl.max(best, 0)
    score = ranked((key >> 32).to(tl.int32))
    if query_weights is not None:
        score *= tl.load(query_weights + columns, is_column, 0.0)
    candidate = tl.load(candidates + n)
    is_known = (candidate >= 0) & (candidate < num_all)
    score = tl.where(length > 0, score, tl.where(is_known, float("-inf"), float("nan")))
    token = tl.where(length > 0, 0x7FFFFFFF - (key & 0xFFFFFFFF), -1)
    to = n * num_columns + columns
    tl.store(scores + to, score, is_column)
    tl.store(tokens + to, token.to(tl.int32), is_column)
