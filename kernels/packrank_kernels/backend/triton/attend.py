"""The kernel behind `attention`, which says how it is tiled: one tile of queries of one head.

The keys of a sequence that has a prefix are walked in one loop over both parts. Blocks are counted
from the start of each, so the last one of the prefix may be short, and the first of the sequence's
own keys starts at a block: `gap` is how many numbers that leaves out. What a block needs to know is
where its part lies, `origin` (the row that a key of position 0 would have), and where it ends.

Relative positions: a block of queries and keys has BLOCK_M + BLOCK_N - 1 distances, so their terms
are two products with as many rows of the tables, from which each pair takes its own. A bias is read
pair by pair, from a row and a table that stay in the first-level cache.
"""

import math

import triton
import triton.language as tl

from packrank_kernels.backend.triton.early_launch import wait_for_inputs

# Of the search for a tile's sequence: the lanes of a warp.
FAN = tl.constexpr(32)
_2LOG2E = tl.constexpr(2 * math.log2(math.e))


# fmt: off
@triton.jit(
    do_not_specialize=[
        "num_sequences", "step", "heads", "heads_per_key", "num_positions", "window"
    ]
)
def attend(
    q, k, v, out, cu_seqlens_q, cu_seqlens_k, prefix_of, cos, sin,
    position_keys, position_queries, position_rows, position_bias,
    num_sequences, step, heads, heads_per_key, num_positions,
    q_row, q_head, k_row, k_head, v_row, v_head,
    squash, scale, window,
    SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ONE_TILE: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_ROTARY: tl.constexpr, IS_CAUSAL: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, EARLY: tl.constexpr = False,
):
    # fmt: on
    """softmax(scale * q kᵀ) v of one tile, `scale` for exponentials to base 2.

    `squash` is for soft caps and biases alone, which come between it and `scale`.
    """
    wait_for_inputs(EARLY)
    # Heads run fastest: those of a row lie side by side in memory, and may share keys.
    tile = tl.program_id(0) // heads
    head = (tl.program_id(0) % heads).to(tl.int64)
    n = sequence_of(tile, cu_seqlens_q, num_sequences, step, 1, BLOCK_M)
    start_q = tl.load(cu_seqlens_q + n)
    num_queries = tl.load(cu_seqlens_q + n + 1) - start_q
    first_query = (tile - n - start_q // BLOCK_M) * BLOCK_M
    if first_query >= num_queries:
        return
    start_k = tl.load(cu_seqlens_k + n)
    num_keys = tl.load(cu_seqlens_k + n + 1) - start_k
    shared, gap, start_shared = 0, 0, start_k
    if prefix_of is not None:
        prefix = tl.load(prefix_of + n)
        if prefix >= 0:
            start_shared = tl.load(cu_seqlens_k + prefix)
            shared = tl.load(cu_seqlens_k + prefix + 1) - start_shared
            num_keys += shared
            gap = tl.cdiv(shared, BLOCK_N) * BLOCK_N - shared

    rows = tl.arange(0, BLOCK_M)
    left = num_queries - first_query
    first = first_query
    if IS_CAUSAL:
        first += num_keys - num_queries
    positions = first + rows
    q += (start_q + first_query).to(tl.int64) * q_row + head * q_head
    k += head // heads_per_key * k_head
    v += head // heads_per_key * v_head
    if position_keys is not None:
        position_keys += head * SIZE
    if position_queries is not None:
        position_queries += head * SIZE
    if position_bias is not None:
        position_bias += head
    if HAS_ROTARY:
        q1, q2 = _load_rotated(q, rows, left, q_row, cos, sin, first, SIZE)
    else:
        q1 = _load(q, rows, left, q_row, SIZE)
        q2 = q1

    BLOCK_D: tl.constexpr = padded_size(SIZE)
    if ONE_TILE:
        row = start_k.to(tl.int64)
        values = _load(v + row * v_row, tl.arange(0, BLOCK_N), num_keys, v_row, SIZE)
        scores = _scores(
            q1, q2, k + row * k_row, 0, num_keys, k_row,
            cos, sin, positions, squash, window,
            position_keys, position_queries, position_rows, position_bias,
            num_positions, heads,
            SIZE, BLOCK_N, HAS_WINDOW, HAS_ROTARY, IS_CAUSAL, HAS_SOFTCAP,
        )  # fmt: skip
        weights = tl.exp2((scores - finite(tl.max(scores, 1))[:, None]) * scale)
        total = tl.sum(weights, 1)
        acc = tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    else:
        low, high = 0, num_keys
        if HAS_WINDOW:
            low = tl.maximum(first - window, 0)
            high = tl.minimum(high, first + BLOCK_M + window)
        if IS_CAUSAL:
            high = tl.minimum(high, first + BLOCK_M)
        if prefix_of is not None:
            low = tl.where(low < shared, low, low + gap)
            high = tl.where(high <= shared, high, high + gap)
        low = low // BLOCK_N * BLOCK_N
        running = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for block in tl.range(low, high, BLOCK_N):
            first_key, origin, end = block, start_k, num_keys
            if prefix_of is not None:
                is_own = block >= shared
                first_key = tl.where(is_own, block - gap, block)
                origin = tl.where(is_own, start_k - shared, start_shared)
                end = tl.where(is_own, num_keys, shared)
            row = (origin + first_key).to(tl.int64)
            scores = _scores(
                q1, q2, k + row * k_row, first_key, end, k_row,
                cos, sin, positions, squash, window,
                position_keys, position_queries, position_rows, position_bias,
                num_positions, heads,
                SIZE, BLOCK_N, HAS_WINDOW, HAS_ROTARY, IS_CAUSAL, HAS_SOFTCAP,
            )  # fmt: skip
            seen = running
            running = tl.maximum(seen, tl.max(scores, 1))
            largest = finite(running)
            weights = tl.exp2((scores - largest[:, None]) * scale)
            kept = tl.exp2((seen - largest) * scale)
            total = total * kept + tl.sum(weights, 1)
            values = _load(v + row * v_row, tl.arange(0, BLOCK_N), end - first_key, v_row, SIZE)
            acc = tl.dot(
                weights.to(values.dtype), values, acc * kept[:, None], input_precision="ieee"
            )

    sees_none = total == 0
    acc = acc * (1 / tl.where(sees_none, 1, total))[:, None]
    acc = tl.where(sees_none[:, None], 0, acc)
    columns = tl.arange(0, BLOCK_D)
    out += ((start_q + first_query).to(tl.int64) * heads + head) * SIZE
    inside = rows[:, None] < left
    if SIZE != BLOCK_D:
        inside = inside & (columns[None, :] < SIZE)
    tl.store(
        out + rows[:, None] * (heads * SIZE) + columns[None, :],
        acc.to(out.dtype.element_ty),
        mask=inside,
    )


@triton.jit
def sequence_of(tile, cu_seqlens_q, num_sequences, step, each, BLOCK_M: tl.constexpr):
    """The last entry n with each * cu_seqlens_q[n] // BLOCK_M + n <= tile.

    A search over FAN entries at a time, one a lane: two dependent loads for up to 1024 sequences,
    where counting over all of them reads as much as a tile does and bisection waits ten times.
    """
    n = 0
    while step > 0:
        entries = n + tl.arange(0, FAN) * step
        is_entry = entries < num_sequences
        starts = tl.load(cu_seqlens_q + entries, mask=is_entry, other=0)
        is_before = is_entry & (starts * each // BLOCK_M + entries <= tile)
        n += (tl.sum(is_before.to(tl.int32), 0) - 1) * step
        step //= FAN
    return n


# fmt: off
@triton.jit
def _scores(
    q1, q2, k, first_key, end, k_row, cos, sin, positions, squash, window,
    position_keys, position_queries, position_rows, position_bias, num_positions, heads,
    SIZE: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_ROTARY: tl.constexpr, IS_CAUSAL: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
):
    # fmt: on
    """Products q kᵀ, not scaled, or tanh(squash * q kᵀ); -inf where a key is hidden.

    Of the keys at positions first_key to end, BLOCK_N of them at most, from row 0 of k on. With a
    bias of distances squash * q kᵀ + bias.
    """
    rows = tl.arange(0, BLOCK_N)
    at = first_key + rows
    if HAS_ROTARY:
        k1, k2 = _load_rotated(k, rows, end - first_key, k_row, cos, sin, first_key, SIZE)
        scores = tl.dot(q1, tl.trans(k1), input_precision="ieee")
        scores = tl.dot(q2, tl.trans(k2), scores, input_precision="ieee")
    else:
        keys = _load(k, rows, end - first_key, k_row, SIZE)
        scores = tl.dot(q1, tl.trans(keys), input_precision="ieee")
        if position_keys is not None or position_queries is not None:
            scores += _distances(
                q1, keys, positions, at,
                position_keys, position_queries, position_rows, num_positions, heads * SIZE,
                SIZE, BLOCK_N,
            )  # fmt: skip
        if position_bias is not None:
            places = num_positions - 1 + positions[:, None] - at[None, :]
            places = tl.minimum(tl.maximum(places, 0), 2 * num_positions - 2)  # hidden keys: any
            scores *= squash
            scores += tl.load(position_bias + tl.load(position_rows + places) * heads)
    if HAS_SOFTCAP:
        scores = tanh(scores * squash)
    is_seen = (at < end)[None, :]
    ahead = at[None, :] - positions[:, None]
    if HAS_WINDOW:
        is_seen = is_seen & (ahead >= -window) & (ahead <= window)
    if IS_CAUSAL:
        is_seen = is_seen & (ahead <= 0)
    return tl.where(is_seen, scores, float("-inf"))


# fmt: off
@triton.jit
def _distances(
    queries, keys, positions, at,
    position_keys, position_queries, position_rows, num_positions, position_row,
    SIZE: tl.constexpr, BLOCK_N: tl.constexpr,
):
    # fmt: on
    """What the distances of queries at `positions` and keys at `at` add to their products."""
    BLOCK_M: tl.constexpr = queries.shape[0]
    COUNT: tl.constexpr = triton.next_power_of_2(BLOCK_M + BLOCK_N - 1)
    # Counted from the last key and the first query.
    least = tl.min(positions) - tl.max(at)
    places = num_positions - 1 + least + tl.arange(0, COUNT)
    places = tl.minimum(tl.maximum(places, 0), 2 * num_positions - 2)  # of hidden keys: any
    rows = tl.load(position_rows + places).to(tl.int64) * position_row
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if position_keys is not None:
        table = _load_at(position_keys, rows, SIZE)
        terms = tl.dot(queries, tl.trans(table), input_precision="ieee")
        total += tl.gather(terms, positions[:, None] - at[None, :] - least, 1)
    if position_queries is not None:
        table = _load_at(position_queries, rows, SIZE)
        terms = tl.dot(keys, tl.trans(table), input_precision="ieee")
        total += tl.trans(tl.gather(terms, positions[None, :] - at[:, None] - least, 1))
    return total


@triton.jit
def _load_at(x, starts, SIZE: tl.constexpr):
    """X from each start on, zeros past SIZE."""
    BLOCK: tl.constexpr = padded_size(SIZE)
    columns = tl.arange(0, BLOCK)
    inside = (columns < SIZE)[None, :]
    return tl.load(x + starts[:, None] + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _load(x, rows, num_rows, row, SIZE: tl.constexpr):
    """x[rows], zeros past num_rows and past SIZE."""
    BLOCK: tl.constexpr = padded_size(SIZE)
    columns = tl.arange(0, BLOCK)
    inside = rows[:, None] < num_rows
    if SIZE != BLOCK:
        inside = inside & (columns[None, :] < SIZE)
    return tl.load(x + rows[:, None] * row + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _load_rotated(x, rows, num_rows, row, cos, sin, first, SIZE: tl.constexpr):
    """The halves of x[rows], rotated by positions first + rows, rounded to the dtype of x."""
    HALF: tl.constexpr = SIZE // 2
    BLOCK: tl.constexpr = padded_size(HALF)
    x1 = _load(x, rows, num_rows, row, HALF).to(tl.float32)
    x2 = _load(x + HALF, rows, num_rows, row, HALF).to(tl.float32)
    columns = tl.arange(0, BLOCK)
    at = rows[:, None] * HALF + columns[None, :]
    cos += tl.cast(first, tl.int64) * HALF
    sin += tl.cast(first, tl.int64) * HALF
    # A causal query before every key has no position, and needs none.
    inside = ((rows < num_rows) & (first + rows >= 0))[:, None]
    if HALF != BLOCK:
        inside = inside & (columns[None, :] < HALF)
    c = tl.load(cos + at, mask=inside, other=0.0)
    s = tl.load(sin + at, mask=inside, other=0.0)
    dtype = x.dtype.element_ty
    return (x1 * c - x2 * s).to(dtype), (x2 * c + x1 * s).to(dtype)


@triton.jit
def tanh(x):
    """To 2e-7 in absolute terms, which is what a softmax sees."""
    # At 16 it has its limit; NaN stays.
    x = tl.minimum(x, 16.0, propagate_nan=tl.PropagateNan.ALL)
    return 1 - 2 / (1 + tl.exp2(x * _2LOG2E))


@triton.jit
def finite(largest):
    """Zero where no key was seen, so that nothing is subtracted from -inf."""
    return tl.where(largest == float("-inf"), 0, largest)


@triton.constexpr_function
def padded_size(size):
    """Columns of a block that holds heads of this size."""
    return max(16, triton.next_power_of_2(size))
