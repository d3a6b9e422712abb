"""Compile Triton's kernels before anything is timed or tested: `prewarm.py I/N`, each Nth job.

By calls at the sizes of the benchmarks, so that what is compiled is what will be asked for; it
lands in Triton's cache. Where a call fails it says so, and the others are made. With --without-gpu
nothing runs: a machine without a device compiles for a Hopper one. A kernel is kept under its
source, how it was called, the files of Triton, and ptxas: those decide whether it is found there.
"""

import argparse
import itertools
import os
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attention as packs
import numpy as np
import torch
from linear import LAYERS, unflattened
from maxsim import Case, Shape
from measure import Session
from norms import EPS, TOKENS

from packrank_kernels import (
    Pages,
    RelativePositions,
    add_layer_norm,
    add_rms_norm,
    attention,
    embed_layer_norm,
    linear,
    pack_head,
    pack_linear,
    paged_attention,
    score_head,
    take_sequences,
)
from packrank_kernels.backend.triton import early_launch
from packrank_kernels.packed import FORMATS, PackedLinear
from packrank_kernels.testing import cu_seqlens

Job = tuple[str, Callable[[], object]]
WIDTHS = (384, 768, 1024)
DECODER_WIDTHS = (896, 1536, 2304)
DECODER_LAYERS = [(896, 4864, "silu", True)]
LENGTHS = (32, 64, 128, 256, 512)
HALVES = (torch.float16, torch.bfloat16)


