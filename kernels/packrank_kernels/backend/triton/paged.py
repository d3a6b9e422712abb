"""Attention over a cache in pages, in Triton: two launches, and nothing of the cache is copied.

The first rotates the new keys and writes them and their values to the pages. In the second a
program makes a tile of rows of one sequence and one head of keys: a row is one query under one of
the heads that share those keys, so that a page is read once for all of them. Blocks of keys follow
one another (see attention.py, "online"); where each key of a block lies is read from the table.

A sequence's tiles are numbered as in attention.py, in rows in place of queries.

Bits: a program reads nothing of other sequences, and blocks of keys are counted from the start of
its own. What company can change is the tiling, by `max_seqlen_q`; with `deterministic` it is not
looked at.

Floor of a step of one token a sequence, by arithmetic for one H100 (3.35 TB/s): 16 sequences of
1500 keys, 2 heads of 64, 16-bit: 12 MB a layer, 4 us. They are 32 programs for 132 processors, so
the floor is out of reach until a sequence's keys are shared out among several programs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from packrank_kernels.backend.triton.attend import (
    FAN,
    finite,
    padded_size,
    sequence_of,
    tanh,
)
from packrank_kernels.backend.triton.variants import Variant
from packrank_kernels.packed import Pages

_LOG2E = math.log2(math.e)
_LEAST = 2.0**-126  # the least normal number: -inf times zero would not be -inf
_WRITTEN = 16  # tokens that a program writes
_WARPS = 4


@dataclass(frozen=True)
class Config:
    """How one call is tiled."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def paged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pages: Pages,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    scale: float,
    window: int | None,
    rotary: tuple[Tensor, Tensor] | None,
    softcap: float | None,
    max_seqlen_q: int | None,
    deterministic: bool,
) -> Tensor:
    """softmax(scale * q kᵀ) v over pages; see `paged_attention.paged_attention`."""
    tokens, heads, size = q.shape
    out = torch.empty(tokens, heads, size, dtype=q.dtype, device=q.device)
    count, key_heads = len(pages.lengths), k.shape[1]
    if count == 0:
        return out
    step = 1
    while step * FAN.value < count:
        step *= FAN.value
    cos, sin = rotary or (None, None)
    table = (pages.table, pages.lengths, pages.table.shape[1], pages.keys, pages.values)
    strides = (*pages.keys.stride()[:3], *pages.values.stride()[:3])
    shared = {"SIZE": size, "PAGE": pages.keys.shape[1], "HAS_ROTARY": rotary is not None}
    if len(k):
        write_pages[((len(k) // _WRITTEN + count) * key_heads,)](
            *(k, v, *table, cu_seqlens_k, cos, sin, count, step, key_heads),
            *(*k.stride()[:2], *v.stride()[:2], *strides),
            BLOCK=_WRITTEN,
            **shared,
            num_warps=_WARPS,
            num_stages=1,
        )
    if not out.numel():
        return out
    config = configuration(size, q.dtype, heads // key_heads, max_seqlen_q, deterministic)
    squash = scale if softcap is None else scale / softcap
    each = heads // key_heads
    attend_pages[((tokens * each // config.block_m + count) * key_heads,)](
        *(q, out, *table, cu_seqlens_q, cos, sin, count, step, heads, each),
        *(*q.stride()[:2], *strides),
        max(squash, _LEAST),
        max((scale if softcap is None else softcap) * _LOG2E, _LEAST),
        min(window or 0, 2**30),
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        HAS_WINDOW=window is not None,
        HAS_SOFTCAP=softcap is not None,
        **shared,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out


def configuration(
    size: int,
    dtype: torch.dtype,
    heads_per_key: int,
    max_seqlen_q: int | None = None,
    deterministic: bool = False,
) -> Config:
    """The tiling of a call; chosen by machine code, not by timings."""
    width = max(16, int(triton.next_power_of_2(size)))
    if dtype == torch.float32:
        return Config(16, 32 if width <= 64 else 16, 4 if width <= 128 else 8, 1)
    if max_seqlen_q == 1 and heads_per_key <= 16 and not deterministic:
        return Config(16, 64 if width <= 128 else 32, 4, 3)
    if width > 128:
        return Config(64, 32, 8, 2)
    return Config(64, 64 if width <= 64 else 32, 4, 2)


# fmt: off
@triton.jit(do_not_specialize=["most", "num_sequences", "step", "key_heads"])
def write_pages(
    k, v, page_table, lengths, most, key_pages, value_pages, cu_seqlens_k, cos, sin,
    num_sequences, step, key_heads,
    k_row, k_head, v_row, v_head,
    key_page, key_row, key_head, value_page, value_row, value_head,
    BLOCK: tl.constexpr, SIZE: tl.constexpr, PAGE: tl.constexpr, HAS_ROTARY: tl.constexpr,
):
    # fmt: on
    """Keys, rotated, and values of BLOCK new tokens and one head to where they stay."""
    tile = tl.program_id(0) // key_heads
    head = (tl.program_id(0) % key_heads).to(tl.int64)
    n = sequence_of(tile, cu_seqlens_k, num_sequences, step, 1, BLOCK)
    start = tl.load(cu_seqlens_k + n)
    count = tl.load(cu_seqlens_k + n + 1) - start
    first = (tile - n - start // BLOCK) * BLOCK
    if first >= count:
        return
    rows = first + tl.arange(0, BLOCK)
    inside = rows < count
    positions = tl.load(lengths + n) - count + rows
    pages = tl.load(page_table + n.to(tl.int64) * most + positions // PAGE, inside, 0)
    pages = pages.to(tl.int64)
    at = (start + rows).to(tl.int64)
    keys = key_pages + pages * key_page + positions % PAGE * key_row + head * key_head
    values = value_pages + pages * value_page + positions % PAGE * value_row + head * value_head
    k += at * k_row + head * k_head
    v += at * v_row + head * v_head
    if HAS_ROTARY:
        HALF: tl.constexpr = SIZE // 2
        k1, k2 = _rotated(k, inside, positions, cos, sin, SIZE)
        _store(keys, k1, inside, HALF)
        _store(keys + HALF, k2, inside, HALF)
    else:
        _store(keys, _load(k, inside, SIZE), inside, SIZE)
    _store(values, _load(v, inside, SIZE), inside, SIZE)


# fmt: off
@triton.jit(
    do_not_specialize=["most", "num_sequences", "step", "heads", "heads_per_key", "window"]
)
def attend_pages(
    q, out, page_table, lengths, most, key_pages, value_pages, cu_seqlens_q, cos, sin,
    num_sequences, step, heads, heads_per_key,
    q_row, q_head, key_page, key_row, key_head, value_page, value_row, value_head,
    squash, scale, window,
    SIZE: tl.constexpr, PAGE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_ROTARY: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):
    # fmt: on
    """softmax(scale * q kᵀ) v of one tile; `scale` and `squash` as in attend.py."""
    key_heads = heads // heads_per_key
    tile = tl.program_id(0) // key_heads
    head = (tl.program_id(0) % key_heads).to(tl.int64)
    n = sequence_of(tile, cu_seqlens_q, num_sequences, step, heads_per_key, BLOCK_M)
    start = tl.load(cu_seqlens_q + n)
    count = (tl.load(cu_seqlens_q + n + 1) - start) * heads_per_key
    first = (tile - n - start * heads_per_key // BLOCK_M) * BLOCK_M
    if first >= count:
        return
    length = tl.load(lengths + n)
    rows = first + tl.arange(0, BLOCK_M)
    inside = rows < count
    before = length - count // heads_per_key  # keys before the first query's own
    positions = before + rows // heads_per_key
    token = (start + rows // heads_per_key).to(tl.int64)
    asking = head * heads_per_key + rows % heads_per_key
    q += token * q_row + asking * q_head
    HALF: tl.constexpr = SIZE // 2
    if HAS_ROTARY:
        q1, q2 = _rotated(q, inside, positions, cos, sin, SIZE)
    else:
        q1 = _load(q, inside, SIZE)
        q2 = q1
    page_table += n.to(tl.int64) * most
    key_pages += head * key_head
    value_pages += head * value_head

    WIDTH: tl.constexpr = padded_size(SIZE)
    low = 0
    if HAS_WINDOW:
        low = tl.maximum(before + first // heads_per_key - window, 0) // BLOCK_N * BLOCK_N
    last = tl.minimum(first + BLOCK_M, count) - 1
    high = before + last // heads_per_key + 1
    running = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, WIDTH], tl.float32)
    for block in tl.range(low, high, BLOCK_N):
        at = block + tl.arange(0, BLOCK_N)
        is_key = at < high
        pages = tl.load(page_table + at // PAGE, is_key, 0).to(tl.int64)
        keys = key_pages + pages * key_page + at % PAGE * key_row
        if HAS_ROTARY:
            scores = tl.dot(q1, tl.trans(_load(keys, is_key, HALF)), input_precision="ieee")
            k2 = _load(keys + HALF, is_key, HALF)
            scores = tl.dot(q2, tl.trans(k2), scores, input_precision="ieee")
        else:
            scores = tl.dot(q1, tl.trans(_load(keys, is_key, SIZE)), input_precision="ieee")
        if HAS_SOFTCAP:
            scores = tanh(scores * squash)
        behind = positions[:, None] - at[None, :]
        is_seen = is_key[None, :] & (behind >= 0)
        if HAS_WINDOW:
            is_seen = is_seen & (behind <= window)
        scores = tl.where(is_seen, scores, float("-inf"))
        seen = running
        running = tl.maximum(seen, tl.max(scores, 1))
        largest = finite(running)
        weights = tl.exp2((scores - largest[:, None]) * scale)
        kept = tl.exp2((seen - largest) * scale)
        total = total * kept + tl.sum(weights, 1)
        values = value_pages + pages * value_page + at % PAGE * value_row
        values = _load(values, is_key, SIZE)
        acc = tl.dot(weights.to(values.dtype), values, acc * kept[:, None], input_precision="ieee")

    acc = acc * (1 / tl.where(total == 0, 1, total))[:, None]
    _store(out + (token * heads + asking) * SIZE, acc.to(out.dtype.element_ty), inside, SIZE)


@triton.jit
def _load(rows, inside, SIZE: tl.constexpr):
    """SIZE numbers from each of some addresses on, zeros past them and where it is not inside."""
    BLOCK: tl.constexpr = padded_size(SIZE)
    columns = tl.arange(0, BLOCK)[None, :]
    return tl.load(rows[:, None] + columns, inside[:, None] & (columns < SIZE), 0.0)


@triton.jit
def _store(rows, x, inside, SIZE: tl.constexpr):
    BLOCK: tl.constexpr = padded_size(SIZE)
    columns = tl.arange(0, BLOCK)[None, :]
    tl.store(rows[:, None] + columns, x, inside[:, None] & (columns < SIZE))


@triton.jit
def _rotated(rows, inside, positions, cos, sin, SIZE: tl.constexpr):
    """The halves of the vectors at some addresses, rotated, rounded to their dtype."""
    HALF: tl.constexpr = SIZE // 2
    x1 = _load(rows, inside, HALF).to(tl.float32)
    x2 = _load(rows + HALF, inside, HALF).to(tl.float32)
    angle = positions.to(tl.int64) * HALF
    c, s = _load(cos + angle, inside, HALF), _load(sin + angle, inside, HALF)
    dtype = rows.dtype.element_ty
    return (x1 * c - x2 * s).to(dtype), (x2 * c + x1 * s).to(dtype)


def variants() -> Iterator[Variant]:
    """What the launchers pick for decoders: heads of 64, 128 and 256, alone or in groups."""
    half = torch.float16
    for size in (64, 128, 256):
        for dtype in (half, torch.bfloat16, torch.float32):
            yield from _variants(size, dtype, "rotary")
    yield from _variants(128, half, "rotary window")
    for forms in ("rotary softcap", "rotary softcap window"):
        yield from _variants(256, half, forms)
        yield from _variants(256, torch.float32, forms)


def _variants(size: int, dtype: torch.dtype, forms: str) -> Iterator[Variant]:
    short = str(dtype).removeprefix("torch.")
    pointer = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32"}[short]
    index = dict.fromkeys(("page_table", "lengths"), "*i32")
    pages = dict.fromkeys(("key_pages", "value_pages"), pointer)
    angles = dict.fromkeys(("cos", "sin"), "*fp32")
    of_pages = [f"{x}_{y}" for x in ("key", "value") for y in ("page", "row", "head")]
    shared: dict[str, object] = {"SIZE": size, "PAGE": 16, "HAS_ROTARY": "rotary" in forms}
    tensors = {"k": pointer, "v": pointer} | index | pages | {"cu_seqlens_k": "*i32"} | angles
    strides = ["k_row", "k_head", "v_row", "v_head", *of_pages]
    numbers = ["most", "num_sequences", "step", "key_heads", *strides]
    if forms == "rotary":
        yield Variant(
            name=f"paged write {short} {size}",
            kernel=write_pages,
            signature=tensors | dict.fromkeys(numbers, "i32"),
            constexprs={"BLOCK": _WRITTEN, **shared},
            num_warps=_WARPS,
            num_stages=1,
            aligned=frozenset(tensors) | frozenset(strides),
        )
    tensors = {"q": pointer, "out": pointer} | index | pages | {"cu_seqlens_q": "*i32"} | angles
    strides = ["q_row", "q_head", *of_pages]
    numbers = ["most", "num_sequences", "step", "heads", "heads_per_key", *strides, "window"]
    for config in dict.fromkeys(configuration(size, dtype, 8, most) for most in (1, None)):
        yield Variant(
            name=f"paged attention {short} {size} {forms} {config}",
            kernel=attend_pages,
            signature=tensors
            | dict.fromkeys(numbers, "i32")
            | dict.fromkeys(("squash", "scale"), "fp32"),
            constexprs={
                "BLOCK_M": config.block_m,
                "BLOCK_N": config.block_n,
                "HAS_WINDOW": "window" in forms,
                "HAS_SOFTCAP": "softcap" in forms,
                **shared,
            },
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            aligned=frozenset(tensors) | frozenset(strides),
            matrix=config.block_m >= 64 and dtype != torch.float32,
        )
