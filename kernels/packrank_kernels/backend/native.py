"""The C++ module as functions on tensors: addresses and strides go no further than this file.

The module is optional: where it is not built, every call is refused with a sentence and the
reference runs. Arguments have been checked by the op's own module.
"""

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from packrank_kernels.packed import PackedHead, PackedTokens, Pages, Queries, RelativePositions

try:
    from packrank_kernels import _cpu
except ImportError as error:
    _missing: str | None = f"packrank_kernels._cpu is not built ({error}); reinstall with g++"
else:
    _missing = None

# Widest first.
ISAS = {
    "avx512": "AVX-512 with BF16 and VNNI",
    "avx2": "AVX2 with FMA",
    "scalar": "no special instructions",
}
_DTYPES = {torch.float32: 0, torch.bfloat16: 1}
# What a MaxSim multiplies: int8 stands for the residual formats too.
_MAXSIM = {**_DTYPES, torch.float16: 2, torch.int8: 3}
MAXSIM_DTYPES = tuple(_MAXSIM)
_AMX_COLUMNS = 32  # of a tile, in bfloat16
_WIDEST = 2**31 - 1  # no sequence is longer: offsets are int32
_num_threads: int | None = None  # until it is set, torch's
_ACTIVATIONS = {None: 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "silu": 4, "tanh": 5}


def why_not(
    isa: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    dtypes: Collection[torch.dtype] = tuple(_DTYPES),
    **facts: object,
) -> str | None:
    """None where this instruction set's kernels take tensors of this device and dtype."""
    if _missing is not None:
        return _missing
    if isa not in _start():
        return f"this processor lacks {ISAS[isa]}"
    if device.type != "cpu":
        return f"the tensors are on {device}, not on the CPU"
    if dtype not in dtypes:
        return f"the tensors are {dtype}, not {' or '.join(map(str, dtypes))}"
    return None


def why_not_amx(
    device: torch.device, dtype: torch.dtype, *, in_features: int = 0, **facts: object
) -> str | None:
    """None where AMX multiplies: linear layers in bfloat16 whose rows fill its tiles."""
    if _missing is None and "amx" not in _start():
        return "this processor lacks AMX with BF16, or the system does not let it be used"
    refusal = why_not("amx", device, dtype, dtypes=(torch.bfloat16,))
    if refusal is None and in_features % _AMX_COLUMNS:
        return f"its rows have {in_features} values, which do not fill tiles of {_AMX_COLUMNS}"
    return refusal


def pack_linear(isa: str, weight: Tensor, gated: bool) -> Tensor:
    """`weight` in the order `linear` reads it; gated halves are packed one after the other."""
    dtype = _DTYPES[weight.dtype]
    parts = weight.chunk(2) if gated else (weight,)
    out_features, in_features = parts[0].shape
    size = _cpu.packed_size(isa, dtype, out_features, in_features)
    packed = weight.new_empty(len(parts), size)
    for part, target in zip(parts, packed, strict=True):
        _cpu.pack_linear(isa, dtype, part.data_ptr(), target.data_ptr(), out_features, in_features)
    return packed.view(-1)


def set_num_threads(num_threads: int) -> None:
    """The kernels' own share of `threads.set_num_threads`."""
    global _num_threads
    _num_threads = num_threads
    if _missing is None:
        _cpu.set_num_threads(num_threads)


@functools.cache
def _start() -> frozenset[str]:
    """Before the first call: as many threads as torch has. Returns what this processor runs."""
    if _num_threads is None:
        set_num_threads(torch.get_num_threads())
    return frozenset(_cpu.supported())


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _strided(x: Tensor) -> tuple[int, int, int]:
    return x.data_ptr(), x.stride(0), x.stride(1)


