"""Packed attention in Triton: Q, K and V are read where they lie, and nothing is padded.

One program makes the rows of one tile of BLOCK_M queries of one sequence, for one head. It has two
forms. *One tile*: all keys of the sequence at once, so neither running maximum nor rescaling; taken
where max_seqlen_k promises at most 256 keys. *Online*: blocks of BLOCK_N keys one after the other
(Milakov and Gimelshein 2018; FlashAttention-2, Dao 2023), for any length; blocks that window or
causality hides are skipped. A shared prefix is so many blocks more, read where it lies.

A sequence's tiles are numbered from cu_seqlens_q[n] // BLOCK_M + n, which rises by at least as many
as sequence n has, so the grid follows from the shapes alone and wastes at most one tile a sequence.

Tiles of at least 64 queries run on a Hopper device's wgmma, tiles of 16 (one query a sequence) on
mma.sync; float32 takes no tensor cores. Heads are padded to a power of two: 96 costs what 128 does.

Heads that share keys lie beside each other in the grid, so that all but the first of them find the
keys in the second-level cache.

Bits: a program reads nothing of other sequences but its prefix, and its blocks of keys are counted
from the start of either. What company can change is the configuration, since it follows the largest
lengths: BLOCK_N of the one-tile form (the order in which a row's weights are summed), BLOCK_M and
warps (the matrix instruction). With `deterministic` neither length is looked at: one configuration
a head size and dtype.

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
from torch import Tensor

from packrank_kernels.backend.triton import early_launch
from packrank_kernels.backend.triton.attend import FAN, attend
from packrank_kernels.backend.triton.variants import Variant
from packrank_kernels.packed import RelativePositions

_LOG2E = math.log2(math.e)
_LEAST = 2.0**-126  # the least normal number: -inf times zero would not be -inf


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
    prefix_of: Tensor | None,
    softcap: float | None,
    relative: RelativePositions | None,
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
    if prefix_of is not None:
        max_seqlen_k = None  # one tile would have to hold two pieces
    keys, queries, rows, bias, positions = None, None, None, None, 0
    if relative is not None:
        keys, queries, rows, bias = relative.keys, relative.queries, relative.rows, relative.bias
        positions = len(rows) // 2 + 1
    config = configuration(
        size,
        q.dtype,
        max_seqlen_q,
        max_seqlen_k,
        deterministic,
        _is_hopper(q.device),
        keys is not None or queries is not None,
        bias is not None,
    )
    squash = scale if softcap is None else scale / softcap
    if softcap is not None:
        scale = softcap
    cos, sin = rotary or (None, None)
    if bias is not None:
        scale = 1.0
    step = 1
    while step * FAN.value < num_sequences:
        step *= FAN.value
    attend[((total // config.block_m + num_sequences) * heads,)](
        *(q, k, v, out, cu_seqlens_q, cu_seqlens_k, prefix_of, cos, sin, keys, queries, rows),
        *(bias, num_sequences, step, heads, heads // k.shape[1], positions),
        *(*q.stride()[:2], *k.stride()[:2], *v.stride()[:2]),
        max(squash, _LEAST),
        max(scale * _LOG2E, _LEAST),
        min(window or 0, 2**30),
        SIZE=size,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        ONE_TILE=config.one_tile,
        HAS_WINDOW=window is not None,
        HAS_ROTARY=rotary is not None,
        IS_CAUSAL=causal,
        HAS_SOFTCAP=softcap is not None,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **early_launch.options(),
    )
    return out


def configuration(
    size: int,
    dtype: torch.dtype,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    deterministic: bool = False,
    is_hopper: bool = True,
    is_relative: bool = False,
    is_biased: bool = False,
) -> Config:
    """The tiling of a call: from these alone, and from neither length if deterministic.

    Chosen by machine code, not by timings: as much in flight on a multiprocessor as registers and
    shared memory allow, no spills (`variants` is checked). Queries of 65 to 128 keys come in tiles
    of 128, so that keys and values are read once; where no sequence has more than 64 queries, as
    behind a prefix, in tiles of 64.
    """
    width = _padded(size)
    if is_relative:
        return _relative_configuration(width, dtype, None if deterministic else max_seqlen_q)
    if is_biased:
        return _biased_configuration(width, dtype, None if deterministic else max_seqlen_q)
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
    if max_seqlen_q is not None and max_seqlen_q <= 64 and width <= 128:
        return Config(False, 64, 64, 4, 2) if width <= 64 else Config(False, 64, 32, 4, 3)
    return Config(False, 128, 64, 8, 3) if width <= 128 else Config(False, 128, 32, 8, 2)


def _relative_configuration(width: int, dtype: torch.dtype, max_seqlen_q: int | None) -> Config:
    """By machine code: four warps would spill what the distances of such blocks take."""
    if dtype == torch.float32 or max_seqlen_q == 1 or width > 128:
        return Config(False, 16, 16, 4, 1)
    return Config(False, 64, 64 if width <= 64 else 32, 8, 1)


def _biased_configuration(width: int, dtype: torch.dtype, max_seqlen_q: int | None) -> Config:
    """By machine code: float32 would spill in blocks of fewer keys."""
    if dtype == torch.float32 and width <= 128:
        return Config(False, 16, 32, 4, 1)
    if dtype == torch.float32 or max_seqlen_q == 1 or width > 128:
        return Config(False, 16, 16, 4, 1)
    return Config(False, 64, 64, 4, 2) if width <= 64 else Config(False, 64, 32, 4, 3)


def variants() -> Iterator[Variant]:
    """What the launcher picks on a Hopper device for the encoders and decoders that there are.

    Heads of 64 and 128 are those of Llama, Mistral, Qwen and MiniCPM, of 256 of Gemma.
    """
    half, decoder = torch.float16, "rotary causal"
    for size in (32, 64, 96, 128, 256):
        yield from _variants(size, half, "")
        yield from _variants(size, torch.float32, "")
    yield from _variants(64, half, "rotary")
    yield from _variants(64, half, "early")
    for dtype in (half, torch.bfloat16, torch.float32):
        yield from _variants(64, dtype, "relative")
    yield from _variants(128, half, "relative")
    for dtype in (half, torch.float32):
        yield from _variants(64, dtype, "window rotary")
    for size in (64, 128, 256):
        yield from _variants(size, half, decoder)
        yield from _variants(size, half, decoder + " prefix")
    yield from _variants(128, half, decoder + " window prefix")
    for forms in ("", " window", " prefix", " window prefix"):
        yield from _variants(256, half, decoder + " softcap" + forms)
    for dtype in (torch.bfloat16, torch.float32):
        yield from _variants(128, dtype, decoder + " prefix")
        yield from _variants(256, dtype, decoder + " softcap window prefix")
        for size in (64, 128):  # of T5, and of its 11b
            yield from _variants(size, dtype, "bias")
    yield from _variants(64, torch.bfloat16, "causal bias")


def _variants(size: int, dtype: torch.dtype, forms: str) -> Iterator[Variant]:
    bounds = [(None, keys) for keys in (32, 64, 128, 256, None)] + [(64, None), (1, None)]
    short = str(dtype).removeprefix("torch.")
    pointer = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32"}[short]
    tensors = dict.fromkeys(("q", "k", "v", "out"), pointer)
    tensors |= dict.fromkeys(("cu_seqlens_q", "cu_seqlens_k"), "*i32")
    tensors |= dict.fromkeys(("cos", "sin"), "*fp32" if "rotary" in forms else "constexpr")
    tensors |= {"prefix_of": "*i32" if "prefix" in forms else "constexpr"}
    is_relative = "relative" in forms
    tables = pointer if is_relative else "constexpr"
    tensors |= dict.fromkeys(("position_keys", "position_queries"), tables)
    is_biased = "bias" in forms
    tensors |= {"position_rows": "*i32" if is_relative or is_biased else "constexpr"}
    tensors |= {"position_bias": "*fp32" if is_biased else "constexpr"}
    strides = [f"{x}_{y}" for x in "qkv" for y in ("row", "head")]
    configurations = (
        configuration(size, dtype, queries, keys, is_relative=is_relative, is_biased=is_biased)
        for queries, keys in bounds
    )
    for config in dict.fromkeys(configurations):
        if "prefix" in forms and config.one_tile:
            continue
        constexprs: dict[str, object] = {
            "SIZE": size,
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
            "ONE_TILE": config.one_tile,
            "HAS_WINDOW": "window" in forms,
            "HAS_ROTARY": "rotary" in forms,
            "IS_CAUSAL": "causal" in forms,
            "HAS_SOFTCAP": "softcap" in forms,
            "EARLY": "early" in forms,
        }
        constexprs |= {name: None for name, kind in tensors.items() if kind == "constexpr"}
        yield Variant(
            name=f"attention {short} {size} {forms or 'plain'} {config}",
            kernel=attend,
            signature=tensors
            | dict.fromkeys(
                ["num_sequences", "step", "heads", "heads_per_key", "num_positions", *strides],
                "i32",
            )
            | {"squash": "fp32", "scale": "fp32", "window": "i32"}
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
