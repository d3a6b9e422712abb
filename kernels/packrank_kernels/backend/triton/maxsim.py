"""MaxSim in Triton: maxima of every query token in every document, then their sums.

The documents to score lie end to end, each followed by one tile's worth of nothing, which stands
for what it costs to begin one. That line is cut into equal *shares*, one a program, as many as run
at a time: lengths may be as skewed as they like. Tiles are counted from the start of their own
document; a tile is done in the share where it begins. A share's first document may have begun in an
earlier share: its maxima go to `parts`, one row a share, every other document's to `maxima`. The
second kernel takes the maximum over a document's pieces, which is exact, and sums in the order of
`maxsim`'s module. So a document has the same bits wherever it lies and whatever it lies with.

Offsets come from `cu_seqlens`, or for candidates from sums on the device: the host reads nothing.

The queries' tokens are columns, those of all queries side by side, BLOCK_N a program: up to 128
share one read and one decoding of a document, and programs of the same share run together, so that
further blocks of columns find the documents in the cache.

Floor, by arithmetic: a token's bytes once (`PackedTokens.bytes_per_token`), or 2 R D operations.
Beside them 8 R bytes a document, written and read, and for residual codes a centroid's row of D
bytes a token, from the second-level cache. What bounds those is decoding: some 11 instructions a
dimension, counted in the machine code.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
import triton
from torch import Tensor

from packrank_kernels.backend.triton.maxima import FAN, matches_kernel, maxima_kernel, sums_kernel
from packrank_kernels.backend.triton.variants import Variant
from packrank_kernels.packed import BITS, FLOATS, PackedTokens, Queries

_MAXIMA_AT_ONCE = 1 << 26  # 256 MB
_SUMS = {"BLOCK_P": 16}  # documents of a summing program
_SUMS_WARPS = 4


@dataclass(frozen=True)
class Config:
    """How products are tiled.

    Attributes:
        block_m: document tokens.
        block_n: query tokens.
        block_k: dimensions (of a plane, in residual codes) at a time.
        warps: of a program.
        stages: depth of the pipeline.
        programs: how many fit a multiprocessor at a time.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    programs: int


