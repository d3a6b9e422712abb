"""Attention by others: flash-attn where it is installed, and torch's own packed attention.

Both are adapted by signature, since both change from release to release. Both are FlashAttention,
which aligns the ends of queries and keys where `attention.attention` aligns their starts, unless it
is causal; a query that sees no key gets zeros from both.
"""

import contextlib
import functools
import importlib
import inspect
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

_FUNCTION = "flash_attn_varlen_func"
# Where FlashAttention 4, 3 and 2 keep it, and the compute capabilities (major) that each is for.
_FLASH_MODULES = {
    "flash_attn.cute": range(9, 12),
    "flash_attn_interface": range(9, 10),
    "flash_attn_3.flash_attn_interface": range(9, 10),
    "flash_attn": range(8, 100),
}
_WIDEST = 2**30  # window: both take int32


def why_not_torch(device: torch.device, dtype: torch.dtype, **facts: Any) -> str | None:
    """None where torch.nn.attention.varlen takes such a call."""
    reason = _why_not(device, dtype, **facts)
    if reason is not None:
        return reason
    function = _torch_function()
    if function is None:
        return "this torch has no packed attention"
    if facts.get("heads_per_key", 1) > 1 and "enable_gqa" not in _defaults(function):
        return "this torch's packed attention has no grouped queries"
    return None


def why_not_flash(device: torch.device, dtype: torch.dtype, **facts: Any) -> str | None:
    """None where an installed flash-attn takes such a call."""
    reason = _why_not(device, dtype, **facts)
    if reason is None and _flash_function(_major(device)) is None:
        return "no flash-attn for this device is installed"
    return reason


def _why_not(
    device: torch.device,
    dtype: torch.dtype,
    *,
    head_size: int = 8,
    unequal: bool = False,
    positional: bool = False,
    rotary: bool = False,
    causal: bool = False,
    prefixed: bool = False,
    softcapped: bool = False,
    relative: bool = False,
    deterministic: bool = False,
    **facts: object,
) -> str | None:
    """Why FlashAttention does not take such a call, in any release."""
    if device.type != "cuda":
        return f"the tensors are on {device}, not on a CUDA device"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"the tensors are {dtype}, not torch.float16 or torch.bfloat16"
    if _major(device) < 8:
        return "the device's compute capability is below 8.0"
    if head_size % 8 or head_size > 256:
        return f"the head size is {head_size}, not a multiple of 8 up to 256"
    if rotary:
        return "it does not rotate queries and keys"
    if prefixed:
        return "it does not share prefixes"
    if softcapped:
        return "it does not cap products in every release"
    if relative:
        return "it knows no relative positions"
    if unequal and positional and not causal:
        return "it aligns the ends of queries and keys, not their starts"
    if deterministic:
        return "it does not promise the same bits in other company"
    return None


def torch_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    scale: float,
    window: int | None,
    rotary: None,
    causal: bool,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    **facts: object,
) -> Tensor:
    """torch.nn.attention.varlen.varlen_attn; see `attention.attention`."""
    if not len(q) or not len(k):
        return q.new_zeros(q.shape)
    function = _torch_function()
    assert function is not None
    known = _defaults(function)
    options: dict[str, Any] = {
        "window_size": _window(known["window_size"], window, causal),
        "scale": scale,
    }
    if q.shape[1] != k.shape[1]:
        options["enable_gqa"] = True
    out: Tensor = function(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        _longest_queries(q, k, cu_seqlens_q, max_seqlen_q),
        _longest(cu_seqlens_k, max_seqlen_k),
        **options,
    )
    return out.contiguous()


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    scale: float,
    window: int | None,
    rotary: None,
    causal: bool,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    **facts: object,
) -> Tensor:
    """flash_attn_varlen_func of whichever flash-attn is installed; see `attention.attention`."""
    if not len(q) or not len(k):
        return q.new_zeros(q.shape)
    function = _flash_function(_major(q.device))
    assert function is not None
    known = _defaults(function)
    options: dict[str, Any] = {}
    if "max_seqlen_q" in known:  # the first FlashAttention 4 had neither
        options["max_seqlen_q"] = _longest_queries(q, k, cu_seqlens_q, max_seqlen_q)
        options["max_seqlen_k"] = _longest(cu_seqlens_k, max_seqlen_k)
    out = function(
        q,
        k,
        v,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        softmax_scale=scale,
        causal=causal,
        window_size=_window(known["window_size"], window, causal),
        **options,
    )
    # Some releases return the log-sum-exp beside it.
    first: Tensor = out[0] if isinstance(out, tuple) else out
    return first.contiguous()


def _window(
    default: tuple[int | None, int | None], window: int | None, causal: bool
) -> tuple[int | None, int | None]:
    """(left, right); no bound is -1, or None in FlashAttention 4, as the default tells."""
    width = default[0] if window is None else min(window, _WIDEST)
    return width, 0 if causal else width


def _longest(cu_seqlens: Tensor, bound: int | None) -> int:
    """The caller's bound, or the length of the longest sequence, which waits for the device."""
    return int(cu_seqlens.diff().max()) if bound is None else bound


def _longest_queries(q: Tensor, k: Tensor, cu_seqlens_q: Tensor, bound: int | None) -> int:
    """As `_longest`, but at least 2 for grouped queries.

    With 1, FlashAttention 2 takes each sequence to have exactly one query and fails where one has
    none, as padding has (github.com/Dao-AILab/flash-attention/issues/1537).
    """
    return max(_longest(cu_seqlens_q, bound), 1 if q.shape[1] == k.shape[1] else 2)


@functools.cache
def _major(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device)[0]


@functools.cache
def _torch_function() -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


@functools.cache
def _flash_function(major: int) -> Callable[..., Any] | None:
    """The newest for a device of this compute capability."""
    for name, majors in _FLASH_MODULES.items():
        # A package that does not fit its own dependencies may raise anything.
        with contextlib.suppress(Exception):
            if major in majors and find_spec(name) is not None:
                return getattr(importlib.import_module(name), _FUNCTION)  # type: ignore[no-any-return]
    return None


@functools.cache
def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The names of its arguments, with their defaults."""
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}
