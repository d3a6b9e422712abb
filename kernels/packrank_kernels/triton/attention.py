"""Packed attention in Triton: Q, K and V are read where they lie, and nothing is padded.

One program makes the rows of one tile of BLOCK_M queries of one sequence, for one head. It has two
forms. *One tile*: all keys of the sequence at once, so neither running maximum nor rescaling; taken
where max_seqlen_k promises at most 256 keys. *Online*: blocks of BLOCK_N keys one after the other
(Milakov and Gimelshein 2018; FlashAttention-2, Dao 2023), for any length; blocks that window or
causality hides are skipped.

A sequence's tiles are numbered from cu_seqlens_q[n] // BLOCK_M + n, which rises by at least as many
as sequence n has, so the grid follows from the shapes alone and wastes at most one tile a sequence.

Tiles of at least 64 queries run on a Hopper device's wgmma, tiles of 16 (one query a sequence) on
mma.sync; float32 takes no tensor cores. Heads are padded to a power of two: 96 costs what 128 does.

Bits: a program reads nothing of other sequences, and its blocks of keys are counted from the start
of its own. What company can change is the configuration, since it follows the largest lengths:
BLOCK_N of the one-tile form (the order in which a row's weights are summed), BLOCK_M and warps (the
matrix instruction). With `deterministic` neither length is looked at: one configuration a head size
and dtype.

Floor, by arithmetic for one H100 (3.35 TB/s; 4096 multiply-adds' operations and 16 exponentials a
clock and multiprocessor, 132 of them at 1.7 GHz: 920 TFLOP/s, 3.6e12 exponentials/s), 16-bit, per
token and head, queries and keys of one length L, no window:
    head size 32, L 128:  256 bytes 0.076 ns   products 0.018 ns   exponentials 0.036 ns
    head size 32, L 512:  256 bytes 0.076 ns   products 0.071 ns   exponentials 0.14 ns
    head size 64, L 128:  512 bytes 0.15 ns    products 0.036 ns   exponentials 0.036 ns
    head size 64, L 512:  512 bytes 0.15 ns    products 0.14 ns    exponentials 0.14 ns
    head size 128, L 512: 1024 bytes 0.31 ns   products 0.28 ns    exponentials 0.14 ns
So memory bounds all of these but 512 tokens at size 32, which exponentials do. The last
layer (one query a sequence) reads 4 * L * D bytes a head for two products of a single row: memory
alone. Padding adds to products and exponentials what tiles stick out over queries and keys, and K
and V are read from the second-level cache once a tile of queries.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from packrank_kernels.triton.variants import Variant

_LOG2E = math.log2(math.e)
_FAN: tl.constexpr = tl.constexpr(32)  # of the search for a tile's sequence: the lanes of a warp


@dataclass(frozen=True)
class Config:
    """How one call is tiled; one_tile: all keys of a sequence lie in one block."""

    one_tile: bool
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    scale: float,
    window: int | None,
    rotary: tuple[Tensor, Tensor] | None,
    causal: bool,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    deterministic: bool,
) -> Tensor:
    """softmax(scale * q kᵀ) v within each sequence; see `attention.attention`.

    The last entry of cu_seqlens_q may be less than Tq: rows past it are left as they come.
    """
    total, heads, size = q.shape
    out = torch.empty(total, heads, size, dtype=q.dtype, device=q.device)
    num_sequences = len(cu_seqlens_q) - 1
    if out.numel() == 0 or num_sequences == 0:
        return out
    config = configuration(
        size, q.dtype, max_seqlen_q, max_seqlen_k, deterministic, _is_hopper(q.device)
    )
    cos, sin = rotary or (None, None)
    step = 1
    while step * _FAN.value < num_sequences:
        step *= _FAN.value
    _attend[((total // config.block_m + num_sequences) * heads,)](
        *(q, k, v, out, cu_seqlens_q, cu_seqlens_k, cos, sin),
        *(num_sequences, step, heads, heads // k.shape[1]),
        *(*q.stride()[:2], *k.stride()[:2], *v.stride()[:2]),
        # At least the least normal number: -inf times zero would not be -inf.
        max(scale * _LOG2E, 2.0**-126),
        min(window or 0, 2**30),
        SIZE=size,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        ONE_TILE=config.one_tile,
        HAS_WINDOW=window is not None,
        HAS_ROTARY=rotary is not None,
        IS_CAUSAL=causal,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out


def configuration(
    size: int,
    dtype: torch.dtype,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    deterministic: bool = False,
    is_hopper: bool = True,
) -> Config:
    """The tiling of a call: from these alone, and from neither length if deterministic.

    Chosen by machine code, not by timings: as much in flight on a multiprocessor as registers and
    shared memory allow, no spills (`variants` is checked). Queries of 65 to 128 keys come in tiles
    of 128, so that keys and values are read once.
    """
    width = _padded(size)
    if dtype == torch.float32:
        rows, keys = (32, 32) if width <= 32 else (16, 32) if width <= 64 else (16, 16)
        return Config(False, rows, keys, 4, 1)
    if not is_hopper:  # at most 99 KiB of shared memory, which the least of the others have
        if width > 128:
            return Config(False, 32, 32, 4, 1)
        return Config(False, 64, 64 if width <= 64 else 32, 4, 2)
    if deterministic:
        max_seqlen_q = max_seqlen_k = None
    if max_seqlen_q == 1:
        return Config(False, 16, 64 if width <= 128 else 32, 4, 3)
    # A wider tile of wider heads would leave room for a single block of four warps.
    longest = 256 if width <= 64 else 128 if width <= 128 else 0
    if max_seqlen_k is not None and max_seqlen_k <= longest:
        block_n = max(32, triton.next_power_of_2(max_seqlen_k))
        return Config(True, 128, 128, 8, 1) if block_n == 128 else Config(True, 64, block_n, 4, 1)
    return Config(False, 128, 64, 8, 3) if width <= 128 else Config(False, 128, 32, 8, 2)


def variants() -> Iterator[Variant]:
    """What the launcher picks on a Hopper device for the encoders and decoders that there are."""
    half, plain, rotary = torch.float16, "", "rotary"
    for size in (32, 64, 96, 128, 256):
        yield from _variants(size, half, plain)
        yield from _variants(size, torch.float32, plain)
    yield from _variants(32, torch.bfloat16, plain)
    yield from _variants(64, torch.bfloat16, plain)
    yield from _variants(64, torch.bfloat16, "window rotary")
    for forms in (rotary, "window rotary", "rotary causal"):
        yield from _variants(64, half, forms)
    yield from _variants(128, half, "rotary causal")
    yield from _variants(64, torch.float32, "window rotary")


def _variants(size: int, dtype: torch.dtype, forms: str) -> Iterator[Variant]:
    bounds = [(None, keys) for keys in (32, 64, 128, 256, None)] + [(1, None)]
    short = str(dtype).removeprefix("torch.")
    pointer = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32"}[short]
    table = "*fp32" if "rotary" in forms else "constexpr"
    tensors = dict.fromkeys(("q", "k", "v", "out"), pointer)
    tensors |= dict.fromkeys(("cu_seqlens_q", "cu_seqlens_k"), "*i32")
    tensors |= dict.fromkeys(("cos", "sin"), table)
    strides = [f"{x}_{y}" for x in "qkv" for y in ("row", "head")]
    for config in dict.fromkeys(configuration(size, dtype, *bound) for bound in bounds):
        constexprs: dict[str, object] = {
            "SIZE": size,
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
            "ONE_TILE": config.one_tile,
            "HAS_WINDOW": "window" in forms,
            "HAS_ROTARY": "rotary" in forms,
            "IS_CAUSAL": "causal" in forms,
        }
        if table == "constexpr":
            constexprs |= {"cos": None, "sin": None}
        yield Variant(
            name=f"attention {short} {size} {forms or 'plain'} {config}",
            kernel=_attend,
            signature=tensors
            | dict.fromkeys(["num_sequences", "step", "heads", "heads_per_key", *strides], "i32")
            | {"scale": "fp32", "window": "i32"}
            | dict.fromkeys(constexprs, "constexpr"),
            constexprs=constexprs,
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            aligned=frozenset(strides) | {n for n, kind in tensors.items() if kind[0] == "*"},
            matrix=config.block_m >= 64 and dtype != torch.float32,
        )


def _padded(size: int) -> int:
    return max(16, int(triton.next_power_of_2(size)))


@functools.cache
def _is_hopper(device: torch.device) -> bool:
    """Whether its multiprocessors are those that the large tiles are made for."""
    return device.type == "cpu" or torch.cuda.get_device_capability(device)[0] == 9


# fmt: off
@triton.jit(do_not_specialize=["num_sequences", "step", "heads", "heads_per_key", "window"])
def _attend(
    q, k, v, out, cu_seqlens_q, cu_seqlens_k, cos, sin,
    num_sequences, step, heads, heads_per_key,
    q_row, q_head, k_row, k_head, v_row, v_head,
    scale, window,
    SIZE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, ONE_TILE: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_ROTARY: tl.constexpr, IS_CAUSAL: tl.constexpr,
):
    # fmt: on
    # Heads run fastest: those of a row lie side by side in memory, and may share keys.
    tile = tl.program_id(0) // heads
    head = (tl.program_id(0) % heads).to(tl.int64)
    n = _sequence_of(tile, cu_seqlens_q, num_sequences, step, BLOCK_M)
    start_q = tl.load(cu_seqlens_q + n)
    num_queries = tl.load(cu_seqlens_q + n + 1) - start_q
    first_query = (tile - n - start_q // BLOCK_M) * BLOCK_M
    if first_query >= num_queries:
        return
    start_k = tl.load(cu_seqlens_k + n)
    num_keys = tl.load(cu_seqlens_k + n + 1) - start_k

    rows = tl.arange(0, BLOCK_M)
    left = num_queries - first_query
    first = first_query
    if IS_CAUSAL:
        first += num_keys - num_queries
    positions = first + rows
    q += (start_q + first_query).to(tl.int64) * q_row + head * q_head
    k += start_k.to(tl.int64) * k_row + head // heads_per_key * k_head
    v += start_k.to(tl.int64) * v_row + head // heads_per_key * v_head
    if HAS_ROTARY:
        q1, q2 = _load_rotated(q, rows, left, q_row, cos, sin, first, SIZE)
    else:
        q1 = _load(q, rows, left, q_row, SIZE)
        q2 = q1

    BLOCK_D: tl.constexpr = _padded_size(SIZE)
    if ONE_TILE:
        values = _load(v, tl.arange(0, BLOCK_N), num_keys, v_row, SIZE)
        scores = _scores(
            q1, q2, k, 0, num_keys, k_row, cos, sin, positions, window,
            SIZE, BLOCK_N, HAS_WINDOW, HAS_ROTARY, IS_CAUSAL,
        )  # fmt: skip
        weights = tl.exp2((scores - _finite(tl.max(scores, 1))[:, None]) * scale)
        total = tl.sum(weights, 1)
        acc = tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    else:
        low, high = 0, num_keys
        if HAS_WINDOW:
            low = tl.maximum(first - window, 0) // BLOCK_N * BLOCK_N
            high = tl.minimum(high, first + BLOCK_M + window)
        if IS_CAUSAL:
            high = tl.minimum(high, first + BLOCK_M)
        running = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for first_key in tl.range(low, high, BLOCK_N):
            scores = _scores(
                q1, q2, k, first_key, num_keys, k_row, cos, sin, positions, window,
                SIZE, BLOCK_N, HAS_WINDOW, HAS_ROTARY, IS_CAUSAL,
            )  # fmt: skip
            seen = running
            running = tl.maximum(seen, tl.max(scores, 1))
            largest = _finite(running)
            weights = tl.exp2((scores - largest[:, None]) * scale)
            kept = tl.exp2((seen - largest) * scale)
            total = total * kept + tl.sum(weights, 1)
            values = _load(
                v + tl.cast(first_key, tl.int64) * v_row,
                tl.arange(0, BLOCK_N), num_keys - first_key, v_row, SIZE,
            )  # fmt: skip
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
def _sequence_of(tile, cu_seqlens_q, num_sequences, step, BLOCK_M: tl.constexpr):
    """The last entry n with cu_seqlens_q[n] // BLOCK_M + n <= tile.

    A search over _FAN entries at a time, one a lane: two dependent loads for up to 1024 sequences,
    where counting over all of them reads as much as a tile does and bisection waits ten times.
    """
    n = 0
    while step > 0:
        entries = n + tl.arange(0, _FAN) * step
        is_entry = entries < num_sequences
        starts = tl.load(cu_seqlens_q + entries, mask=is_entry, other=0)
        is_before = is_entry & (starts // BLOCK_M + entries <= tile)
        n += (tl.sum(is_before.to(tl.int32), 0) - 1) * step
        step //= _FAN
    return n


# fmt: off
@triton.jit
def _scores(
    q1, q2, k, first_key, num_keys, k_row, cos, sin, positions, window,
    SIZE: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_ROTARY: tl.constexpr, IS_CAUSAL: tl.constexpr,
):
    # fmt: on
    """Products q kᵀ, not scaled, of the keys from first_key on; -inf where a key is hidden."""
    rows = tl.arange(0, BLOCK_N)
    at = first_key + rows
    k += tl.cast(first_key, tl.int64) * k_row
    if HAS_ROTARY:
        k1, k2 = _load_rotated(k, rows, num_keys - first_key, k_row, cos, sin, first_key, SIZE)
        scores = tl.dot(q1, tl.trans(k1), input_precision="ieee")
        scores = tl.dot(q2, tl.trans(k2), scores, input_precision="ieee")
    else:
        keys = _load(k, rows, num_keys - first_key, k_row, SIZE)
        scores = tl.dot(q1, tl.trans(keys), input_precision="ieee")
    is_seen = (at < num_keys)[None, :]
    ahead = at[None, :] - positions[:, None]
    if HAS_WINDOW:
        is_seen = is_seen & (ahead >= -window) & (ahead <= window)
    if IS_CAUSAL:
        is_seen = is_seen & (ahead <= 0)
    return tl.where(is_seen, scores, float("-inf"))


@triton.jit
def _load(x, rows, num_rows, row, SIZE: tl.constexpr):
    """x[rows], zeros past num_rows and past SIZE."""
    BLOCK: tl.constexpr = _padded_size(SIZE)
    columns = tl.arange(0, BLOCK)
    inside = rows[:, None] < num_rows
    if SIZE != BLOCK:
        inside = inside & (columns[None, :] < SIZE)
    return tl.load(x + rows[:, None] * row + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _load_rotated(x, rows, num_rows, row, cos, sin, first, SIZE: tl.constexpr):
    """The halves of x[rows], rotated by positions first + rows, rounded to the dtype of x."""
    HALF: tl.constexpr = SIZE // 2
    BLOCK: tl.constexpr = _padded_size(HALF)
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
def _finite(largest):
    """Zero where no key was seen, so that nothing is subtracted from -inf."""
    return tl.where(largest == float("-inf"), 0, largest)


@triton.constexpr_function
def _padded_size(size):
    return max(16, triton.next_power_of_2(size))
