"""Attention of sequences that grow, over a cache in pages: contract, checks, dispatch."""

import numpy as np
import torch
from torch import Tensor

from packrank_kernels.checks import (
    check_bounds,
    check_cu_seqlens,
    check_heads,
    check_like,
    check_rotary,
    check_shape,
    checked_scale,
    longest,
)
from packrank_kernels.dispatch import choose
from packrank_kernels.packed import Pages


def paged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pages: Pages,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    rotary: tuple[Tensor, Tensor] | None = None,
    softcap: float | None = None,
    max_seqlen_q: int | None = None,
    deterministic: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Causal attention of new tokens to all that their sequences have had, kept in pages.

    The new tokens' keys and values, k and v, are written to their pages first, keys rotated, to
    positions lengths[n] - Lk to lengths[n] - 1. Then

    out[i] = sum_j softmax_j(scale * q[i] . keys[j]) values[j], positions j <= i of a sequence;

    the ends are aligned: query i of Lq stands at position lengths[n] - Lq + i.

    On a CPU the bits are those of `attention` over the whole sequence, causal, however its tokens
    came: a cache changes no result. They do not depend on the other sequences either, nor on which
    pages there are, nor on their size.

    Args:
        q: [Tq, H, D] float32, bfloat16 or float16, strided as in `attention`.
        k: [Tk, Hk, D], dtype of q, the new tokens' keys before rotation. Hk divides H.
        v: [Tk, Hk, D], as k.
        pages: of all N sequences, the new tokens counted in. Written in place; a page that is
            written to is of one sequence alone.
        cu_seqlens_q: [N + 1] int32, as in `attention`. No more queries than keys.
        cu_seqlens_k: [N + 1] int32. The same of the new tokens.
        scale: factor on the dot products; 1 / sqrt(D) if None.
        window: a query sees this many keys before its own position; all of them if None.
        rotary: (cos, sin), each [at least the longest length, D / 2] float32. q and k are rotated
            by their positions (halves form). None: nothing is.
        softcap: as in `attention`.
        max_seqlen_q: at least as many as the queries of any sequence; None where it is not known.
            On a CUDA device it lets a backend choose its form without waiting for cu_seqlens_q.
        deterministic: as in `attention`.
        backend: "auto", or a name in `dispatch.TABLE["paged_attention"]`.

    Returns:
        [Tq, H, D] contiguous, dtype of q; softmax in float32. Rows that belong to no sequence hold
        anything.

    Raises:
        ValueError: shapes, dtypes, offsets or pages disagree, or `backend` refuses (the message
            says why).

    Cost: of a step of one token a sequence, memory: 2 * lengths * Hk * D numbers are read once.
    Source: Kwon et al. 2023 (vLLM), section 4.1; that new keys come with the call, as in
    FlashAttention's flash_attn_with_kvcache.
    """
    op = "paged_attention"
    heads, key_heads, size = check_heads(op, q, k, v)
    _check_pages(op, pages, k)
    if size > 1 and any(x.stride(-1) != 1 for x in (q, k, v, pages.keys, pages.values)):
        raise ValueError(f"{op}: the last dimension of q, k, v and the pages must be contiguous")
    check_cu_seqlens(op, "cu_seqlens_q", cu_seqlens_q, len(q), torch.int32, q.device, whole=False)
    check_cu_seqlens(op, "cu_seqlens_k", cu_seqlens_k, len(k), torch.int32, q.device, whole=False)
    count = len(cu_seqlens_q) - 1
    check_shape(op, "cu_seqlens_k", cu_seqlens_k, count + 1)
    check_shape(op, "pages.lengths", pages.lengths, count)
    scale = checked_scale(op, scale, size)
    check_bounds(op, window, softcap)
    most = longest(cu_seqlens_q)
    if max_seqlen_q is not None and max_seqlen_q < most:
        raise ValueError(f"{op}: max_seqlen_q is {max_seqlen_q}, but a sequence has {most}")
    positions = _check_values(op, pages, {"queries": cu_seqlens_q, "new keys": cu_seqlens_k})
    if rotary is not None:
        check_rotary(op, rotary, size, positions, q.device)
    chosen = choose(
        op,
        backend,
        q.device,
        q.dtype,
        head_size=size,
        heads_per_key=heads // key_heads,
        rotary=rotary is not None,
    )
    out: Tensor = chosen.run(
        q,
        k,
        v,
        pages,
        cu_seqlens_q.contiguous(),
        cu_seqlens_k.contiguous(),
        scale=scale,
        window=window,
        rotary=rotary,
        softcap=softcap,
        max_seqlen_q=max_seqlen_q,
        deterministic=deterministic,
    )
    return out


def _check_pages(op: str, pages: Pages, k: Tensor) -> None:
    shape = pages.keys.shape
    check_shape(op, "pages.keys", pages.keys, "P", "S", *k.shape[1:])
    check_shape(op, "pages.values", pages.values, *shape)
    if 0 in shape[:2]:
        raise ValueError(f"{op}: there are {shape[0]} pages of {shape[1]} tokens")
    for name, x in (("pages.keys", pages.keys), ("pages.values", pages.values)):
        check_like(op, name, x, k.dtype, k.device)
    check_shape(op, "pages.table", pages.table, len(pages.lengths), "M")
    for name, x in (("pages.table", pages.table), ("pages.lengths", pages.lengths)):
        check_like(op, name, x, torch.int32, k.device)
        if not x.is_contiguous():
            raise ValueError(f"{op}: {name} must be contiguous")


def _check_values(op: str, pages: Pages, new: dict[str, Tensor]) -> int:
    """The longest length, 0 where the host does not know; `new`: starts of queries and of keys."""
    if pages.lengths.device.type != "cpu" or not len(pages.lengths):
        return 0
    (count, size), table, have = pages.keys.shape[:2], pages.table.numpy(), pages.lengths.numpy()
    most, room = int(have.max()), table.shape[1] * size
    if most > room:
        raise ValueError(
            f"{op}: a sequence has {most} tokens, and its row of pages.table room for {room}"
        )
    for name, tensor in new.items():
        starts = tensor.numpy()
        more = starts[1:] - starts[:-1]
        if (more > have).any():
            place = int((more > have).argmax())
            raise ValueError(
                f"{op}: sequence {place} has {more[place]} {name}, more than its {have[place]} keys"
            )
    numbers = table[np.arange(0, room, size) < have[:, None]]
    low, high = numbers.min(initial=0), numbers.max(initial=0)
    if low < 0 or high >= count:
        raise ValueError(f"{op}: pages.table spans {low}..{high}, there are {count} pages")
    return most
