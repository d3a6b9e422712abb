"""The two matrix products behind `linear`: through tensor descriptors, and through pointers.

Both walk the tiles of the output in groups of rows, so that the programs that run at one time share
what they read, and both take K in steps of BLOCK_K from 0 on, whatever the tile.
"""

import triton
import triton.language as tl

from packrank_kernels.backend.triton.activations import activate
from packrank_kernels.backend.triton.early_launch import wait_for_inputs

# Of a gated weight 8 rows of the first half lie before 8 of the second (`linear.pack_linear`): that
# is how far apart the columns of one thread lie in what the tensor cores leave.
INTERLEAVE = tl.constexpr(8)


@triton.jit(do_not_specialize=["T"])
def descriptor_gemm(
    x,
    weight,
    bias,
    out,
    T,
    N,
    K,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PIECES: tl.constexpr,
    FLATTEN: tl.constexpr,
    EARLY: tl.constexpr = False,
):
    """activation(x weightᵀ + bias) by a fixed number of programs: see `linear.by_descriptors`.

    With FLATTEN the loops over tiles and over K are one: the first blocks of a tile are on their
    way while the epilogue of the tile before runs. Which is faster `linear` of `make gpu` says.
    """
    wait_for_inputs(EARLY)
    tiles_m = tl.cdiv(T, BLOCK_M)
    tiles_n = tl.cdiv(2 * N if GATED else N, BLOCK_N)
    tl.static_assert(PIECES == 1 or PIECES == 2)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=FLATTEN):
        m, n = _corner(tile, tiles_m, tiles_n, BLOCK_M, BLOCK_N)
        sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in range(0, K, BLOCK_K):
            sums = tl.dot(x.load([m, k]), weight.load([n, k]).T, sums)
        if PIECES == 1:
            _store(out, sums, bias, m, n, N, ACTIVATION, GATED)
        else:  # half after half: fewer registers, and half the shared memory on the way out
            left, right = _halves(sums)
            _store(out, left, bias, m, n, N, ACTIVATION, GATED)
            _store(out, right, bias, m, n + BLOCK_N // 2, N, ACTIVATION, GATED)


@triton.jit(do_not_specialize=["T"])
def pointer_gemm(
    x,
    weight,
    bias,
    out,
    T,
    N,
    K,
    stride,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """activation(x weightᵀ + bias), a tile a program, for any size and alignment."""
    rows_of_weight = 2 * tl.cdiv(N, INTERLEAVE) * INTERLEAVE if GATED else N
    tiles_m = tl.cdiv(T, BLOCK_M)
    tiles_n = tl.cdiv(rows_of_weight, BLOCK_N)
    m, n = _corner(tl.program_id(0), tiles_m, tiles_n, BLOCK_M, BLOCK_N)
    rows = m + tl.arange(0, BLOCK_M)
    columns = n + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    from_x = x + rows.to(tl.int64)[:, None] * stride + inner[None, :]
    from_weight = weight + columns.to(tl.int64)[None, :] * K + inner[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        left = inner < K - k
        a = tl.load(from_x + k, (rows < T)[:, None] & left[None, :], 0.0)
        b = tl.load(from_weight + k, (columns < rows_of_weight)[None, :] & left[:, None], 0.0)
        sums = tl.dot(a, b, sums, input_precision="ieee")
    value = _finish(sums, bias, n, N, ACTIVATION, GATED)
    first = n // 2 if GATED else n
    columns = first + tl.arange(0, value.shape[1])
    to = out + rows.to(tl.int64)[:, None] * N + columns[None, :]
    tl.store(to, value.to(out.dtype.element_ty), (rows < T)[:, None] & (columns < N)[None, :])


@triton.jit
def _corner(tile, tiles_m, tiles_n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """First row and column of a tile; eight tiles of rows go through all columns together."""
    group = tile // (8 * tiles_n)
    height = min(tiles_m - 8 * group, 8)
    within = tile % (8 * tiles_n)
    return (8 * group + within % height) * BLOCK_M, within // height * BLOCK_N


@triton.jit
def _store(out, sums, bias, m, n, N, ACTIVATION: tl.constexpr, GATED: tl.constexpr):
    value = _finish(sums, bias, n, N, ACTIVATION, GATED)
    out.store([m, n // 2 if GATED else n], value.to(out.dtype))


@triton.jit
def _finish(sums, bias, n, N, ACTIVATION: tl.constexpr, GATED: tl.constexpr):
    """Sums -> activation(sums + bias) in float32, half as wide if gated."""
    if GATED:
        first, second = _gate(sums)
        columns = n // 2 + tl.arange(0, first.shape[1])
        first += tl.load(bias + columns, columns < N, 0.0)[None, :]
        second += tl.load(bias + N + columns, columns < N, 0.0)[None, :]
        return activate(first, ACTIVATION) * second
    else:
        columns = n + tl.arange(0, sums.shape[1])
        return activate(sums + tl.load(bias + columns, columns < N, 0.0)[None, :], ACTIVATION)


@triton.jit
def _halves(tile):
    """Left and right half of the columns; no value leaves its thread."""
    rows: tl.constexpr = tile.shape[0]
    half: tl.constexpr = tile.shape[1] // 2
    return tl.split(tl.permute(tl.reshape(tile, (rows, 2, half)), (0, 2, 1)))


@triton.jit
def _gate(tile):
    """The interleaved halves of a gated tile; no value leaves its thread."""
    rows: tl.constexpr = tile.shape[0]
    half: tl.constexpr = tile.shape[1] // 2
    groups = tl.reshape(tile, (rows, half // INTERLEAVE, 2, INTERLEAVE))
    first, second = tl.split(tl.permute(groups, (0, 1, 3, 2)))
    return tl.reshape(first, (rows, half)), tl.reshape(second, (rows, half))
