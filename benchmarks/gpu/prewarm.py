"""Compile Triton's kernels before anything is timed or tested: `prewarm.py I/N`, each Nth job.

By calls at the sizes of the benchmarks, so that what is compiled is what will be asked for; it
lands in Triton's cache. Where a call fails it says so, and the others are made.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attention as packs
import numpy as np
import torch
from linear import LAYERS
from maxsim import Case, Shape
from measure import Session
from norms import EPS, TOKENS

from packrank_kernels import (
    add_layer_norm,
    add_rms_norm,
    attention,
    embed_layer_norm,
    linear,
    pack_head,
    pack_linear,
    score_head,
    take_sequences,
)
from packrank_kernels.packed import FORMATS
from packrank_kernels.testing import cu_seqlens

Job = tuple[str, Callable[[], object]]
WIDTHS = (384, 768, 1024)
DECODER_WIDTHS = (896, 1536, 2304)


class Jobs:
    """Calls by name; nothing is drawn before its turn."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_device = device.type == "cuda"
        self.backend = "triton" if self.on_device else "auto"
        self.dtype = torch.float16 if self.on_device else torch.float32

    def draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.device).to(self.dtype)

    def every(self) -> Iterator[Job]:
        """The slowest to compile first, so that shares end together."""
        yield from self.products()
        yield from self.attentions()
        yield from self.scores()
        yield from self.rows()

    def products(self) -> Iterator[Job]:
        rows = (TOKENS, 2048, 128) if self.on_device else (8,)
        for layers in LAYERS.values():
            for inputs, outputs, activation, gated in layers:
                for count in rows:
                    yield (
                        f"linear {count} x {inputs} -> {outputs} {activation} {gated}",
                        lambda count=count, layer=(inputs, outputs, activation, gated): (
                            self.product(count, *layer)
                        ),
                    )

    def product(
        self, rows: int, inputs: int, outputs: int, activation: str | None, gated: bool
    ) -> object:
        weight = self.draw(outputs * (1 + gated), inputs)
        bias = torch.zeros(len(weight), device=self.device)
        packed = pack_linear(weight, bias, activation=activation, gated=gated, backend=self.backend)
        return linear(self.draw(rows, inputs), packed)

    def attentions(self) -> Iterator[Job]:
        for size in packs.SIZES:
            for longest in (32, 64, 128, 256, 512):
                yield f"attention {size}, {longest}", lambda s=size, n=longest: self.attend(s, n)
            yield f"attention {size}, first", lambda s=size: self.attend(s, 128, first=True)
        for longest in (128, 512):
            for window in (None, 64):
                options = {"window": window, "rotates": True}
                yield (
                    f"attention of ModernBERT, {longest}, window {window}",
                    lambda n=longest, options=options: self.attend(64, n, **options),
                )
        for prefixed in (False, True):
            yield (
                f"attention of a decoder, prefix {prefixed}",
                lambda prefixed=prefixed: self.attend(
                    64, 512, rotates=True, causal=True, heads=14, prefixed=prefixed
                ),
            )

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
            yield f"norm of a decoder of {size}", lambda size=size: add_rms_norm(
                self.draw(64, size), self.draw(64, size),
                torch.ones(size, device=self.device), EPS, backend=self.backend,
            )  # fmt: skip

    def norms(self, size: int) -> None:
        weight, bias = torch.randn(2, size, device=self.device)
        x, y, count = self.draw(64, size), self.draw(64, size), 64
        options = {"backend": self.backend}
        add_layer_norm(x, y, weight, bias, EPS, **options)
        ids = torch.zeros(3, count, dtype=torch.int32, device=self.device)
        tables = self.draw(3, 8, size)
        embed_layer_norm(*ids, *tables, weight, bias, EPS, **options)
        cu = cu_seqlens([32, 32]).to(self.device)
        take_sequences(x, cu, cu[:1].contiguous(), 32, **options)
        dense, out = torch.randn(size, size, device=self.device), weight[None]
        head = pack_head(dense, None, "tanh", None, out, None, **options)
        score_head(x, head, cu[:2].contiguous())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("share", help="I/N: every Nth job, from the Ith on")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU")
    options = parser.parse_args()
    first, step = map(int, options.share.split("/"))
    device = torch.device("cpu" if options.dry_run else "cuda")
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
    print(f"{made} calls, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
