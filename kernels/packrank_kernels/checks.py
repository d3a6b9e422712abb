"""Argument checks shared by the ops: one message form, raised before anything is computed."""

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_shape(op: str, name: str, x: Tensor, *shape: int | str) -> None:
    """Raise unless x has this shape; a letter stands for any size."""
    fits = x.ndim == len(shape) and all(
        isinstance(want, str) or have == want for have, want in zip(x.shape, shape, strict=True)
    )
    if not fits:
        want = ", ".join(str(size) for size in shape)
        raise ValueError(f"{op}: {name} has shape {list(x.shape)}, expected [{want}]")


def check_like(op: str, name: str, x: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    """Raise unless x has this dtype and device."""
    if x.dtype != dtype:
        raise ValueError(f"{op}: {name} is {x.dtype}, expected {dtype}")
    if x.device != device:
        raise ValueError(f"{op}: {name} is on {x.device}, expected {device}")


def check_float(op: str, name: str, x: Tensor) -> None:
    """Raise unless x holds floating-point numbers."""
    if x.dtype not in FLOATS:
        raise ValueError(f"{op}: {name} is {x.dtype}, expected a floating-point dtype")


def check_cu_seqlens(
    op: str,
    name: str,
    cu_seqlens: Tensor,
    total: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    whole: bool = True,
) -> None:
    """Raise unless cu_seqlens is [N + 1] of dtype on device and, where that is free, sound.

    On a CPU the values are checked: they start at 0, never fall, and end at `total` (at or before
    it, if not `whole`). On a GPU that would wait for the device, so only the shape is.
    """
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 1:
        raise ValueError(f"{op}: {name} has shape {list(cu_seqlens.shape)}, expected [N + 1]")
    check_like(op, name, cu_seqlens, dtype, device)
    if cu_seqlens.device.type != "cpu":
        return
    values = cu_seqlens.numpy()
    fits = values[-1] == total or (not whole and values[-1] < total)
    if values[0] != 0 or not fits or (values[1:] < values[:-1]).any():
        raise ValueError(f"{op}: {name} must rise from 0 to {total} without falling")


def longest(cu_seqlens: Tensor, prefix_of: Tensor | None = None) -> int:
    """Tokens of the longest sequence, its prefix included; 0 where the host does not know."""
    if cu_seqlens.device.type != "cpu" or len(cu_seqlens) < 2:
        return 0
    values = cu_seqlens.numpy()
    lengths = values[1:] - values[:-1]
    if prefix_of is not None:
        owners = prefix_of.numpy()
        lengths = lengths + np.where(owners < 0, 0, lengths[owners])
    return int(lengths.max())


def check_heads(op: str, q: Tensor, k: Tensor, v: Tensor) -> tuple[int, int, int]:
    """Raise unless these are queries, keys and values of floats; how many heads, of what size.

    Returns:
        Heads of q, heads of k, numbers of a head.
    """
    check_shape(op, "q", q, "Tq", "H", "D")
    check_float(op, "q", q)
    _, heads, size = q.shape
    if size < 1:
        raise ValueError(f"{op}: the head size is {size}, expected at least 1")
    check_shape(op, "k", k, "Tk", "Hk", size)
    key_heads = k.shape[1]
    if key_heads < 1 or heads % key_heads:
        raise ValueError(f"{op}: k has {key_heads} heads, which do not divide the {heads} of q")
    check_shape(op, "v", v, len(k), key_heads, size)
    check_like(op, "k", k, q.dtype, q.device)
    check_like(op, "v", v, q.dtype, q.device)
    return heads, key_heads, size


def checked_scale(op: str, scale: float | None, size: int) -> float:
    """The factor on products of heads of this size, 1 / sqrt(size) if None."""
    scale = size**-0.5 if scale is None else scale
    if not scale > 0:
        raise ValueError(f"{op}: scale is {scale}, expected more than 0")
    return scale


def check_bounds(op: str, window: int | None, softcap: float | None) -> None:
    """Raise unless a window is at least 0 and a softcap above it; None is neither."""
    if window is not None and window < 0:
        raise ValueError(f"{op}: window is {window}, expected at least 0")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"{op}: softcap is {softcap}, expected more than 0")


def check_rotary(
    op: str, rotary: tuple[Tensor, Tensor], size: int, positions: int, device: torch.device
) -> None:
    """Raise unless rotary is (cos, sin) of heads of this size and of so many positions."""
    if size % 2:
        raise ValueError(f"{op}: rotary needs an even head size, got {size}")
    for name, table in zip(("cos", "sin"), rotary, strict=True):
        check_shape(op, name, table, "P", size // 2)
        check_like(op, name, table, torch.float32, device)
        if not table.is_contiguous():
            raise ValueError(f"{op}: {name} must be contiguous")
        if len(table) < positions:
            raise ValueError(f"{op}: {name} has {len(table)} positions, the pack needs {positions}")