def configuration(format: str, size: int, query_tokens: int) -> Config:
    """The tiling for documents of a format and size and so many query tokens.

    Chosen by machine code, not by timings: rows whole where they are short, so that the queries
    stay in shared memory, and at most 99 KiB of that, which every device from 8.0 on has. The order
    of sums follows from block_k alone, and that from format and size.
    """
    widest = 32 if format == "float32" else 128
    columns = triton.cdiv(query_tokens, max(triton.cdiv(query_tokens, widest), 1))
    block_n = max(16, triton.next_power_of_2(columns))
    if format == "float32":
        return Config(64, block_n, 16, 4, 3, programs=4)
    is_residual, planes = format in BITS, 8 // BITS.get(format, 8)
    whole, step = (256 // planes, 128 // planes) if is_residual or format == "int8" else (128, 64)
    width = size // planes
    block_k = max(32, triton.next_power_of_2(width) if width <= whole else step)
    warps = 8 if is_residual and block_n == 128 else 4
    programs = {64: 3, 128: 2}.get(block_n, 4)
    if is_residual:  # what decodes takes registers
        programs = 1 if warps == 8 else 2
    return Config(64, block_n, block_k, warps, 3, programs)


def maxsim(
    queries: Queries,
    documents: PackedTokens,
    candidates: Tensor | None,
    owners: Tensor | None,
) -> Tensor:
    """[M, K] scores, or [K] where candidates have owners; see `reference.maxsim`."""
    firsts, offsets = _places(documents, candidates)
    num_queries, total = len(queries.starts) - 1, len(firsts)
    rows = num_queries if owners is None else 1
    scores = documents.values.new_empty(rows, total, dtype=torch.float32)
    # Runs of queries of one length: how many, and how long.
    lengths = [stop - start for start, stop in pairwise(queries.starts)]
    runs = [(len(list(run)), length) for length, run in groupby(lengths)]
    starts, columns = None, queries.starts[-1]
    if owners is not None:  # a copy to the device, which a graph cannot hold
        starts = torch.tensor(queries.starts, device=owners.device)
        columns = max(lengths, default=0)
        runs = [(1, columns)]
    config = configuration(documents.format, documents.size, columns)
    blocks = triton.cdiv(columns, config.block_n)
    shares = _shares(config.programs * _processors(documents.device), blocks)
    step = min(max(_MAXIMA_AT_ONCE // max(columns, 1), 1), total)
    maxima = scores.new_empty(step, columns)
    parts = scores.new_empty(shares, columns)
    for start in range(0, total, step) if scores.numel() else ():
        stop = min(start + step, total)
        places = firsts[start:stop], offsets[start : stop + 1]
        some = None if owners is None else owners[start:stop]
        if columns:
            maxima_kernel[(shares * blocks,)](
                *(queries.values, starts, some),
                *_tensors(queries, documents),
                *(*places, maxima, parts),
                *(stop - start, columns, shares, _first_step(stop - start)),
                **_constants(documents, config),
            )
        m = row = 0
        for count, length in runs:
            sums_kernel[(triton.cdiv(stop - start, _SUMS["BLOCK_P"]) * count,)](
                *(maxima, parts, queries.weights, starts, some),
                None if candidates is None else candidates[start:stop],
                *(places[1], scores[m:, start:stop]),
                *(stop - start, len(documents), total, columns, shares),
                *(row, count, length),
                BLOCK_M=config.block_m,
                **_SUMS,
                num_warps=_SUMS_WARPS,
                num_stages=1,
                enable_fp_fusion=False,
            )
            m, row = m + count, row + count * length
    return scores if owners is None else scores[0]


def matches(queries: Queries, documents: PackedTokens, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """([K, Q] int32, [K, Q] float32); see `reference.matches`."""
    firsts, offsets = _places(documents, candidates)
    shape = total, columns = len(firsts), len(queries.values)
    tokens = candidates.new_empty(shape, dtype=torch.int32)
    scores = documents.values.new_empty(shape, dtype=torch.float32)
    if scores.numel():
        config = configuration(documents.format, documents.size, columns)
        matches_kernel[(total, triton.cdiv(columns, config.block_n))](
            *(queries.values, queries.weights),
            *_tensors(queries, documents),
            *(firsts, offsets, candidates, tokens, scores),
            *(len(documents), columns),
            **_constants(documents, config),
        )
    return tokens, scores


def _places(documents: PackedTokens, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
    """First rows [K] of the documents to score, and [K + 1] where they lie if laid end to end.

    A candidate that is no document has no tokens.
    """
    starts = documents.cu_seqlens
    if candidates is None:
        return starts[:-1], starts
    total = len(documents)
    ids = candidates.clamp(-1, total)
    firsts = starts[ids.clamp(min=0)]
    offsets = starts.new_zeros(len(ids) + 1)
    torch.cumsum(starts[(ids + 1).clamp(max=total)] - firsts, 0, out=offsets[1:])
    return firsts, offsets


def _tensors(queries: Queries, documents: PackedTokens) -> tuple[Tensor | int | None, ...]:
    codec = documents.codec
    outliers = None if codec is None else codec.outliers
    return (
        *(documents.values, documents.scales, documents.codes),
        *((None, None, 0) if codec is None else (codec.rows, codec.weights, len(codec.rows))),
        *((None,) * 3 if outliers is None else (outliers.columns, outliers.rows, outliers.weights)),
        queries.outliers,
    )


def _constants(documents: PackedTokens, config: Config) -> dict[str, int]:
    codec = documents.codec
    outliers = None if codec is None else codec.outliers
    return {
        "SIZE": documents.size,
        "BITS": 0 if codec is None else codec.bits,
        "OUTLIERS": 0 if outliers is None else len(outliers.columns),
        # Sums of outlying products have the bits of other devices.
        "enable_fp_fusion": outliers is None,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "num_warps": config.warps,
        "num_stages": config.stages,
    }


def _shares(places: int, blocks: int) -> int:
    """How many shares, where so many programs run at a time and a share has so many blocks.

    As few rounds of programs as leave at most an eighth of the places empty.
    """
    for rounds in range(1, 9):
        shares = rounds * places // max(blocks, 1)
        if 8 * shares * blocks >= 7 * rounds * places:
            break
    return max(shares, 1)


def _first_step(count: int) -> int:
    """Of a search among so many, FAN at a time."""
    step = 1
    while step * FAN.value < count:
        step *= FAN.value
    return step


@functools.cache
def _processors(device: torch.device) -> int:
    """Multiprocessors; the interpreter, on the CPU, is given two."""
    if device.type == "cpu":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


def variants() -> Iterator[Variant]:
    """What the launchers compile for models' sizes on a Hopper device: see `variants.Variant`."""
    for format in ("float16", "int8", "4bit", "2bit"):
        for size, query_tokens in ((128, 8), (128, 32), (128, 64), (128, 128), (96, 32), (768, 32)):
            yield _products_variant(maxima_kernel, format, size, query_tokens)
    for format in ("8bit", "1bit"):
        for size in (128, 768):
            yield _products_variant(maxima_kernel, format, size, 32)
    for format in ("bfloat16", "4bit"):
        yield _products_variant(maxima_kernel, format, 128, 32, owned=True)
    for format in ("float16", "2bit"):
        yield _products_variant(matches_kernel, format, 128, 32)
    for kernel, format, outliers in (
        *((maxima_kernel, "4bit", outliers) for outliers in (1, 8)),
        (matches_kernel, "2bit", 3),
    ):
        yield _products_variant(kernel, format, 128, 32, outliers=outliers)
    yield _products_variant(maxima_kernel, "float32", 128, 32)
    yield _sums_variant(weighted=True, owned=False)
    yield _sums_variant(weighted=False, owned=True)


def _products_variant(
    kernel: Any,
    format: str,
    size: int,
    query_tokens: int,
    owned: bool = False,
    outliers: int = 0,
) -> Variant:
    config = configuration(format, size, query_tokens)
    bits = BITS.get(format, 0)
    value = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16", "int8": "*i8"}
    one = value.get(format, "*u8")
    signature = {"queries": "*i8" if bits else one, "values": one, "num_centroids": "i32"}
    signature |= dict.fromkeys(("firsts", "offsets"), "*i64") | {"num_columns": "i32"}
    if format not in FLOATS:
        signature |= {"scales": "*fp32"}
    if bits:
        signature |= {"codes": "*i32", "centroids": "*u8", "weights": "*u8"}
    if outliers:
        signature |= {"outlier_columns": "*i32", "query_outliers": "*fp32"}
        signature |= {"outlier_rows": "*fp32", "outlier_weights": "*fp32"}
    if kernel is matches_kernel:
        signature |= {"candidates": "*i64", "tokens": "*i32", "scores": "*fp32", "num_all": "i32"}
        signature |= {} if format in FLOATS else {"query_weights": "*fp32"}
    else:
        signature |= dict.fromkeys(("maxima", "parts"), "*fp32")
        signature |= dict.fromkeys(("num_documents", "shares", "step"), "i32")
    if owned:
        signature |= {"starts": "*i64", "owners": "*i32"}
    constants: dict[str, object] = {
        "SIZE": size,
        "BITS": bits,
        "OUTLIERS": outliers,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
    }
    name = "matches" if kernel is matches_kernel else "maxima"
    loose = ("firsts", "offsets", "candidates", "owners")
    return Variant(
        name=f"maxsim {name} {format} {size} {query_tokens}{' owned' if owned else ''}"
        f"{f' outliers {outliers}' if outliers else ''}",
        kernel=kernel,
        signature=signature,
        constexprs=constants,
        num_warps=config.warps,
        num_stages=config.stages,
        aligned=frozenset(x for x in signature if signature[x][0] == "*" and x not in loose),
        matrix=format != "float32",
        programs=config.programs,
        fused=not outliers,
    )


def _sums_variant(weighted: bool, owned: bool) -> Variant:
    signature = dict.fromkeys(("maxima", "parts", "scores"), "*fp32") | {"offsets": "*i64"}
    if weighted:
        signature |= {"weights": "*fp32"}
    if owned:
        signature |= {"starts": "*i64", "owners": "*i32", "candidates": "*i64"}
    sizes = ("num_documents", "num_all", "scores_row", "num_columns", "shares")
    signature |= dict.fromkeys((*sizes, "first_row", "num_queries", "query_tokens"), "i32")
    return Variant(
        name=f"maxsim sums{' weighted' if weighted else ''}{' owned' if owned else ''}",
        kernel=sums_kernel,
        signature=signature,
        constexprs={"BLOCK_M": 64, **_SUMS},
        num_warps=_SUMS_WARPS,
        num_stages=1,
        aligned=frozenset(x for x in ("maxima", "parts", "weights", "starts") if x in signature),
    )
