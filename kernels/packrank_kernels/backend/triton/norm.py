"""Residual add and LayerNorm or RMSNorm: one pass over memory, statistics in registers.

The floor, by arithmetic: two values read and two written for each of x, or one and one without a
residual. A row of 768 in 16 bits moves 6 KiB with a residual: 1.8 ns at an H100's 3.35 TB/s. Each
thread has 16 values, so four 16-byte loads of x and the residual before it waits; 28 warps of them
are 56 KiB in flight a multiprocessor, three times what that rate needs at 700 ns a load.
"""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from packrank_kernels.backend.triton import early_launch
from packrank_kernels.backend.triton.early_launch import wait_for_inputs
from packrank_kernels.backend.triton.variants import Variant


def add_layer_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """(LayerNorm(x + residual), x + residual); see `layer_norm.add_layer_norm`."""
    return _add_norm(x, residual, weight, bias, eps, centered=True)


def add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, scale: float
) -> tuple[Tensor, Tensor]:
    """(RMSNorm(scale * x + residual), scale * x + residual); see `rms_norm.add_rms_norm`."""
    return _add_norm(x, residual, weight, None, eps, scale, centered=False)


def row_config(size: int) -> tuple[int, int, int]:
    """(columns, rows, warps) of a program whose rows have `size` values, of which none is split.

    By size alone: a row's sums run in the same order whatever comes with it. (The compiler orders
    them anew where a tensor does not start at a multiple of 16 bytes; every allocation does.)
    """
    block = triton.next_power_of_2(size)
    rows = max(2048 // block, 1)
    return block, rows, min(max(block // 512, 4), 16)


def variants() -> Iterator[Variant]:
    """What the launchers compile for models' sizes: see `variants.Variant`."""
    for size in (100, 384, 768, 2048, 4096, 8192):
        yield _variant("fp16", size)
    yield _variant("fp16", 128, residual=False, centered=False)
    yield _variant("fp16", 2304, centered=False)
    yield _variant("fp16", 768, residual=False)
    yield _variant("fp16", 768, early=True)
    yield _variant("bf16", 1024)
    yield _variant("fp32", 8192)


def _variant(
    dtype: str, size: int, *, residual: bool = True, centered: bool = True, early: bool = False
) -> Variant:
    block, rows, warps = row_config(size)
    pointers = {"x": dtype, "weight": "fp32", "normed": dtype}
    if residual:
        pointers |= {"residual": dtype, "total": dtype}
    if centered:
        pointers |= {"bias": "fp32"}
    forms = {"residual": residual, "rms": not centered, "early": early}
    return Variant(
        name="-".join(["add_norm", dtype, str(size), *(name for name, on in forms.items() if on)]),
        kernel=_add_norm_kernel,
        signature={name: f"*{of}" for name, of in pointers.items()}
        | {"num_rows": "i32", "eps": "fp32", "scale": "fp32"},
        constexprs={
            "SIZE": size,
            "BLOCK": block,
            "ROWS": rows,
            "CENTERED": centered,
            "EARLY": early,
        },
        num_warps=warps,
        num_stages=1,
        aligned=frozenset(pointers),
    )


@triton.jit
def normalize(x, inside, eps, SIZE: tl.constexpr, CENTERED: tl.constexpr):
    """Rows of x [R, B], zero where not inside [1, B], less their mean, over their deviation."""
    if CENTERED:
        x = tl.where(inside, x - tl.sum(x, axis=1, keep_dims=True) / SIZE, 0.0)
    return x * tl.rsqrt(tl.sum(x * x, axis=1, keep_dims=True) / SIZE + eps)


@triton.jit
def load_values(pointer, mask):
    """[B] float32 for every row of mask [R, B]: as a whole tile, not by way of shared memory.

    Kernels call it before they wait for what they normalize.
    """
    columns = tl.arange(0, mask.shape[1])[None, :]
    return tl.load(pointer + tl.broadcast_to(columns, mask.shape), mask=mask, other=0.0)


def _add_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    scale: float = 1.0,
    *,
    centered: bool,
) -> tuple[Tensor, Tensor]:
    num_rows, size = x.shape
    block, rows, warps = row_config(size)
    normed = torch.empty_like(x)
    total = x if residual is None else torch.empty_like(x)
    _add_norm_kernel[(triton.cdiv(num_rows, rows),)](
        x,
        residual,
        weight,
        bias,
        normed,
        None if residual is None else total,
        num_rows,
        eps,
        scale,
        SIZE=size,
        BLOCK=block,
        ROWS=rows,
        CENTERED=centered,
        num_warps=warps,
        num_stages=1,
        **early_launch.options(),
    )
    return normed, total


@triton.jit(do_not_specialize=["num_rows"])
def _add_norm_kernel(
    x,
    residual,
    weight,
    bias,
    normed,
    total,
    num_rows,
    eps,
    scale,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    CENTERED: tl.constexpr,
    EARLY: tl.constexpr = False,
):
    wait_for_inputs(EARLY)
    first = tl.program_id(0).to(tl.int64) * ROWS
    rows = tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, BLOCK)[None, :]
    inside = columns < SIZE
    mask = (first + rows < num_rows) & inside
    at = first * SIZE + (rows * SIZE + columns)
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if residual is not None:
        value = value * scale + tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    gain = load_values(weight, mask)
    if bias is not None:
        shift = load_values(bias, mask)
    if residual is not None:
        tl.store(total + at, value.to(total.dtype.element_ty), mask=mask)
    value = normalize(value, inside, eps, SIZE, CENTERED) * gain
    if bias is not None:
        value += shift
    tl.store(normed + at, value.to(normed.dtype.element_ty), mask=mask)
