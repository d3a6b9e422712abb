"""What MaxSim's kernels share: products of a tile of document tokens with query tokens, in order.

Document tokens lie on the M side of the product, so that few query tokens still fill a tile, and a
maximum over tokens is one over rows. Residual codes become signed bytes on their way in: a
centroid's row is gathered, the weight of each field added; planes of the fields are contiguous in
both, and in the queries. Products of bytes are exact in int32, whatever the tile.
"""

import triton
import triton.language as tl


@triton.jit
def similarities(
    queries,
    query_rows,
    is_query,
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
    first,
    left,
    SIZE: tl.constexpr,
    BITS: tl.constexpr,
    OUTLIERS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """[BLOCK_M, len(query_rows)] float32: s_ij of the document tokens from row `first` on.

    -inf from row `left` of the tile on; NaN where a scale is not finite or a code is no centroid.
    BITS: of a residual code, 0 in the other formats. OUTLIERS: dimensions whose products are
    float32's; where there are any, products and sums must not be fused.
    """
    PLANES: tl.constexpr = 8 // BITS if BITS else 1
    WIDTH: tl.constexpr = SIZE // PLANES
    rows = tl.arange(0, BLOCK_M)
    is_row = rows < left
    tokens = first + rows
    values += tokens[:, None] * WIDTH
    if BITS:
        code = tl.load(codes + tokens, is_row, 0)
        is_known = (code >= 0) & (code < num_centroids)
        code = tl.where(is_known, code, 0).to(tl.int64)[:, None]
        centroids += code * SIZE
    query_rows = query_rows.to(tl.int64)[None, :]
    queries += query_rows * SIZE
    IS_INTEGER: tl.constexpr = scales is not None
    sums = tl.zeros((BLOCK_M, query_rows.shape[1]), tl.int32 if IS_INTEGER else tl.float32)
    if WIDTH <= BLOCK_K:
        sums = _add_products(
            sums, queries, is_query, values, is_row, centroids, weights, 0,
            PLANES, BITS, WIDTH, BLOCK_K,
        )  # fmt: skip
    else:
        for k in range(0, WIDTH, BLOCK_K):
            sums = _add_products(
                sums, queries, is_query, values, is_row, centroids, weights, k,
                PLANES, BITS, WIDTH, BLOCK_K,
            )  # fmt: skip
    found = sums.to(tl.float32)
    if OUTLIERS:
        for e in range(OUTLIERS):  # unrolled, it takes more registers than there are
            column = tl.load(outlier_columns + e)
            packed = tl.load(values + column % WIDTH, is_row[:, None], 0).to(tl.int32)
            field = (packed >> (8 - BITS * (column // WIDTH + 1))) & (2**BITS - 1)
            value = tl.load(outlier_rows + code * OUTLIERS + e) + tl.load(outlier_weights + field)
            found += value * tl.load(
                query_outliers + query_rows * OUTLIERS + e, is_query[None, :], 0.0
            )
    if IS_INTEGER:
        scale = tl.load(scales + tokens, is_row, 0.0)
        is_number = tl.abs(scale) < float("inf")
        if BITS:
            is_number &= is_known
        found *= tl.where(is_number, scale, float("nan"))[:, None]
    return tl.where(is_row[:, None], found, float("-inf"))


@triton.jit
def _add_products(
    sums, queries, is_query, values, is_row, centroids, weights, k,
    PLANES: tl.constexpr, BITS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Sums and the products of columns [k, k + BLOCK_K) of every plane."""
    inner = k + tl.arange(0, BLOCK_K)
    is_inner = inner < WIDTH
    mask = is_row[:, None] & is_inner[None, :]
    x = tl.load(values + inner[None, :], mask, 0)
    for plane in tl.static_range(PLANES):
        column = plane * WIDTH + inner
        query = tl.load(queries + column[:, None], is_inner[:, None] & is_query[None, :], 0)
        if BITS:
            field = (x >> (8 - BITS * (plane + 1))) & (2**BITS - 1)
            centroid = tl.load(centroids + column[None, :], mask, 0)
            total = centroid + tl.load(weights + field.to(tl.int32))
            document = (total ^ 128).to(tl.int8, bitcast=True)
        else:
            document = x
        sums = tl.dot(document, query, sums, input_precision="ieee", out_dtype=sums.dtype)
    return sums


@triton.jit
def ranks(x):
    """int32 in the order of float32 x: equal zeros, NaN above all numbers."""
    bits = x.to(tl.int32, bitcast=True)
    signed = tl.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return tl.where(x == x, signed, 0x7FFFFFFF)


@triton.jit
def ranked(rank):
    """The float32 of such a number."""
    bits = tl.where(rank < 0, -0x80000000 - rank, rank)
    return bits.to(tl.float32, bitcast=True)
