"""The scoring head in two launches: gather, dense layer, activation; then norm and output layer.

Products are float32 multiply-adds, not tensor cores. The lanes of one warp split the inner
dimension and each holds partial sums of a whole tile: many short chains, as the rows are few.
Operands come in by asynchronous copies, three steps ahead. The order of a sum depends on the inner
size and on whether rows start at multiples of 16 bytes, never on the other rows.

The floor, by arithmetic, on an H100 (67 TFLOP/s without tensor cores, 3.35 TB/s): 512 rows of 1024
take 16 us of multiply-adds, 32 rows 1 us of them or 1.3 us for the dense weight.
"""

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from packrank_kernels.backend.triton.activations import activate
from packrank_kernels.backend.triton.norm import load_values, normalize
from packrank_kernels.backend.triton.variants import Variant
from packrank_kernels.packed import PackedHead

_TILE = {"ROWS": 16, "COLUMNS": 8, "INNER": 32}
_DENSE_WARPS = 1
_AHEAD = 4  # steps of the inner dimension that are on their way or in use


def score_head(hidden: Tensor, rows: Tensor | None, head: PackedHead) -> Tensor:
    """Logits of a classification head; see `head.score_head`."""
    num_rows = len(hidden) if rows is None else len(rows)
    inner, labels = head.inner_features, len(head.out_bias)
    pooled = head.dense.new_empty(num_rows, inner)
    tiles = triton.cdiv(num_rows, _TILE["ROWS"]), triton.cdiv(inner, _TILE["COLUMNS"])
    _dense_kernel[tiles](
        hidden,
        hidden.stride(0),
        rows,
        head.dense,
        head.dense_bias,
        pooled,
        num_rows,
        inner,
        SIZE=head.in_features,
        ACTIVATION=head.activation,
        AHEAD=_AHEAD,
        **_TILE,
        num_warps=_DENSE_WARPS,
        num_stages=1,
    )
    logits = head.out.new_empty(num_rows, labels)
    block, warps = _out_config(inner)
    _out_kernel[(num_rows,)](
        pooled,
        head.norm_weight,
        head.norm_bias,
        head.norm_eps,
        head.out,
        head.out_bias,
        logits,
        labels,
        SIZE=inner,
        BLOCK=block,
        num_warps=warps,
        num_stages=1,
    )
    return logits


def _out_config(size: int) -> tuple[int, int]:
    """(columns, warps) of a program, which has one row."""
    block = triton.next_power_of_2(size)
    return block, min(max(block // 256, 1), 16)


def variants() -> Iterator[Variant]:
    """What the launcher compiles for models' sizes: see `variants.Variant`."""
    for dtype, size, activation, gathers in (
        ("fp16", 384, "tanh", True),
        ("fp16", 768, "gelu", True),
        ("fp16", 1024, None, True),
        ("fp16", 100, "gelu_tanh", True),
        ("fp16", 768, "silu", False),
        ("bf16", 768, "relu", True),
        ("fp32", 768, "tanh", True),
    ):
        pointers = {"hidden": f"*{dtype}", "dense": "*fp32", "bias": "*fp32", "out": "*fp32"}
        if gathers:
            pointers |= {"rows": "*i32"}
        yield Variant(
            name=f"score_head-dense-{dtype}-{size}-{activation}{'' if gathers else '-all'}",
            kernel=_dense_kernel,
            signature=pointers | {"stride": "i32", "num_rows": "i32", "out_features": "i32"},
            constexprs={"SIZE": size, "ACTIVATION": activation, "AHEAD": _AHEAD, **_TILE},
            num_warps=_DENSE_WARPS,
            num_stages=1,
            aligned=frozenset([*pointers, *(("stride",) if size % 16 == 0 else ())]),
        )
    for size, norm in ((384, False), (768, True), (4096, True)):
        block, warps = _out_config(size)
        pointers = dict.fromkeys(("pooled", "out", "out_bias", "logits"), "*fp32")
        if norm:
            pointers |= {"norm_weight": "*fp32", "norm_bias": "*fp32"}
        yield Variant(
            name=f"score_head-out-{size}{'-norm' if norm else ''}",
            kernel=_out_kernel,
            signature=pointers | {"eps": "fp32", "labels": "i32"},
            constexprs={"SIZE": size, "BLOCK": block},
            num_warps=warps,
            num_stages=1,
            aligned=frozenset(pointers),
        )


@triton.jit(do_not_specialize=["num_rows", "out_features"])
def _dense_kernel(
    hidden,
    stride,
    rows,
    dense,
    bias,
    out,
    num_rows,
    out_features,
    SIZE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    AHEAD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = n < num_rows, c < out_features
    source = n
    if rows is not None:
        source = tl.load(rows + n, mask=is_row, other=0)
    k = tl.arange(0, INNER)[None, :]
    x_at = hidden + source.to(tl.int64)[:, None] * stride
    w_at = dense + c[:, None] * SIZE
    partial = tl.zeros([ROWS, COLUMNS, INNER], dtype=tl.float32)
    for first in tl.range(0, SIZE, INNER, num_stages=AHEAD):
        at = first + k
        is_inner = at < SIZE
        x = tl.load(x_at + at, mask=is_row[:, None] & is_inner, other=0.0).to(tl.float32)
        w = tl.load(w_at + at, mask=is_column[:, None] & is_inner, other=0.0)
        partial += x[:, None, :] * w[None, :, :]
    value = tl.sum(partial, axis=2) + tl.load(bias + c, mask=is_column, other=0.0)[None, :]
    at = n.to(tl.int64)[:, None] * out_features + c[None, :]
    tl.store(out + at, activate(value, ACTIVATION), mask=is_row[:, None] & is_column[None, :])


@triton.jit(do_not_specialize=["labels"])
def _out_kernel(
    pooled,
    norm_weight,
    norm_bias,
    eps,
    out,
    out_bias,
    logits,
    labels,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)[None, :]
    inside = columns < SIZE
    value = tl.load(pooled + n * SIZE + columns, mask=inside, other=0.0)
    if norm_weight is not None:
        value = normalize(value, inside, eps, SIZE, True) * load_values(norm_weight, inside)
        if norm_bias is not None:
            value += load_values(norm_bias, inside)
    label = 0
    while label < labels:
        weight = load_values(out + label * SIZE, inside)
        logit = tl.sum(value * weight) + tl.load(out_bias + label)
        tl.store(logits + n * labels + label, logit)
        label += 1