class Jobs:
    """Calls by name; nothing is drawn before its turn."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_device = device.type == "cuda"
        self.backend = "triton" if self.on_device else "auto"
        self.dtype = torch.float16 if self.on_device else torch.float32

    def draw(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.randn(*shape, device=self.device).to(dtype or self.dtype)

    def every(self) -> Iterator[Job]:
        """The slowest to compile first, so that shares end together."""
        yield from self.products()
        yield from self.attentions()
        yield from self.attentions_with_distances()
        yield from self.attentions_in_pages()
        yield from self.scores()
        yield from self.rows()
        yield from self.contestants()

    def products(self) -> Iterator[Job]:
        # All tiles, whatever the layer.
        rows = (TOKENS, 2048, 600, 300, 128, 20) if self.on_device else (8,)
        for layers in (*LAYERS.values(), DECODER_LAYERS):
            for inputs, outputs, activation, gated in layers:
                for count in rows:
                    yield (
                        f"linear {count} x {inputs} -> {outputs} {activation} {gated}",
                        lambda count=count, layer=(inputs, outputs, activation, gated): (
                            self.product(count, *layer)
                        ),
                    )

        # DeBERTa's in bfloat16, and the vocabulary of a decoder.
        for count in rows:
            layer = (768, 3072, "gelu", False)
            yield (
                f"linear {count} x {layer}, bfloat16",
                partial(self.product, count, *layer, dtype=torch.bfloat16),
            )
        # As wide as a multiple of 16, as those are that there are, and in a question otherwise.
        vocabularies = zip(HALVES, (4992, 4999), strict=True)
        for (dtype, outputs), count in itertools.product(vocabularies, (1, 16, 33, 64, 300)):
            yield (
                f"linear {count} x 896 -> {outputs}, float32 of {dtype}",
                partial(self.product, count, 896, outputs, None, False, dtype=dtype, wide=True),
            )

    def product(
        self,
        rows: int,
        inputs: int,
        outputs: int,
        activation: str | None,
        gated: bool,
        run: Callable[[torch.Tensor, PackedLinear], torch.Tensor] = linear,
        *,
        dtype: torch.dtype | None = None,
        wide: bool = False,
    ) -> object:
        weight = self.draw(outputs * (1 + gated), inputs, dtype=dtype)
        bias = torch.zeros(len(weight), device=self.device)
        packed = pack_linear(
            weight, bias, activation=activation, gated=gated, wide=wide, backend=self.backend
        )
        return run(self.draw(rows, inputs, dtype=dtype), packed)

    def attentions(self) -> Iterator[Job]:
        for size in packs.SIZES:
            for longest in LENGTHS:
                yield f"attention {size}, {longest}", lambda s=size, n=longest: self.attend(s, n)
            yield f"attention {size}, first", lambda s=size: self.attend(s, 128, first=True)
        forms = [{"window": window, "rotates": True} for window in (None, 64)]
        decoder = {"rotates": True, "causal": True, "heads": 14}
        forms += [decoder | {"prefixed": prefixed} for prefixed in (False, True)]
        for options in forms:
            for size in (64, 128) if "causal" in options else (64,):
                for longest, first in (*((n, False) for n in LENGTHS), (128, True)):
                    yield (
                        f"attention {size}, {longest}, {'first, ' * first}{options}",
                        lambda s=size, n=longest, f=first, options=options: self.attend(
                            s, n, first=f, **options
                        ),
                    )

    def attentions_with_distances(self) -> Iterator[Job]:
        """DeBERTa's tables, T5's biases; all tokens and first ones alone."""
        float32 = torch.float32
        forms = [(dtype, True, False) for dtype in HALVES]
        forms += [(d, False, causal) for d in (HALVES[1], float32) for causal in (False, True)]
        for (dtype, tables, causal), first in itertools.product(forms, (False, True)):
            what = "tables" if tables else "biases"
            yield (
                f"attention with {what}, {dtype}, causal {causal}, first {first}",
                partial(self.attend_by_distance, dtype, tables, causal, first),
            )

    def attend_by_distance(
        self, dtype: torch.dtype, tables: bool, causal: bool, first: bool
    ) -> object:
        lengths, heads, size = [128, 64], 12, 64
        cu = cu_seqlens(lengths).to(self.device)
        cu_q = cu_seqlens([1, 1]).to(self.device) if first else cu
        keys = self.draw(sum(lengths), 2, heads, size, dtype=dtype)
        rows = torch.zeros(255, dtype=torch.int32, device=self.device)
        pair = self.draw(2, 8, heads, size, dtype=dtype) if tables else (None, None)
        bias = None if tables else self.draw(8, heads, dtype=torch.float32)
        return attention(
            self.draw(2 if first else sum(lengths), heads, size, dtype=dtype),
            keys[:, 0], keys[:, 1], cu_q, cu,
            causal=causal,
            relative=RelativePositions(*pair, rows, bias),
            max_seqlen_q=1 if first else 128,
            max_seqlen_k=128,
            backend=self.backend,
        )  # fmt: skip

    def attentions_in_pages(self) -> Iterator[Job]:
        """Rotated; for questions with windows and soft caps too, and in other dtypes."""
        forms = [(64, None, None), (128, None, None), (128, 30, None), (64, None, 20.0)]
        dtypes = (*HALVES, torch.float32)
        for dtype, form, most in itertools.product(dtypes, forms, (1, None)):
            if dtype in HALVES[:1] or form != forms[1]:
                yield (
                    f"paged attention {form}, {dtype}, {most}",
                    partial(self.attend_in_pages, dtype, *form, most),
                )

    def attend_in_pages(
        self,
        dtype: torch.dtype,
        size: int,
        window: int | None,
        softcap: float | None,
        most: int | None,
    ) -> object:
        lengths = [most or 40, most or 7]
        new = self.draw(sum(lengths), 18, size, dtype=dtype)
        keys, values = self.draw(2, 6, 2, 16, size, dtype=dtype).transpose(2, 3)
        have = torch.tensor(lengths, dtype=torch.int32, device=self.device)
        table = torch.arange(6, dtype=torch.int32, device=self.device).view(2, 3)
        cu, angles = cu_seqlens(lengths).to(self.device), torch.rand(40, size // 2)
        rotary = angles.cos().to(self.device), angles.sin().to(self.device)
        return paged_attention(
            *(new[:, :14], new[:, 14:16], new[:, 16:]),
            Pages(keys, values, table, have),
            cu, cu, rotary=rotary, window=window, softcap=softcap, max_seqlen_q=most,
            backend=self.backend,
        )  # fmt: skip

    def attend(
        self,
        size: int,
        longest: int,
        *,
        first: bool = False,
        window: int | None = None,
        rotates: bool = False,
        causal: bool = False,
        prefixed: bool = False,
        heads: int = 12,
    ) -> object:
        lengths = [longest, longest // 2]
        own_heads = 2 if causal else heads
        cu = cu_seqlens(lengths).to(self.device)
        cu_q = cu_seqlens([1, 1]).to(self.device) if first else cu
        owners = torch.tensor([-1, 0], dtype=torch.int32, device=self.device) if prefixed else None
        angles = torch.rand(2 * longest, size // 2, device=self.device)
        keys = self.draw(sum(lengths), 2, own_heads, size)
        return attention(
            self.draw(2 if first else sum(lengths), heads, size), keys[:, 0], keys[:, 1], cu_q, cu,
            window=window,
            rotary=(angles.cos(), angles.sin()) if rotates else None,
            causal=causal,
            prefix_of=owners,
            max_seqlen_q=1 if first else longest,
            max_seqlen_k=sum(lengths) if prefixed else longest,
            backend=self.backend,
        )  # fmt: skip

    def scores(self) -> Iterator[Job]:
        for format in FORMATS:
            for queries, tokens in ((1, 32), (128, 32), (1, 1024)):
                shape = Shape("prewarm", queries, tokens, "40", np.full(9, 40, dtype=np.int64))
                yield (
                    f"maxsim {format}, {queries} x {tokens}",
                    lambda shape=shape, format=format: self.score(shape, format),
                )

    def score(self, shape: Shape, format: str) -> object:
        nowhere = Path(os.devnull)
        session = Session(nowhere, nowhere, 0.0, dry=True)  # one set of documents
        session.device = self.device
        return Case(session, shape, format).ours(self.backend).calls[0]()

    def rows(self) -> Iterator[Job]:
        for size in WIDTHS:
            yield f"norms of {size}", lambda size=size: self.norms(size)
        for size in DECODER_WIDTHS:
            yield f"norms of a decoder of {size}", lambda size=size: self.decoder_norms(size)
        yield "norms of 768, bfloat16", lambda: self.norms(768, torch.bfloat16)

    def decoder_norms(self, size: int) -> None:
        """The first norm, those between, and what the head reads, in float32, and the head."""
        x, weight = self.draw(64, size), torch.ones(size, device=self.device)
        for residual in (None, x):
            add_rms_norm(x, residual, weight, EPS, backend=self.backend)
        add_rms_norm(x.float(), x.float(), weight, EPS, backend=self.backend)
        linear(x.float(), pack_linear(weight[None], backend=self.backend))

    def contestants(self) -> Iterator[Job]:
        """Forms that `linear` and `forward` race with those above."""

        def within(call: Callable[..., object], *arguments: object, **options: object) -> object:
            with early_launch.within():
                return call(*arguments, **options)

        rows = TOKENS if self.on_device else 8
        for layer in itertools.chain(*LAYERS.values()):
            yield f"linear {layer}, early", partial(within, self.product, rows, *layer)
            if self.on_device:
                call = partial(self.product, rows, *layer, run=unflattened)
                yield f"linear {layer}, unflattened", call
        for size in packs.SIZES:
            for first in (False, True):
                call = partial(within, self.attend, size, 128, first=first)
                yield f"attention {size}, {'first, ' * first}early", call
        for size in WIDTHS:
            yield f"norms of {size}, early", partial(within, self.norms, size)

    def norms(self, size: int, dtype: torch.dtype | None = None) -> None:
        weight, bias = torch.randn(2, size, device=self.device)
        x, y, count = self.draw(64, size, dtype=dtype), self.draw(64, size, dtype=dtype), 64
        options = {"backend": self.backend}
        for shift in (bias, None):  # ModernBERT has none
            add_layer_norm(x, y, weight, shift, EPS, **options)
        ids = torch.zeros(3, count, dtype=torch.int32, device=self.device)
        tables = self.draw(3, 8, size, dtype=dtype)
        embed_layer_norm(*ids, *tables, weight, bias, EPS, **options)
        for shift in (bias, None):  # DeBERTa's, ModernBERT's
            table = tables[0]
            embed_layer_norm(ids[0], None, None, table, None, None, weight, shift, EPS, **options)
        cu = cu_seqlens([32, 32]).to(self.device)
        take_sequences(x, cu, cu[:1].contiguous(), 32, **options)
        dense, out = torch.randn(size, size, device=self.device), weight[None]
        for activation, norm in (("tanh", None), ("gelu", (weight, None, EPS))):
            head = pack_head(dense, None, activation, norm, out, None, **options)
            for rows in (cu[:2].contiguous(), None):
                score_head(x, head, rows)


class Compilations:
    """Counts kernels: compiled here, or found in the cache."""

    def __init__(self) -> None:
        from triton import __version__, knobs

        python = ".".join(platform.python_version_tuple()[:2])
        self.by = f"by Triton {__version__} of Python {python}"
        self.compiled = self.found = 0
        knobs.compilation.listener = self._count

    def _count(self, *, cache_hit: bool, **facts: object) -> None:
        self.found += cache_hit
        self.compiled += not cache_hit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("share", help="I/N: every Nth job, from the Ith on")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU")
    parser.add_argument(
        "--without-gpu", type=Path, metavar="FOLDER", help="where a device's stand-in is kept"
    )
    options = parser.parse_args()
    first, step = map(int, options.share.split("/"))
    device = torch.device("cpu" if options.dry_run else "cuda")
    if options.without_gpu:
        from pretend.device import Device

        Device(options.without_gpu)
    counted = None if options.dry_run else Compilations()
    failed = made = 0
    for name, call in list(Jobs(device).every())[first::step]:
        try:
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
        except Exception as error:
            failed += 1
            print(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        made += 1
    if counted is not None:
        print(f"{counted.compiled} kernels compiled, {counted.found} found {counted.by}")
    print(f"{made} calls, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
