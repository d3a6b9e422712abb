"""Packed attention: contract, checks, dispatch."""

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
from packrank_kernels.packed import RelativePositions


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    rotary: tuple[Tensor, Tensor] | None = None,
    causal: bool = False,
    prefix_of: Tensor | None = None,
    softcap: float | None = None,
    relative: RelativePositions | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    deterministic: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Softmax attention within each sequence of a pack, no padding anywhere.

    out[i] = sum_j softmax_j(scale * q[i] . k[j]) v[j], i and j in the same sequence.

    Query i and key j of a sequence stand at positions i and j counted from the sequence's start,
    also where it has fewer queries than keys. Causal attention aligns the ends instead, as
    FlashAttention always does: query i of Lq stands at position Lk - Lq + i.

    Sequences may share a prefix: where prefix_of[n] is p, the keys of sequence n are those of
    sequence p, then its own, and its positions go on where p's end. So a prompt and a query that
    many candidates begin with are in the pack once.

    Args:
        q: [Tq, H, D] float32, bfloat16 or float16. Rows and heads may be strided, so a slice of a
            fused [T, 3, H, D] projection is read in place; the last dimension is contiguous.
        k: [Tk, Hk, D], dtype of q, strided as q may be. Hk divides H: heads h * Hk // H share keys.
        v: [Tk, H, D], as k.
        cu_seqlens_q: [N + 1] int32. Where each sequence's queries start, then where the last ends.
            Rows past that, up to Tq, belong to no sequence.
        cu_seqlens_k: [N + 1] int32. The same of keys.
        scale: factor on the dot products; 1 / sqrt(D) if None.
        window: a key is visible to a query iff their positions differ by at most this; every key
            is if None.
        rotary: (cos, sin), each [P, D / 2] float32 with P at least the longest sequence. q and k
            are rotated by their positions (halves form) before the product.
        causal: a key is visible only to queries at its own position or after it.
        prefix_of: [N] int32. The sequence whose keys come before those of sequence n, -1: none. A
            prefix has none itself. Only for causal attention: elsewhere a prefix would have to see
            what follows. None: no sequence has one.
        softcap: a scaled product s becomes softcap * tanh(s / softcap); None leaves it as it is.
        relative: what the distance of a query and a key adds to their product: see
            `RelativePositions`. Not beside grouped heads, window, rotary, prefixes or softcap; of
            causal attention a bias alone. None: nothing.
        max_seqlen_q: at least as many as the queries of any sequence; None where it is not known.
            On a CUDA device it lets a backend choose its form without waiting for cu_seqlens.
        max_seqlen_k: likewise, of keys; those of its prefix included.
        deterministic: the bits of a sequence's rows do not depend on the other sequences. Kernels
            for the CPU always promise it.
        backend: "auto", or a name in `dispatch.TABLE["attention"]`.

    Returns:
        [Tq, H, D] contiguous, dtype of q; softmax in float32. A query that sees no key gets zeros.
        Rows that belong to no sequence hold anything.

    Raises:
        ValueError: shapes, dtypes or offsets disagree, or `backend` refuses (the message says why).

    Cost: 4 * sum(Lq * Lk) * H * D operations and Lq * Lk * H exponentials; twice the operations
    with both tables of `relative`.
    Source: Vaswani et al. 2017, eq. 1; rotary: Su et al. 2021, eq. 34; softcap: Gemma 2, 2024,
    section 2; relative: DeBERTa, He et al. 2021, eq. 4, and T5, Raffel et al. 2020, section 2.1.
    """
    op = "attention"
    heads, key_heads, size = check_heads(op, q, k, v)
    check_cu_seqlens(op, "cu_seqlens_q", cu_seqlens_q, len(q), torch.int32, q.device, whole=False)
    check_cu_seqlens(op, "cu_seqlens_k", cu_seqlens_k, len(k), torch.int32, q.device, whole=False)
    if len(cu_seqlens_q) != len(cu_seqlens_k):
        raise ValueError(
            f"{op}: cu_seqlens_q has {len(cu_seqlens_q)} entries, cu_seqlens_k {len(cu_seqlens_k)}"
        )
    if any(size > 1 and x.stride(2) != 1 for x in (q, k, v)):
        raise ValueError(f"{op}: the last dimension of q, k and v must be contiguous")
    scale = checked_scale(op, scale, size)
    check_bounds(op, window, softcap)
    if prefix_of is not None:
        _check_prefixes(op, prefix_of, len(cu_seqlens_q) - 1, q.device)
        if not causal:
            raise ValueError(f"{op}: only causal attention can share prefixes")
    longest_q, longest_k = longest(cu_seqlens_q), longest(cu_seqlens_k, prefix_of)
    for name, bound, most in (
        ("max_seqlen_q", max_seqlen_q, longest_q),
        ("max_seqlen_k", max_seqlen_k, longest_k),
    ):
        if bound is not None and bound < most:
            raise ValueError(f"{op}: {name} is {bound}, but a sequence has {most}")
    if rotary is not None:
        check_rotary(op, rotary, size, max(longest_q, longest_k), q.device)
    if relative is not None:
        others = (window, rotary, softcap, prefix_of)
        if heads != key_heads or any(option is not None for option in others):
            raise ValueError(
                f"{op}: relative positions cannot be combined with grouped heads, window, rotary, "
                "prefixes or softcap"
            )
        if causal and (relative.keys is not None or relative.queries is not None):
            raise ValueError(f"{op}: of relative positions causal attention takes a bias alone")
        _check_relative(op, relative, q, max(longest_q, longest_k))
    chosen = choose(
        op,
        backend,
        q.device,
        q.dtype,
        head_size=size,
        heads_per_key=heads // key_heads,
        unequal=cu_seqlens_q is not cu_seqlens_k,
        positional=window is not None or rotary is not None,
        rotary=rotary is not None,
        causal=causal,
        prefixed=prefix_of is not None,
        softcapped=softcap is not None,
        relative=relative is not None,
        max_seqlen_q=max_seqlen_q,
        max_seqlen_k=max_seqlen_k,
        deterministic=deterministic,
    )
    out: Tensor = chosen.run(
        q,
        k,
        v,
        cu_seqlens_q.contiguous(),
        cu_seqlens_k.contiguous(),
        scale=scale,
        window=window,
        rotary=rotary,
        causal=causal,
        prefix_of=None if prefix_of is None else prefix_of.contiguous(),
        softcap=softcap,
        relative=relative,
        max_seqlen_q=max_seqlen_q,
        max_seqlen_k=max_seqlen_k,
        deterministic=deterministic,
    )
    return out


def _check_prefixes(op: str, prefix_of: Tensor, count: int, device: torch.device) -> None:
    check_shape(op, "prefix_of", prefix_of, count)
    check_like(op, "prefix_of", prefix_of, torch.int32, device)
    if device.type != "cpu" or not count:
        return
    owners = prefix_of.numpy()
    low, high = int(owners.min()), int(owners.max())
    if low < -1 or high >= count:
        raise ValueError(f"{op}: prefix_of spans {low}..{high}, there are {count} sequences")
    if (owners[owners[owners >= 0]] >= 0).any():
        raise ValueError(f"{op}: a prefix has a prefix itself")


def _check_relative(op: str, relative: RelativePositions, q: Tensor, longest: int) -> None:
    count, before = 0, ""
    for name in ("keys", "queries", "bias"):
        table, shape, dtype = getattr(relative, name), q.shape[1:], q.dtype
        if table is None:
            continue
        if name == "bias":
            shape, dtype = shape[:1], torch.float32
        check_shape(op, f"relative.{name}", table, "R", *shape)
        check_like(op, f"relative.{name}", table, dtype, q.device)
        if not table.is_contiguous():
            raise ValueError(f"{op}: relative.{name} must be contiguous")
        if count not in (0, len(table)):
            raise ValueError(
                f"{op}: relative.{before} has {count} rows, relative.{name} {len(table)}"
            )
        count, before = len(table), name
    if not before:
        raise ValueError(f"{op}: relative positions have neither keys nor queries nor bias")
    rows = relative.rows
    check_shape(op, "relative.rows", rows, "2P - 1")
    check_like(op, "relative.rows", rows, torch.int32, q.device)
    if not rows.is_contiguous() or len(rows) % 2 == 0:
        raise ValueError(f"{op}: relative.rows must be contiguous, and an odd number")
    if len(rows) // 2 + 1 < longest:
        raise ValueError(
            f"{op}: relative.rows has {len(rows) // 2 + 1} positions, the pack needs {longest}"
        )
    if rows.device.type == "cpu":
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= count:
            raise ValueError(f"{op}: relative.rows spans {low}..{high}, the tables have {count}")
