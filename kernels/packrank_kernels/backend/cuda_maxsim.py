"""MaxSim of the CUDA C++ module, for compute capability 9.0, as a function on tensors.

See `cuda` for the module. Nothing here waits for the device or depends on what it holds.
"""

import functools
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from packrank_kernels.packed import PackedCodec, PackedTokens, Queries

try:
    from packrank_kernels import _cuda
except ImportError as error:
    _missing: str | None = f"packrank_kernels._cuda cannot be loaded ({error}); reinstall with nvcc"
else:
    _missing = None

FORMATS = {"float16": 0, "bfloat16": 1, "int8": 2, "4bit": 3, "2bit": 4}
# What a size must be a multiple of: 16 bytes, and 8 of any of a 2-bit row's four planes.
_MULTIPLES = {torch.float16: 8, torch.bfloat16: 8, torch.int8: 32}
# Whether documents leave the L2 cache first, where a kernel can be told so: a switch of benchmarks,
# which goes when they have said whether it is worth it.
EVICTS_FIRST = False
_MAXIMA_AT_ONCE = 1 << 26  # 256 MB
# Query tokens of one launch, which takes several passes over the documents to do so many.
_COLUMNS_AT_ONCE = 4096


def why_not(
    device: torch.device,
    dtype: torch.dtype,
    *,
    size: int | None = None,
    format: str | None = None,
    outlies: bool = False,
    **facts: object,
) -> str | None:
    """None where the kernel takes such a call; `dtype` is that of the queries' values."""
    if _missing is not None:
        return _missing
    if device.type != "cuda":
        on = f"the tensors are on {device}, not on a CUDA device"
        return f"packrank_kernels._cuda is loaded, but {on}"
    major, minor = _capability(device)
    if major != 9:
        return f"it needs compute capability 9.0, the device has {major}.{minor}"
    if dtype not in _MULTIPLES:
        return f"the tensors are {dtype}, not {', '.join(map(str, _MULTIPLES))}"
    if format not in (None, *FORMATS):
        return f"the documents are in {format}, not {', '.join(FORMATS)}"
    if outlies:
        return "dimensions of the documents' codec outlie, and it multiplies bytes alone"
    if size is None:
        return None
    if size < 1 or size % _MULTIPLES[dtype]:
        return f"the size is {size}, not a multiple of {_MULTIPLES[dtype]}"
    most = _cuda.MAXSIM_MOST_ROW_BYTES // dtype.itemsize
    if size > most:
        return f"the size is {size}, more than {most}"
    return None


def maxsim(
    queries: Queries,
    documents: PackedTokens,
    candidates: Tensor | None,
    owners: Tensor | None,
) -> Tensor:
    """[M, K] scores, or [K] where candidates have owners; see `maxsim.maxsim`.

    Queued on the current stream, without a synchronisation. May be captured in a CUDA graph after
    one call outside of it.
    """
    starts, num_queries = queries.starts, len(queries.starts) - 1
    is_flat = owners is not None
    if num_queries == 1:
        owners = None  # the same, and more of a multiprocessor has work
    elif owners is None and starts[-1] > _COLUMNS_AT_ONCE:
        middle = num_queries // 2
        halves = _some(queries, 0, middle), _some(queries, middle, num_queries)
        return torch.cat([maxsim(half, documents, candidates, None) for half in halves])
    count = len(documents) if candidates is None else len(candidates)
    lengths = (b - a for a, b in pairwise(starts))
    columns = starts[-1] if owners is None else max(lengths, default=0)
    kind, codec = FORMATS[documents.format], documents.codec
    rows, values = _aligned(queries.values), _aligned(documents.values)
    shape = (num_queries, count) if owners is None else (count,)
    scores = torch.empty(shape, dtype=torch.float32, device=documents.device)
    with torch.cuda.device(documents.device):
        index, stream = torch.cuda.current_device(), torch.cuda.current_stream().cuda_stream
        width, ranges = _cuda.maxsim_plan(index, kind, documents.size, columns, owners is not None)
        step = max(_MAXIMA_AT_ONCE // width, 1)
        maxima = scores.new_empty(min(count, step), width)
        partial = scores.new_empty(ranges, 2, width)
        query_starts = scores.new_empty(num_queries + 1, dtype=torch.int32)
        for first in range(0, count, step):
            last = min(first + step, count)
            part, ids, laid = documents, None, None
            if candidates is None:
                part = documents.slice(first, last)
            else:
                ids = candidates[first:last]
                laid = row_starts(ids, documents.cu_seqlens)
            own = None if owners is None else owners[first:last]
            _cuda.maxsim(
                index,
                stream,
                kind,
                documents.size,
                (_address(rows), _address(queries.weights), _address(query_starts)),
                starts,
                (_address(values), _address(documents.scales), _address(documents.codes)),
                (0, 0, 0) if codec is None else _codec(codec),
                (_address(part.cu_seqlens), len(part)),
                (_address(ids), _address(own), _address(laid)),
                last - first,
                (_address(maxima), _address(partial), _address(scores[..., first:])),
                count,
                EVICTS_FIRST,
            )
    return scores[0] if is_flat and owners is None else scores


def _some(queries: Queries, first: int, last: int) -> Queries:
    starts = queries.starts[first : last + 1]
    rows = slice(starts[0], starts[-1])
    return replace(
        queries,
        values=queries.values[rows],
        weights=None if queries.weights is None else queries.weights[rows],
        starts=tuple(start - starts[0] for start in starts),
    )


def row_starts(candidates: Tensor, cu_seqlens: Tensor) -> Tensor:
    """[K + 1] int64: where each candidate would start, were their rows laid end to end.

    A candidate that is no document has no rows.
    """
    starts = cu_seqlens.new_zeros(len(candidates) + 1)
    if len(cu_seqlens) > 1:
        inside = (candidates >= 0) & (candidates < len(cu_seqlens) - 1)
        safe = candidates.where(inside, 0)
        lengths = cu_seqlens[safe + 1] - cu_seqlens[safe]
        torch.cumsum(lengths.where(inside, 0), 0, out=starts[1:])
    return starts


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _aligned(x: Tensor) -> Tensor:
    """`x`, contiguous, where the kernel can read it 16 bytes at a time, else a copy."""
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _codec(codec: PackedCodec) -> tuple[int, int, int]:
    return codec.rows_by_word.data_ptr(), codec.weights.data_ptr(), len(codec.rows)
