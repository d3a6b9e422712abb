"""Compaction of a pack, in two launches and without a word to the host.

One program adds up the kept lengths; then each copying program finds the sequences of its rows by
bisection among the new offsets. The floor, by arithmetic: each kept value read and written once.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from packrank_kernels.backend.triton.variants import Variant

_LENGTHS = 1024  # that the first kernel adds up at a time
_WARPS = 4


def take_sequences(
    x: Tensor, cu_seqlens: Tensor, kept: Tensor, total: int
) -> tuple[Tensor, Tensor]:
    """Rows of the kept sequences end to end, and where each starts; see `rows.take_sequences`."""
    num_kept, size = len(kept), x.shape[1]
    starts = torch.empty(num_kept + 1, dtype=torch.int32, device=x.device)
    _starts_kernel[(1,)](
        cu_seqlens, kept, starts, num_kept, BLOCK=_LENGTHS, num_warps=_WARPS, num_stages=1
    )
    out = x.new_empty(total, size)
    block, rows = _copy_config(size)
    _copy_kernel[(triton.cdiv(total, rows), triton.cdiv(size, block))](
        x,
        cu_seqlens,
        kept,
        starts,
        out,
        num_kept,
        (1 << num_kept.bit_length()) // 2,
        total,
        SIZE=size,
        BLOCK=block,
        ROWS=rows,
        num_warps=_WARPS,
        num_stages=1,
    )
    return out, starts


def _copy_config(size: int) -> tuple[int, int]:
    """(columns, rows) of a copying program: 32 values a thread, 16-byte loads four deep."""
    block = min(triton.next_power_of_2(size), 1024)
    return block, 4096 // block


def variants() -> Iterator[Variant]:
    """What the launcher compiles for models' sizes: see `variants.Variant`."""
    pointers = {"cu_seqlens": "*i32", "kept": "*i32", "starts": "*i32"}
    yield Variant(
        name="take_sequences-starts",
        kernel=_starts_kernel,
        signature=pointers | {"num_kept": "i32"},
        constexprs={"BLOCK": _LENGTHS},
        num_warps=_WARPS,
        num_stages=1,
        aligned=frozenset(pointers),
    )
    for dtype, size in (("fp16", 384), ("bf16", 1024), ("fp16", 4096), ("fp32", 25)):
        block, rows = _copy_config(size)
        copied = pointers | {"x": f"*{dtype}", "out": f"*{dtype}"}
        yield Variant(
            name=f"take_sequences-copy-{dtype}-{size}",
            kernel=_copy_kernel,
            signature=copied | {"num_kept": "i32", "step": "i32", "total": "i32"},
            constexprs={"SIZE": size, "BLOCK": block, "ROWS": rows},
            num_warps=_WARPS,
            num_stages=1,
            aligned=frozenset(copied),
        )


@triton.jit(do_not_specialize=["num_kept"])
def _starts_kernel(cu_seqlens, kept, starts, num_kept, BLOCK: tl.constexpr):
    tl.store(starts, 0)
    first = 0
    before = 0
    while first < num_kept:
        m = first + tl.arange(0, BLOCK)
        mask = m < num_kept
        n = tl.load(kept + m, mask=mask, other=0)
        begin = tl.load(cu_seqlens + n, mask=mask, other=0)
        end = tl.load(cu_seqlens + n + 1, mask=mask, other=0)
        ends = before + tl.cumsum(end - begin)
        tl.store(starts + 1 + m, ends, mask=mask)
        before += tl.sum(end - begin)
        first += BLOCK


@triton.jit(do_not_specialize=["num_kept", "step", "total"])
def _copy_kernel(
    x,
    cu_seqlens,
    kept,
    starts,
    out,
    num_kept,
    step,
    total,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    # The row's sequence is the last that starts at or before it; num_kept is that of spare rows.
    m = rows * 0
    while step > 0:
        start = tl.load(starts + m + step, mask=m + step <= num_kept, other=2**31 - 1)
        m = tl.where(start <= rows, m + step, m)
        step //= 2
    is_kept = (m < num_kept) & (rows < total)
    begin = tl.load(cu_seqlens + tl.load(kept + m, mask=is_kept, other=0), mask=is_kept, other=0)
    source = begin + rows - tl.load(starts + m, mask=is_kept, other=0)
    inside = columns < SIZE
    value = tl.load(x + (source.to(tl.int64) * SIZE + columns), mask=is_kept & inside, other=0.0)
    tl.store(out + (rows.to(tl.int64) * SIZE + columns), value, mask=(rows < total) & inside)
