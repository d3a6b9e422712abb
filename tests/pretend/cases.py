"""Calls of every Triton launcher, each for any number of rows, sequences or documents.

What decides on a kernel beside that is in a case's name: a form, a tile, a size of the model's.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from packrank_kernels import (
    Codec,
    Pages,
    RelativePositions,
    TokenEmbeddings,
    add_layer_norm,
    add_rms_norm,
    attention,
    embed_layer_norm,
    matches,
    maxsim,
    pack_head,
    paged_attention,
    score_head,
    take_sequences,
)
from packrank_kernels.backend.triton import early_launch, linear
from packrank_kernels.packed import ACTIVATIONS, BITS, FLOATS, FORMATS
from packrank_kernels.testing import cu_seqlens
from pretend.device import DEVICE

HALF, FLOAT = torch.float16, torch.float32
# Divisible by 16 or not, and 1, which Triton would take for a constant.
COUNTS = (64, 1, 17, 33, 144)
TRITON = {"backend": "triton"}


@dataclass(frozen=True)
class Case:
    """A call.

    Attributes:
        launcher: whose it is; of each, the first is the one to try if there is time for one.
        form: what may decide on the kernel.
        call: with a number of rows, sequences or documents.
        counts: the numbers to call it with.
    """

    launcher: str
    form: str
    call: Callable[[int], object]
    counts: tuple[int, ...] = COUNTS


def cases() -> Iterator[Case]:
    yield from products()
    yield from attentions()
    yield from paged_attentions()
    yield from norms()
    yield from embeddings()
    yield from heads()
    yield from compactions()
    yield from scores()
    yield from launched_early()


def draw(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


def starts(lengths: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
    return cu_seqlens(lengths, dtype).to(DEVICE)


def ids(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.int32, device=DEVICE)


def products() -> Iterator[Case]:
    gates = [*((name, False) for name in (None, *ACTIVATIONS)), ("gelu", True), ("silu", True)]
    for run, tiles, sizes, dtypes in (
        (linear.by_descriptors, linear.DESCRIPTOR_TILES, (384, 96), (HALF, torch.bfloat16)),
        (linear.by_pointers, linear.POINTER_TILES, (384, 96), (HALF, torch.bfloat16)),
        (linear.by_pointers, linear.ODD_TILES, (77, 30), (HALF,)),
        (linear.by_pointers, linear.FLOAT32_TILES, (384, 96), (FLOAT,)),
    ):
        for (activation, gated), dtype, tile in itertools.product(gates, dtypes, tiles):
            yield _product(run, *sizes, dtype, activation, gated, tile)


def _product(
    run: Callable[..., Tensor],
    inputs: int,
    outputs: int,
    dtype: torch.dtype,
    activation: str | None,
    gated: bool,
    tile: linear.Tile,
) -> Case:
    rows = outputs * (1 + gated)

    def call(count: int) -> object:
        packed = linear.pack_linear(draw(rows, inputs, dtype=dtype), gated)
        x, bias = draw(count, inputs, dtype=dtype), draw(rows, dtype=FLOAT)
        return run(x, packed, bias, activation, gated, tile)

    form = f"{inputs} {dtype} {activation}{' gated' if gated else ''} {tile}"
    return Case(run.__name__, form, call)


FORMS = ("", "window", "rotary", "rotary window", "rotary causal", "rotary causal prefix",
         "rotary causal window prefix", "rotary causal softcap window prefix")  # fmt: skip


def attentions() -> Iterator[Case]:
    """Of lengths of at most 32 to 256 or any, of short queries, of first tokens alone."""
    bounds = [*((None, keys) for keys in (128, 32, 64, 256, None)), (64, None), (1, None)]
    for size, dtype in itertools.product((32, 64, 96, 128, 256), (HALF, torch.bfloat16, FLOAT)):
        for form, bound in itertools.product(FORMS, bounds):
            # All forms of the sizes that models have of each, the plain one of the others.
            if (
                not form
                or (size in (64, 256) and dtype == HALF)
                or (size, bound) == (128, (1, None))
            ):
                yield _attention(size, dtype, form, *bound)
    for dtype, form, bound in itertools.product(
        (torch.bfloat16, FLOAT), ("bias", "bias causal"), ((None, None), (1, None))
    ):
        yield _attention(64, dtype, form, *bound)


def _attention(
    size: int, dtype: torch.dtype, form: str, most_q: int | None, most_k: int | None
) -> Case:
    heads, own_heads = (4, 2) if "causal" in form and "bias" not in form else (4, 4)
    longest = most_k or 300

    def call(count: int) -> object:
        lengths = [n % longest + 1 if n % 3 else longest for n in range(count)]
        queries = [min(length, most_q or length) for length in lengths]
        tokens = sum(lengths)
        keys = draw(tokens, 2, own_heads, size, dtype=dtype)
        angles = torch.rand(tokens, size // 2, device=DEVICE)
        biases = draw(9, heads, dtype=FLOAT)
        relative = RelativePositions(None, None, ids(2 * longest - 1) % 9, biases)
        return attention(
            draw(sum(queries), heads, size, dtype=dtype),
            keys[:, 0],
            keys[:, 1],
            starts(queries),
            starts(lengths),
            window=32 if "window" in form else None,
            rotary=(angles.cos(), angles.sin()) if "rotary" in form else None,
            causal="causal" in form,
            prefix_of=ids(count) - 1 if "prefix" in form else None,
            softcap=50.0 if "softcap" in form else None,
            relative=relative if "bias" in form else None,
            max_seqlen_q=most_q or 300,
            max_seqlen_k=most_k or 300,
            **TRITON,
        )

    return Case("attention", f"{size} {dtype} {form} {most_q} {most_k}", call)


def paged_attentions() -> Iterator[Case]:
    for size, dtype in itertools.product((64, 128, 256), (HALF, torch.bfloat16, FLOAT)):
        for form, most in itertools.product(("rotary", "", "rotary softcap window"), (1, None)):
            yield _paged_attention(size, dtype, form, most)


def _paged_attention(size: int, dtype: torch.dtype, form: str, most: int | None) -> Case:
    def call(count: int) -> object:
        new = [most or 1 + n % 40 for n in range(count)]
        have = [length + 7 * n % 300 for n, length in enumerate(new)]
        heads = draw(sum(new), 8, size, dtype=dtype)
        pages = draw(2, 30, 2, 16, size, dtype=dtype).transpose(2, 3)
        angles = torch.rand(400, size // 2, device=DEVICE)
        lengths = torch.tensor(have, dtype=torch.int32).to(DEVICE)
        return paged_attention(
            *(heads[:, :4], heads[:, 4:6], heads[:, 6:]),
            Pages(pages[0], pages[1], ids(count, 25), lengths),
            *(starts(new), starts(new)),
            window=32 if "window" in form else None,
            rotary=(angles.cos(), angles.sin()) if "rotary" in form else None,
            softcap=50.0 if "softcap" in form else None,
            max_seqlen_q=most,
            **TRITON,
        )

    return Case("paged_attention", f"{size} {dtype} {form} {most}", call)


def norms() -> Iterator[Case]:
    for size, dtype in itertools.product(
        (384, 100, 768, 2304, 8192), (HALF, torch.bfloat16, FLOAT)
    ):
        for residual, bias in itertools.product((True, False), (True, False)):
            yield _norm("add_layer_norm", size, dtype, residual, bias)
            if not bias:
                yield _norm("add_rms_norm", size, dtype, residual, bias)


def embeddings() -> Iterator[Case]:
    for size, tables, dtype in (
        (384, "positions types", HALF),
        (768, "positions", HALF),
        (768, "", HALF),
        (1024, "positions first type", HALF),
        (100, "positions types", torch.bfloat16),
        (384, "positions types", FLOAT),
    ):
        yield _embedding(size, tables, dtype)


def _norm(name: str, size: int, dtype: torch.dtype, residual: bool, bias: bool) -> Case:
    def call(count: int) -> object:
        x, weight = draw(count, size, dtype=dtype), draw(size, dtype=FLOAT)
        y = draw(count, size, dtype=dtype) if residual else None
        if name == "add_rms_norm":
            return add_rms_norm(x, y, weight, 1e-6, **TRITON)
        return add_layer_norm(x, y, weight, weight if bias else None, 1e-6, **TRITON)

    return Case(name, f"{size} {dtype} residual {residual} bias {bias}", call)


def _embedding(size: int, tables: str, dtype: torch.dtype) -> Case:
    def call(count: int) -> object:
        places, types = (ids(count) if word in tables else None for word in ("positions", "types"))
        table, weight = draw(8, size, dtype=dtype), draw(size, dtype=FLOAT)
        return embed_layer_norm(
            ids(count), places, types, table,
            table if places is not None else None, table if "type" in tables else None,
            weight, weight, 1e-6, **TRITON,
        )  # fmt: skip

    return Case("embed_layer_norm", f"{size} {dtype} {tables}", call)


def launched_early() -> Iterator[Case]:
    """One of each launcher that can be told to."""

    def within(call: Callable[[int], object], count: int) -> object:
        with early_launch.within():
            return call(count)

    every = [*products(), *attentions(), *norms()]
    for case in {case.launcher: case for case in reversed(every)}.values():
        form, call = f"{case.form}, early", functools.partial(within, case.call)
        yield replace(case, form=form, call=call)


def heads() -> Iterator[Case]:
    for size, dtype in ((384, HALF), (768, torch.bfloat16), (100, FLOAT)):
        for activation, norm, gathers in itertools.product(
            (*reversed(ACTIVATIONS), None), (False, True), (True, False)
        ):
            yield _head(size, dtype, activation, norm, gathers)


def _head(size: int, dtype: torch.dtype, activation: str | None, norm: bool, gathers: bool) -> Case:
    def call(count: int) -> object:
        dense, weight = draw(size, size, dtype=FLOAT), draw(size, dtype=FLOAT)
        normed = (weight, weight, 1e-6) if norm else None
        # Labels are the model's, and no kernel is one's own.
        out = draw(1 + count % 3, size, dtype=FLOAT)
        head = pack_head(dense, None, activation, normed, out, None, **TRITON)
        hidden = draw(2 * count if gathers else count, size, dtype=dtype)
        return score_head(hidden, head, ids(count) if gathers else None)

    form = f"{size} {dtype} {activation} norm {norm} gathers {gathers}"
    return Case("score_head", form, call)


def compactions() -> Iterator[Case]:
    for size, dtype in ((384, HALF), (1024, torch.bfloat16), (4096, HALF), (25, FLOAT)):

        def call(count: int, size: int = size, dtype: torch.dtype = dtype) -> object:
            lengths = [1 + n % 5 for n in range(count)]
            return take_sequences(
                draw(sum(lengths), size, dtype=dtype), starts(lengths), ids(count), count, **TRITON
            )

        yield Case("take_sequences", f"{size} {dtype}", call)


def scores() -> Iterator[Case]:
    for (queries, tokens), size, chosen in itertools.product(
        ((1, 32), (1, 8), (1, 64), (128, 32), (1, 1024)), (128, 96, 768), ("", "ids", "own ids")
    ):
        for format in FORMATS:
            if size == 128 or (queries, tokens, chosen) == (1, 32, ""):
                yield _scores(format, size, queries, tokens, chosen)
    for format in (*FORMATS, "4bit outliers"):
        yield _scores(format, 128, 1, 32, "matches")
    for tokens in (32, 128):
        yield _scores("4bit outliers", 128, 1, tokens, "")


def _scores(format: str, size: int, queries: int, tokens: int, chosen: str) -> Case:
    def call(count: int) -> object:
        # One token more or less is the same tile, and so is a slice that starts anywhere.
        asked = [draw(tokens - count % 2, size) for _ in range(queries)]
        documents = _documents(format, size, count + 1).slice(count % 2, count + 1)
        some = torch.arange(count, device=DEVICE)
        if chosen == "matches":
            return matches(asked[0], documents, some, **TRITON)
        if chosen == "own ids":
            return maxsim(asked, documents, [some] * len(asked), **TRITON)
        return maxsim(asked, documents, some if chosen else None, **TRITON)

    name = "matches" if chosen == "matches" else f"maxsim {format}"
    return Case(name, f"{format} {size}, {queries} x {tokens} {chosen}", call)


def _documents(format: str, size: int, count: int) -> TokenEmbeddings:
    lengths = [(7 * n) % 50 for n in range(count)]
    tokens, cu = sum(lengths), starts(lengths, torch.int64)
    if format in FLOATS:
        return TokenEmbeddings.of(draw(tokens, size, dtype=FLOATS[format]), cu)
    scales = torch.ones(tokens, device=DEVICE)
    if format == "int8":
        return TokenEmbeddings.of(
            torch.zeros(tokens, size, dtype=torch.int8, device=DEVICE), cu, scales
        )
    codec = _codec(size, BITS[format.removesuffix(" outliers")], outlies="outliers" in format)
    values = torch.zeros(tokens, size * codec.bits // 8, dtype=torch.uint8, device=DEVICE)
    return TokenEmbeddings.of(values, cu, scales, ids(tokens), codec)


@functools.cache
def _codec(size: int, bits: int, *, outlies: bool) -> Codec:
    centroids = torch.ones(4, size, device=DEVICE)
    if outlies:
        centroids[:, 0] = 100.0
    weights = torch.linspace(-1.0, 1.0, 2**bits, device=DEVICE)
    return Codec.of(centroids, weights[1:].clone(), weights)
