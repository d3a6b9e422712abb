"""Attention: of sequences in a pack, with relative positions, and over pages."""

import torch
from torch import Tensor

from packrank_kernels import Pages, RelativePositions, paged_attention, reference
from packrank_kernels import attention as attend
from packrank_kernels.testing import cu_seqlens
from questions.asking import LENGTHS, Device, check, told


def attention(at: Device, name: str, form: str, size: int = 64) -> None:
    """A form of attention: "self", "first" (a query a sequence), "window" or "prefix"."""
    backend = at.named("attention", name)
    lengths = [200, *(n for n in LENGTHS if n)] if form == "prefix" else LENGTHS
    heads, cu = 4, cu_seqlens(lengths).to(at.device)
    is_first, is_prefix = form == "first", form == "prefix"
    keys = at.draw(sum(lengths), 2, 2 if is_prefix else heads, size)
    q = at.draw(len(lengths) if is_first else sum(lengths), heads, size)
    cu_q = cu_seqlens([1] * len(lengths)).to(at.device) if is_first else cu
    window = 30 if form == "window" else None
    owners = rotary = None
    if is_prefix:
        owners = torch.zeros(len(lengths), dtype=torch.int32, device=at.device)
        owners[0] = -1
        rates = 1e4 ** -(torch.arange(0, size, 2, device=at.device) / size)
        angles = torch.outer(torch.arange(600, device=at.device), rates)
        rotary = angles.cos(), angles.sin()
    wide = (x.float() for x in (q, keys[:, 0], keys[:, 1]))
    expected = reference.attention(*wide, cu_q, cu, size**-0.5, window, rotary, is_prefix, owners)
    check(
        lambda: attend(
            q, keys[:, 0], keys[:, 1], cu_q, cu,
            window=window, rotary=rotary, causal=is_prefix, prefix_of=owners,
            max_seqlen_q=1 if is_first else 256, max_seqlen_k=456 if is_prefix else 256,
            backend=backend,
        ),
        expected,
        4 if is_prefix else 2,  # rotated queries and keys are rounded once more
    )  # fmt: skip


def attention_cuda(at: Device) -> None:
    for size in (32, 64):
        for form in ("self", "window"):
            attention(at, "cuda", form, size)


def attention_triton(at: Device, form: str) -> None:
    for size in (32, 64):
        attention(at, "triton", form, size)


def relative_attention(at: Device) -> None:
    """DeBERTa's tables for distances, of queries and of keys; and first tokens alone."""
    for dtype in (at.dtype, torch.bfloat16):
        for first in (False, True):
            with told(f"{dtype}, {'first tokens' if first else 'all tokens'}"):
                _relative(at, dtype, tables=True, first=first)


def biased_attention(at: Device) -> None:
    """T5's number for each distance, of its encoder and of its decoder."""
    for dtype in (torch.bfloat16, torch.float32):
        for causal in (False, True):
            for first in (False, True):
                with told(f"{dtype}, {'causal' if causal else 'both ways'}, first {first}"):
                    _relative(at, dtype, tables=False, first=first, causal=causal)


def _relative(
    at: Device, dtype: torch.dtype, *, tables: bool, first: bool, causal: bool = False
) -> None:
    heads, size, count, positions = 4, 64, 99, 300
    backend, cu = at.named("attention", "triton", dtype), cu_seqlens(at.lengths).to(at.device)
    queries = [min(n, 1) for n in at.lengths] if first else at.lengths
    cu_q = cu_seqlens(queries).to(at.device) if first else cu
    q = at.draw(sum(queries), heads, size, dtype=dtype)
    keys = at.draw(sum(at.lengths), 2, heads, size, dtype=dtype)
    of_distances = at.draw(2, count, heads, size, dtype=dtype)
    rows = (torch.arange(2 * positions - 1, dtype=torch.int32) // 6).clamp(max=count - 1)
    biases = torch.randn(count, heads, device=at.device)
    rows = rows.to(at.device)
    given = (*of_distances, rows, None) if tables else (None, None, rows, biases)
    relative = RelativePositions(*given)
    exact = RelativePositions(*(_double(x) for x in given))
    scale = (3 * size) ** -0.5 if tables else 1 / 8
    wide = (x.double() for x in (q, keys[:, 0], keys[:, 1]))
    expected = reference.attention(
        *wide, cu_q, cu, scale, None, None, causal=causal, relative=exact
    )
    check(
        lambda: attend(
            q, keys[:, 0], keys[:, 1], cu_q, cu,
            scale=scale, causal=causal, relative=relative,
            max_seqlen_q=1 if first else 256, max_seqlen_k=256, backend=backend,
        ),
        expected,
    )  # fmt: skip


def _double(x: Tensor | None) -> Tensor | None:
    return x.double() if x is not None and x.is_floating_point() else x


# Of what is shared by four heads: (head size, keys that a query sees before it, soft cap).
PAGED = {"whole": (64, None, None), "window": (128, 30, None), "soft cap": (64, None, 20.0)}


def attention_in_pages(at: Device, dtype: torch.dtype) -> None:
    """Two chunks of prompts, then a token a sequence; held against whole sequences, exactly."""
    for name, (size, window, softcap) in PAGED.items():
        with told(name):
            _paged(at, dtype, size, window, softcap)


def _paged(
    at: Device, dtype: torch.dtype, size: int, window: int | None, softcap: float | None
) -> None:
    heads, key_heads, page = 8, 2, 16
    backend = at.named("paged_attention", "triton", dtype)
    lengths = [n + 1 for n in at.lengths if n]
    cu, most = cu_seqlens(lengths).to(at.device), -(-max(lengths) // page)
    every = at.draw(sum(lengths), heads + 2 * key_heads, size, dtype=dtype)
    split = [heads, key_heads, key_heads]
    rates = 1e4 ** -(torch.arange(0, size, 2, device=at.device) / size)
    angles = torch.outer(torch.arange(max(lengths), device=at.device), rates)
    rotary = angles.cos(), angles.sin()
    expected = reference.attention(
        *(x.double() for x in every.split(split, dim=1)), cu, cu, size**-0.5,
        window, (rotary[0].double(), rotary[1].double()), causal=True, softcap=softcap,
    )  # fmt: skip
    # Nobody knows the order of the pages, and what is not written is no number.
    kept = torch.full(
        (2, len(lengths) * most, key_heads, page, size), torch.nan, dtype=dtype, device=at.device
    ).transpose(2, 3)
    table = torch.randperm(kept.shape[1], device=at.device).to(torch.int32).view(-1, most)
    done, starts = [0] * len(lengths), cu.tolist()
    for step, now in (
        ("first chunk", [n // 2 for n in lengths]),
        ("second chunk", [n - 1 for n in lengths]),
        ("a token each", lengths),
    ):
        new = [to - have for have, to in zip(done, now, strict=True)]
        most_new = max(new)
        spans = [range(s + a, s + b) for s, a, b in zip(starts, done, now, strict=False)]
        rows = torch.tensor([row for span in spans for row in span], device=at.device)
        q, k, v = every[rows].split(split, dim=1)
        have = torch.tensor(now, dtype=torch.int32, device=at.device)
        pages, cu_new = Pages(*kept, table, have), cu_seqlens(new).to(at.device)
        with told(step):
            check(
                lambda q=q, k=k, v=v, pages=pages, cu=cu_new, n=most_new: paged_attention(
                    q, k, v, pages, cu, cu, window=window, rotary=rotary, softcap=softcap,
                    max_seqlen_q=n, backend=backend,
                ),
                expected[rows],
                4,  # rotated queries and keys are rounded once more
            )  # fmt: skip
        done = now
