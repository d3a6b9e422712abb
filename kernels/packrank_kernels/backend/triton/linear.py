"""Linear layers with the bias, the activation and the gate in the epilogue of the product.

Two forms. On compute capability 9.0, 16-bit operands whose rows start on 16 bytes go through tensor
descriptors: the copy engine fills shared memory, WGMMA reads it there, and a fixed number of
programs walks the tiles. Descriptors are made on the host and travel as launch arguments, so a
graph can hold the launch. Everything else goes through pointers: other devices, float32 (in float32
throughout, not in its short forms), odd sizes and strides.

A row has the same bits in any company. An element is one accumulator; the products are added to it
from the first of K to the last, in steps of `_block_k`, which the dtype decides, and within a step
by one instruction that takes 16 of them (float32: one). T and N choose the tile. A tile says which
elements are computed together and nothing about the order of the sums of one: none has fewer than
the 64 rows that WGMMA needs, so none brings in another instruction, and no sum is split between
programs. Rows and columns past the end are zeros that nothing reads. Which form runs depends on the
layer and on how x's rows are aligned, not on their number.

A gated layer's halves lie interleaved, so that both factors of an output are in one thread. Two
products side by side, each of half the columns, would make the tensor cores read x twice.

What a tile costs, by arithmetic (H100: 132 processors of 2048 multiply-adds a clock, 989 TFLOP/s
at 1.83 GHz): the sums need `m n K / 2048` clocks of the tensor cores and `2 (m + n) K` bytes in
shared memory. The cache is taken to give a processor 32 bytes a clock, so 128 x 256 is bound by it
to two thirds of the peak and 128 x 128 to one half; larger tiles do not fit the registers. The
epilogue has some 16 instructions a value with GELU, of 128 a clock: for 128 x 256 as long as a K of
256 on the tensor cores. Two programs a processor, which 128 x 128 leaves room for, hide theirs
behind each other's products: that pays for short K. Floors in microseconds at 8192 rows, of the
operations at the peak and of the bytes at 3.35 TB/s:

    from -> to                  operations    bytes
    384 -> 1152, 384, 1536        7, 2, 10    8, 4, 10
    1536 -> 384                         10    10
    768 -> 2304, 768, 3072      29, 10, 39    16, 8, 20
    3072 -> 768                         39    20
    768 -> 1152 gated                   29    10
    1024 -> 3072, 1024, 4096    52, 17, 69    22, 11, 28
    4096 -> 1024                        69    28

At 384 memory bounds as much as operations do, unless what a layer reads is still in the cache
(50 MB): short packs keep it there. A few hundred rows (the last layer, heads) do not fill 132
processors with large tiles: they get small ones.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from packrank_kernels.backend.triton import early_launch
from packrank_kernels.backend.triton.gemm import INTERLEAVE, descriptor_gemm, pointer_gemm
from packrank_kernels.backend.triton.variants import Variant


@dataclass(frozen=True)
class Tile:
    """A configuration of a kernel.

    Attributes:
        m: rows of the output.
        n: columns of the product (twice those of the output if gated).
        warps: of a program.
        stages: blocks of the operands in shared memory at a time.
        programs: how many fit a processor at a time.
        pieces: 2 where the epilogue takes one half of the columns after the other, else 1.
    """

    m: int
    n: int
    warps: int
    stages: int
    programs: int
    pieces: int = 1


# Where two cost the same the first is taken.
DESCRIPTOR_TILES = (
    Tile(128, 128, warps=8, stages=3, programs=2, pieces=2),
    Tile(128, 256, warps=8, stages=4, programs=1, pieces=2),
    Tile(64, 128, warps=4, stages=4, programs=2, pieces=2),
    Tile(64, 64, warps=4, stages=4, programs=3),
    Tile(64, 32, warps=4, stages=4, programs=4),
)
# At most 96 KiB of shared memory: every device from 8.0 on has them.
POINTER_TILES = (
    Tile(128, 128, warps=8, stages=3, programs=1),
    Tile(64, 64, warps=4, stages=3, programs=2),
    Tile(64, 32, warps=4, stages=3, programs=3),
)
# Values that are loaded one by one pass through registers.
ODD_TILES = (
    Tile(64, 64, warps=8, stages=3, programs=1),
    Tile(64, 32, warps=8, stages=3, programs=2),
)
FLOAT32_TILES = (
    Tile(64, 64, warps=4, stages=3, programs=3),
    Tile(32, 32, warps=4, stages=3, programs=5),
)


def pack_linear(weight: Tensor, gated: bool) -> Tensor:
    """The weight as the kernels read it, [N, K].

    Gated, 8 rows of the first half come before the same 8 of the second, so that a tile holds both
    factors of its outputs: [2 * ceil(N / 8) * 8, K], the rows that fill the last 8 zero.
    """
    if not gated:  # a view into another tensor may start anywhere
        return weight if weight.data_ptr() % 16 == 0 else weight.clone()
    rows, in_features = weight.shape
    group = INTERLEAVE.value
    groups = triton.cdiv(rows // 2, group)
    packed = weight.new_zeros(2, groups * group, in_features)
    packed[:, : rows // 2] = weight.view(2, rows // 2, in_features)
    packed = packed.view(2, groups, group, in_features).transpose(0, 1)
    return packed.reshape(2 * groups * group, in_features)


def linear(
    x: Tensor,
    data: Tensor,
    bias: Tensor,
    activation: str | None,
    gated: bool,
    wide: bool = False,
) -> Tensor:
    """activation(x weightᵀ + bias), or its gated form; see `linear.linear`."""
    if not wide and _takes_descriptors(x, data, bias, gated):
        return by_descriptors(x, data, bias, activation, gated)
    return by_pointers(x, data, bias, activation, gated, wide=wide)


def by_descriptors(
    x: Tensor,
    data: Tensor,
    bias: Tensor,
    activation: str | None,
    gated: bool,
    tile: Tile | None = None,
    *,
    flatten: bool = True,
) -> Tensor:
    """`linear` through tensor descriptors; `tile` is `choose_tile`'s unless given."""
    (rows, in_features), columns = x.shape, len(bias) // (1 + gated)
    out = x.new_empty(rows, columns)
    if not out.numel():
        return out
    processors = _processors(x.device)
    if tile is None:
        tile = choose_tile(DESCRIPTOR_TILES, rows, len(data), in_features, x.dtype, processors)
    block_k = _block_k(x.dtype)
    width = tile.n // tile.pieces // (1 + gated)
    programs = triton.cdiv(rows, tile.m) * triton.cdiv(len(data), tile.n)
    descriptor_gemm[(min(programs, processors * tile.programs),)](
        TensorDescriptor(x, [rows, in_features], [x.stride(0), 1], [tile.m, block_k]),
        TensorDescriptor.from_tensor(data, [tile.n, block_k]),
        bias,
        TensorDescriptor.from_tensor(out, [tile.m, width]),
        rows,
        columns,
        in_features,
        ACTIVATION=activation,
        GATED=gated,
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        BLOCK_K=block_k,
        PIECES=tile.pieces,
        FLATTEN=flatten,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **early_launch.options(),
    )
    return out