def _attention(
    isa: str,
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
    **facts: object,
) -> Tensor:
    cos, sin = (None, None) if rotary is None else rotary
    out = q.new_empty(q.shape)
    _cpu.attention(
        isa,
        _DTYPES[q.dtype],
        *(_strided(q), _strided(k), _strided(v)),
        out.data_ptr(),
        cu_seqlens_q.data_ptr(),
        cu_seqlens_k.data_ptr(),
        _address(prefix_of),
        *(len(cu_seqlens_q) - 1, q.shape[1], k.shape[1], q.shape[2]),
        scale,
        softcap or 0.0,
        causal,
        -1 if window is None else min(window, _WIDEST),
        _address(cos),
        _address(sin),
        *_relative(relative),
    )
    return out


def _paged_attention(
    isa: str,
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
    **facts: object,
) -> Tensor:
    cos, sin = (None, None) if rotary is None else rotary
    out = q.new_empty(q.shape)
    keys, values = ((x.data_ptr(), *x.stride()[:3]) for x in (pages.keys, pages.values))
    index = (pages.table.data_ptr(), pages.lengths.data_ptr())
    _cpu.paged_attention(
        isa,
        _DTYPES[q.dtype],
        *(_strided(q), _strided(k), _strided(v)),
        (keys, values, *index, pages.table.shape[1], pages.keys.shape[1]),
        out.data_ptr(),
        cu_seqlens_q.data_ptr(),
        cu_seqlens_k.data_ptr(),
        *(len(pages.lengths), q.shape[1], k.shape[1], q.shape[2]),
        scale,
        softcap or 0.0,
        -1 if window is None else min(window, _WIDEST),
        _address(cos),
        _address(sin),
    )
    return out


def _relative(x: RelativePositions | None) -> tuple[int, int, int, int, int]:
    if x is None:
        return 0, 0, 0, 0, 0
    addresses = (_address(x.keys), _address(x.queries), _address(x.rows), _address(x.bias))
    return *addresses, len(x.rows) // 2 + 1


