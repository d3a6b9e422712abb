"""The CUDA C++ module as functions on tensors: addresses, strides and streams go no further.

The module is optional: it is built where nvcc is found. Without it every call is refused with a
sentence. Arguments have been checked by the op's own module.
"""

import functools

import torch
from torch import Tensor

try:
    from packrank_kernels import _cuda
except ImportError as error:
    _missing: str | None = f"packrank_kernels._cuda cannot be loaded ({error}); reinstall with nvcc"
else:
    _missing = None

_DTYPES = {torch.float16: 0, torch.bfloat16: 1}
_HEAD_SIZES = (32, 64)


def why_not(
    device: torch.device,
    dtype: torch.dtype,
    *,
    head_size: int | None = None,
    heads_per_key: int = 1,
    causal: bool = False,
    softcapped: bool = False,
    relative: bool = False,
    rotary: bool = False,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = 1,
    deterministic: bool = False,
    **facts: object,
) -> str | None:
    """None where the attention kernel takes such a call.

    `attention` gives max_seqlen_k = None where its caller does not know it; not to give it at all,
    as `packrank info` does, is not held against the kernel.
    """
    if _missing is not None:
        return _missing
    if device.type != "cuda":
        on = f"the tensors are on {device}, not on a CUDA device"
        return f"packrank_kernels._cuda is loaded, but {on}"
    if _capability(device) < (8, 0):
        return "the device's compute capability is below 8.0"
    if dtype not in _DTYPES:
        return f"the tensors are {dtype}, not torch.float16 or torch.bfloat16"
    if head_size is not None and head_size not in _HEAD_SIZES:
        return f"the head size is {head_size}, not 32 or 64"
    if causal or heads_per_key > 1:
        return "it has neither causal attention nor grouped queries"
    if softcapped:
        return "it does not cap products"
    if relative:
        return "it knows no relative positions"
    if rotary:
        return "it does not rotate queries and keys"
    if deterministic:
        return "whether it runs or another does would depend on the longest sequence"
    if max_seqlen_q == 1:
        return None
    if max_seqlen_k is None:
        return "max_seqlen_k is not given, and it takes sequences of up to 256 keys"
    if max_seqlen_k > _cuda.MOST_KEYS:
        return f"a sequence may have {max_seqlen_k} keys, more than {_cuda.MOST_KEYS}"
    return None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    scale: float,
    window: int | None,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    **facts: object,
) -> Tensor:
    """See `attention.attention`. Queued on the current stream.

    May be captured in a CUDA graph after one call outside of it. Where max_seqlen_q is 1 another
    kernel runs, for any number of keys, whose bits differ: they depend on that argument, never on
    the other sequences.
    """
    q, k, v = _aligned(q), _aligned(k), _aligned(v)
    out = q.new_empty(q.shape)
    with torch.cuda.device(q.device):
        _cuda.attention(
            torch.cuda.current_device(),
            torch.cuda.current_stream().cuda_stream,
            _DTYPES[q.dtype],
            _strided(q),
            _strided(k),
            _strided(v),
            out.data_ptr(),
            cu_seqlens_q.data_ptr(),
            cu_seqlens_k.data_ptr(),
            len(q),
            len(cu_seqlens_q) - 1,
            q.shape[1],
            q.shape[2],
            scale,
            -1 if window is None else min(window, 2**62),
            max_seqlen_k or 0,
            max_seqlen_q == 1,
        )
    return out


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _aligned(x: Tensor) -> Tensor:
    """`x` where the kernel can read it 16 bytes at a time, else a copy."""
    strides = x.stride(0), x.stride(1)
    if x.data_ptr() % 16 == 0 and not any(stride % 8 for stride in strides):
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _strided(x: Tensor) -> tuple[int, int, int]:
    return x.data_ptr(), x.stride(0), x.stride(1)