def by_pointers(
    x: Tensor,
    data: Tensor,
    bias: Tensor,
    activation: str | None,
    gated: bool,
    tile: Tile | None = None,
    *,
    wide: bool = False,
) -> Tensor:
    """`linear` through pointers; `tile` is `choose_tile`'s unless given."""
    (rows, in_features), columns = x.shape, len(bias) // (1 + gated)
    out = x.new_empty(rows, columns, dtype=torch.float32 if wide else x.dtype)
    if not out.numel():
        return out
    if tile is None:
        tiles = _pointer_tiles(x, data)
        tile = choose_tile(tiles, rows, len(data), in_features, x.dtype, _processors(x.device))
    pointer_gemm[(triton.cdiv(rows, tile.m) * triton.cdiv(len(data), tile.n),)](
        x,
        data,
        bias,
        out,
        rows,
        columns,
        in_features,
        x.stride(0),
        ACTIVATION=activation,
        GATED=gated,
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        BLOCK_K=_block_k(x.dtype),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


@functools.lru_cache(maxsize=4096)
def choose_tile(
    tiles: tuple[Tile, ...], rows: int, columns: int, k: int, dtype: torch.dtype, processors: int
) -> Tile:
    """The tile by which [rows, k] x [k, columns] takes the fewest clocks, by this arithmetic.

    The busiest processor goes through its tiles, several at a time, each as fast as the cache
    brings operands or the units multiply; an epilogue takes time only where it runs alone.
    """
    multiply_adds = 128 if dtype == torch.float32 else 2048
    bytes_a_clock = 32
    epilogue_values_a_clock = 8

    def clocks(tile: Tile) -> float:
        count: int = triton.cdiv(rows, tile.m) * triton.cdiv(columns, tile.n)
        at_a_time = min(tile.programs, triton.cdiv(count, processors))
        rounds: int = triton.cdiv(count, at_a_time * processors)
        area = tile.m * tile.n
        operands: int = (tile.m + tile.n) * dtype.itemsize
        products = at_a_time * k * max(area / multiply_adds, operands / bytes_a_clock)
        epilogue = area / epilogue_values_a_clock if at_a_time == 1 else 0.0
        return float(rounds * (products + epilogue))

    return min(tiles, key=clocks)


def _takes_descriptors(x: Tensor, data: Tensor, bias: Tensor, gated: bool) -> bool:
    """Whether the copy engine can read x and the weight and write the output, and it pays."""
    columns, in_features = len(bias) // (1 + gated), x.shape[1]
    return (
        x.device.type == "cuda"
        and _capability(x.device) == (9, 0)
        and x.dtype.itemsize == 2
        and in_features > 0
        and in_features % 8 == 0
        and columns % 8 == 0
        and x.stride(0) >= in_features
        and x.stride(0) % 8 == 0
        and x.data_ptr() % 16 == 0
        and data.data_ptr() % 16 == 0
    )


def _pointer_tiles(x: Tensor, data: Tensor) -> tuple[Tile, ...]:
    if x.dtype == torch.float32:
        return FLOAT32_TILES
    facts = (x.shape[1], x.stride(0), x.data_ptr(), data.data_ptr())
    return ODD_TILES if any(fact % 16 for fact in facts) else POINTER_TILES


def _block_k(dtype: torch.dtype) -> int:
    """Steps along K: 128 bytes of 16-bit values, the widest row that shared memory spreads."""
    return 64 if dtype.itemsize == 2 else 16


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@functools.cache
def _processors(device: torch.device) -> int:
    """Multiprocessors; the interpreter, on the CPU, is given two."""
    if device.type == "cpu":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


def variants() -> Iterator[Variant]:
    """What the launchers compile for models' sizes: see `variants.Variant`."""
    plain, gated = (None, "gelu"), ("gelu", "gelu_tanh", "silu")
    epilogues = [*((name, False) for name in plain), *((name, True) for name in gated)]
    for tile in DESCRIPTOR_TILES:
        for activation, is_gated in epilogues:
            yield _descriptor_variant("fp16", tile, activation, is_gated)
    for tile in DESCRIPTOR_TILES[:2]:
        yield _descriptor_variant("bf16", tile, "gelu", False)
        yield _descriptor_variant("bf16", tile, "gelu_tanh", True)
        yield _descriptor_variant("bf16", tile, "silu", True)
        for activation in ("gelu_tanh", "relu", "tanh"):
            yield _descriptor_variant("fp16", tile, activation, False)
        yield _descriptor_variant("fp16", tile, "gelu", False, FLATTEN=False)
        yield _descriptor_variant("fp16", tile, None, False, EARLY=True)
    for tile in POINTER_TILES:
        yield _pointer_variant("fp16", tile, "gelu", False, aligned=True)
        yield _pointer_variant("fp16", tile, "gelu", True, aligned=True)
        yield _pointer_variant("bf16", tile, None, False, aligned=True, out="fp32")
    for tile in ODD_TILES:
        yield _pointer_variant("fp16", tile, "gelu", False, aligned=False)
        yield _pointer_variant("fp16", tile, "gelu", True, aligned=False)
    for tile in FLOAT32_TILES:
        yield _pointer_variant("fp32", tile, "gelu", False, aligned=True)
        yield _pointer_variant("fp32", tile, "silu", True, aligned=False)


def _descriptor_variant(
    dtype: str, tile: Tile, activation: str | None, gated: bool, **form: bool
) -> Variant:
    block_k = 64
    width = tile.n // tile.pieces // (1 + gated)
    constexprs = _constexprs(tile, activation, gated, block_k)
    constexprs |= {"PIECES": tile.pieces, "FLATTEN": True, **form}
    signature = {
        "x": f"tensordesc<{dtype}[{tile.m}, {block_k}]>",
        "weight": f"tensordesc<{dtype}[{tile.n}, {block_k}]>",
        "bias": "*fp32",
        "out": f"tensordesc<{dtype}[{tile.m}, {width}]>",
    }
    return Variant(
        name=_name("descriptor", dtype, tile, activation, gated)
        + "".join(f" {key}={value}" for key, value in form.items()),
        kernel=descriptor_gemm,
        signature=signature | dict.fromkeys("TNK", "i32") | dict.fromkeys(constexprs, "constexpr"),
        constexprs=constexprs,
        num_warps=tile.warps,
        num_stages=tile.stages,
        programs=tile.programs,
        aligned=frozenset({"bias", "N", "K"}),
        matrix=True,
    )


def _pointer_variant(
    dtype: str, tile: Tile, activation: str | None, gated: bool, aligned: bool, out: str = ""
) -> Variant:
    constexprs = _constexprs(tile, activation, gated, 16 if dtype == "fp32" else 64)
    pointers = {"x": f"*{dtype}", "weight": f"*{dtype}", "bias": "*fp32", "out": f"*{out or dtype}"}
    sizes = dict.fromkeys(("T", "N", "K", "stride"), "i32")
    return Variant(
        name=_name("pointer" if aligned else "pointer odd", dtype, tile, activation, gated)
        + f" {out}".rstrip(),
        kernel=pointer_gemm,
        signature=pointers | sizes | dict.fromkeys(constexprs, "constexpr"),
        constexprs=constexprs,
        num_warps=tile.warps,
        num_stages=tile.stages,
        programs=tile.programs,
        aligned=frozenset(pointers) | ({"N", "K", "stride"} if aligned else set()),
        matrix=dtype != "fp32",
    )


def _constexprs(tile: Tile, activation: str | None, gated: bool, block_k: int) -> dict[str, object]:
    return {
        "ACTIVATION": activation,
        "GATED": gated,
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "BLOCK_K": block_k,
    }


def _name(form: str, dtype: str, tile: Tile, activation: str | None, gated: bool) -> str:
    epilogue = f"{activation}{' gated' if gated else ''}"
    return f"linear {form} {dtype} {tile.m}x{tile.n} {epilogue}"