def _add_layer_norm(
    isa: str,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    normed = torch.empty_like(x)
    total = x if residual is None else torch.empty_like(x)
    _cpu.add_layer_norm(
        isa,
        _DTYPES[x.dtype],
        x.data_ptr(),
        _address(residual),
        weight.data_ptr(),
        _address(bias),
        normed.data_ptr(),
        0 if residual is None else total.data_ptr(),
        x.shape[0],
        x.shape[1],
        eps,
    )
    return normed, total


def _add_rms_norm(
    isa: str,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    normed = torch.empty_like(x)
    total = x if residual is None else torch.empty_like(x)
    _cpu.add_rms_norm(
        isa,
        _DTYPES[x.dtype],
        x.data_ptr(),
        _address(residual),
        weight.data_ptr(),
        normed.data_ptr(),
        0 if residual is None else total.data_ptr(),
        x.shape[0],
        x.shape[1],
        eps,
        scale,
    )
    return normed, total


def _embed_layer_norm(
    isa: str,
    token_ids: Tensor,
    positions: Tensor | None,
    token_types: Tensor | None,
    token_table: Tensor,
    position_table: Tensor | None,
    type_table: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    rows, size = len(token_ids), token_table.shape[1]
    out = token_table.new_empty(rows, size)
    _cpu.embed_layer_norm(
        isa,
        _DTYPES[token_table.dtype],
        token_ids.data_ptr(),
        _address(positions),
        _address(token_types),
        token_table.data_ptr(),
        _address(position_table),
        _address(type_table),
        weight.data_ptr(),
        _address(bias),
        out.data_ptr(),
        rows,
        size,
        eps,
    )
    return out


def _linear(
    isa: str,
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    activation: str | None,
    gated: bool,
    wide: bool = False,
) -> Tensor:
    rows, in_features = x.shape
    out_features = len(bias) // 2 if gated else len(bias)
    out = x.new_empty(rows, out_features, dtype=torch.float32 if wide else x.dtype)
    _cpu.linear(
        isa,
        _DTYPES[x.dtype],
        x.data_ptr(),
        x.stride(0),
        packed.data_ptr(),
        bias.data_ptr(),
        out.data_ptr(),
        rows,
        in_features,
        out_features,
        _ACTIVATIONS[activation],
        gated,
        wide,
    )
    return out


def _score_head(isa: str, hidden: Tensor, rows: Tensor | None, head: PackedHead) -> Tensor:
    pooled = (hidden if rows is None else hidden.index_select(0, rows)).float()
    y = _linear(isa, pooled, head.dense, head.dense_bias, head.activation, False)
    if head.norm_weight is not None:
        y, _ = _add_layer_norm(isa, y, None, head.norm_weight, head.norm_bias, head.norm_eps)
    return _linear(isa, y, head.out, head.out_bias, None, False)


def _maxsim(
    isa: str,
    queries: Queries,
    documents: PackedTokens,
    candidates: Tensor | None,
    owners: Tensor | None,
) -> Tensor:
    count = len(documents) if candidates is None else len(candidates)
    shape = (len(queries.starts) - 1, count) if owners is None else (count,)
    scores = documents.values.new_empty(shape, dtype=torch.float32)
    with _arguments(queries, documents) as (stored, outliers, asked):
        chosen = (_address(candidates), _address(owners), count)
        _cpu.maxsim(isa, stored, outliers, asked, chosen, scores.data_ptr())
    return scores


def _matches(
    isa: str, queries: Queries, documents: PackedTokens, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    shape = len(candidates), len(queries.values)
    tokens = candidates.new_empty(shape, dtype=torch.int32)
    scores = candidates.new_empty(shape, dtype=torch.float32)
    with _arguments(queries, documents) as (stored, outliers, asked):
        chosen = (candidates.data_ptr(), 0, len(candidates))
        _cpu.matches(isa, stored, outliers, asked, chosen, scores.data_ptr(), tokens.data_ptr())
    return tokens, scores


@contextmanager
def _arguments(
    queries: Queries, documents: PackedTokens
) -> Iterator[tuple[tuple[int, ...], tuple[int, int, int, int, int], tuple[int, ...]]]:
    """Documents, their outlying dimensions and queries as _cpu reads them, for the block."""
    values, dtype = queries.values, _MAXSIM[queries.values.dtype]
    if values.dtype == torch.float16:  # its products are float32's: the processors have none
        values = values.float()
    starts = torch.tensor(queries.starts, dtype=torch.int64, device=values.device)
    codec = documents.codec
    outliers = None if codec is None else codec.outliers
    yield (
        (
            dtype,
            0 if codec is None else codec.bits,
            documents.values.data_ptr(),
            _address(documents.scales),
            _address(documents.codes),
            0 if codec is None else codec.rows.data_ptr(),
            0 if codec is None else codec.weights.data_ptr(),
            0 if codec is None else len(codec.rows),
            documents.cu_seqlens.data_ptr(),
            documents.size,
        ),
        (
            0 if outliers is None else len(outliers.columns),
            0 if outliers is None else outliers.columns.data_ptr(),
            0 if outliers is None else outliers.rows.data_ptr(),
            0 if outliers is None else outliers.weights.data_ptr(),
            _address(queries.outliers),
        ),
        (
            values.data_ptr(),
            _address(queries.weights),
            starts.data_ptr(),
            len(queries.starts) - 1,
        ),
    )


def _stream(isa: str, x: Tensor, out: Tensor | None, shares: int, repeats: int) -> Tensor:
    largest = x.new_empty(shares)
    _cpu.stream(isa, x.data_ptr(), _address(out), largest.data_ptr(), len(x), shares, repeats)
    return largest.max() if out is None else out


# Ops of `dispatch.TABLE`; the first argument of each is the instruction set.
OPS: dict[str, Callable[..., Any]] = {
    "attention": _attention,
    "paged_attention": _paged_attention,
    "add_layer_norm": _add_layer_norm,
    "add_rms_norm": _add_rms_norm,
    "embed_layer_norm": _embed_layer_norm,
    "linear": _linear,
    "score_head": _score_head,
    "maxsim": _maxsim,
    "matches": _matches,
    "stream": _stream,
}
