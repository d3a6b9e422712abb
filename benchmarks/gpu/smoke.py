"""Small questions to a device: `smoke.py QUESTION...`; each has the right answer or the reason.

A question is to be asked in a process of its own: one that hangs says where, by faulthandler, and
one that crashes takes no other along. Exit status 3 where what is asked is not there.
"""

import argparse
import contextlib
import faulthandler
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from packrank_kernels import (
    Codec,
    TokenEmbeddings,
    add_layer_norm,
    add_rms_norm,
    embed_layer_norm,
    linear,
    maxsim,
    pack_head,
    pack_linear,
    reference,
    score_head,
)
from packrank_kernels import attention as attend
from packrank_kernels.dispatch import TABLE
from packrank_kernels.packed import BITS, FLOATS
from packrank_kernels.testing import TOLERANCE, assert_close, cu_seqlens

NOT_HERE = 3
HANGS_S = 17.0  # then faulthandler says where it stands; three seconds later it is ended
LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200, 255, 256, 0, 31]
EPS = 1e-12


class NotHere(Exception):
    """What is asked about is not on this machine."""


class Device:
    """Where questions are asked; on a CPU, to try the program, backends are chosen for it."""

    def __init__(self, dry: bool) -> None:
        self.device = torch.device("cpu" if dry else "cuda")
        self.dry = dry
        self.dtype = torch.float32 if dry else torch.float16

    def named(self, op: str, name: str) -> str:
        """A backend to ask for by name; it must be there."""
        if self.dry:
            return "auto"
        (backend,) = (one for one in TABLE[op] if one.name == name)
        if reason := backend.why_not(self.device, self.dtype):
            raise NotHere(reason)
        return name

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device).to(self.dtype)

    @contextlib.contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Within it torch raises where a call would wait for the device."""
        if self.dry:
            yield
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def check(call: Callable[[], Tensor], expected: Tensor, roundings: int = 2) -> None:
    """Compare, by so many times what a test allows of an op that rounds once.

    What the call leaves unwritten is NaN: the allocator hands the same block out again.
    """
    dtype = call().dtype
    torch.full(expected.shape, torch.nan, dtype=dtype, device=expected.device)
    assert_close(call(), expected, roundings * TOLERANCE[dtype])


def norm(at: Device) -> None:
    for size in (384, 768, 1024):
        norms_of(at, size)


def norms_of(at: Device, size: int) -> None:
    x, residual = at.draw(333, size), at.draw(333, size)
    weight, bias = torch.randn(2, size, device=at.device)
    layer = at.named("add_layer_norm", "triton")
    check(
        lambda: torch.stack(add_layer_norm(x, residual, weight, bias, EPS, backend=layer)),
        torch.stack(reference.add_layer_norm(x, residual, weight, bias, EPS)),
    )
    rms = at.named("add_rms_norm", "triton")
    check(
        lambda: torch.stack(add_rms_norm(x, residual, weight, EPS, backend=rms)),
        torch.stack(reference.add_rms_norm(x, residual, weight, EPS, 1.0)),
    )


def embedding(at: Device) -> None:
    size = 384
    tables = [at.draw(rows, size) for rows in (1000, 512, 2)]
    ids = [torch.randint(len(t), (777,), dtype=torch.int32, device=at.device) for t in tables]
    weight, bias = torch.randn(2, size, device=at.device)
    backend = at.named("embed_layer_norm", "triton")
    check(
        lambda: embed_layer_norm(*ids, *tables, weight, bias, EPS, backend=backend),
        reference.embed_layer_norm(*ids, *tables, weight, bias, EPS),
    )


def head(at: Device) -> None:
    size, backend = 384, at.named("score_head", "triton")
    dense, out = torch.randn(size, size, device=at.device) / size**0.5, torch.randn(1, size)
    out, hidden = out.to(at.device), at.draw(500, size)
    rows = torch.arange(0, 500, 7, dtype=torch.int32, device=at.device)
    packed = pack_head(dense, None, "tanh", None, out, None, backend=backend)
    pooled = hidden[rows.long()].double()
    inner = reference.linear(pooled, dense.double(), None, "tanh", False)
    expected = reference.linear(inner, out.double(), None, None, False)
    check(lambda: score_head(hidden, packed, rows), expected)


def linear_layers(at: Device) -> None:
    """By the copy engine and tensor cores where there are any, and by cuBLASLt."""
    for inputs, outputs, activation, gated in (
        (384, 1536, "gelu", False), (1536, 384, None, False), (768, 1152, "gelu", True),
    ):  # fmt: skip
        weight = at.draw(outputs * (1 + gated), inputs) / inputs**0.5
        bias = torch.randn(len(weight), device=at.device)
        for rows in (1000, 33):
            x = at.draw(rows, inputs)
            expected = reference.linear(x.float(), weight.float(), bias, activation, gated)
            for name in ("triton",) if activation else ("triton", "cublas"):
                packed = pack_linear(
                    weight, bias, activation=activation, gated=gated,
                    backend=at.named("linear", name),
                )  # fmt: skip
                check(lambda x=x, packed=packed: linear(x, packed), expected)


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


def scores(at: Device, name: str, tokens: int) -> None:
    """Of documents in every format: integers exactly, sums of halves in another order."""
    backend = at.named("maxsim", name)
    queries = [torch.randn(tokens, 128), torch.randn(tokens - 3, 128)]
    drawn = [torch.randn(length, 128) for length in (*LENGTHS, 300)]
    for format in ("float16", "bfloat16", "int8", "4bit", "2bit"):
        codec = None
        if format in BITS:
            weights = torch.randn(2 ** BITS[format]).sort().values
            codec = Codec.of(torch.randn(9, 128), (weights[1:] + weights[:-1]) / 2, weights)
        documents = TokenEmbeddings.encode(drawn, format, codec)
        expected = maxsim(queries, documents, backend="reference")
        actual = maxsim(
            [query.to(at.device) for query in queries], documents.to(at.device), backend=backend
        )
        assert_close(actual.cpu(), expected, 1e-4 if format in FLOATS else 0.0)


def transfer(at: Device) -> None:
    """Arrays up and down again, many under way at once; nothing waits once buffers have grown."""
    from packrank.runtime.transfer import Uploads, fetch

    uploads, sizes = Uploads(at.device), [5000, *range(4900, 100, -300)]
    target = torch.zeros(max(sizes), dtype=torch.int32, device=at.device)
    for turn in range(3):
        waiting = []
        with at.without_waiting() if turn else contextlib.nullcontext():
            for size in sizes:
                part = target[:size]
                uploads.send(lambda host, n=size: host.fill(n), part)
                waiting.append(fetch(part.float() * 2))
        for size, wait in zip(sizes, waiting, strict=True):
            found = wait()
            assert found.shape == (size,)
            assert (found == 2 * size).all(), f"{size}: {np.unique(found)[:5]}"


@contextlib.contextmanager
def encoder(at: Device, *, head: bool = True):
    """MiniLM's shape, and a pack of 1024 tokens."""
    import checkpoints
    from forward import packs

    from packrank.models import load_model

    with tempfile.TemporaryDirectory() as folder:
        made = checkpoints.make("MiniLM-L6", Path(folder), at.device, tiny=at.dry)
        model = load_model(made, device=at.device, dtype=at.dtype, head=head)
        yield model, packs(model, 1024, 1)[0]


def graph(at: Device) -> None:
    with encoder(at) as (model, pack):
        replays(at, model, [model.scoring(pack)])


def graph_of_vectors(at: Device) -> None:
    """Of some tokens, where some are no keys; and at length 1."""
    from packrank.late.token_vectors import normalize

    with encoder(at, head=False) as (model, pack):
        keys = pack.lengths - np.int32(3)
        rows = np.arange(0, len(pack.token_ids), 2, dtype=np.int32)
        some = model.encoding(pack, keys, rows)
        replays(at, model, [some, some.then(normalize), model.encoding(pack)])


def replays(at: Device, model: Any, programs: list[Any]) -> None:
    """A bucket each is captured, once; replays have its bits, and submitting waits for nothing."""
    from packrank.runtime.capture import broken
    from packrank.runtime.graphs import PATIENCE, Graphs
    from packrank.runtime.transfer import fetch

    graphs = Graphs(model, (lambda forward: forward) if at.dry else None)

    def submit(program: Any) -> Callable[[], np.ndarray]:
        is_encoding = "states" in program.kind
        return fetch(graphs.run(program).float()) if is_encoding else graphs.submit(program)

    eager = [submit(program)() for program in programs]
    assert all(np.isfinite(found).all() for found in eager)
    for program in programs * PATIENCE:
        submit(program)()
    with at.without_waiting():
        waiting = [submit(program) for program in programs * 3]
    for wait, expected in zip(waiting, eager * 3, strict=True):
        np.testing.assert_array_equal(wait(), expected)
    count = len(programs)
    assert graphs.num_graphs == count, f"{graphs.num_graphs} graphs, not {count}: {broken()}"


def threads(at: Device) -> None:
    """Four of them share a runner; scores keep their bits, captured or not."""
    from packrank.runtime.runner import Runner

    with encoder(at) as (model, pack):
        runner = Runner(model, 512)
        expected = runner.logits(pack)
        with ThreadPoolExecutor(4) as pool:
            for logits in pool.map(lambda _: runner.logits(pack), range(12)):
                np.testing.assert_array_equal(logits, expected)


@contextlib.contextmanager
def small_decoder(at: Device):
    """Four layers of Qwen2, and transformers' own of the same weights."""
    import decoders

    from packrank.models import CausalSettings, load_model

    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8,
             "num_hidden_layers": 4, "vocab_size": 999}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        peer = decoders.make(
            "Qwen2.5-0.5B", Path(folder), at.device, **(decoders.TINY if at.dry else sizes)
        )
        settings = CausalSettings(head="classifier")
        yield load_model(Path(folder), device=at.device, dtype=at.dtype, causal=settings), peer


def decoder(at: Device) -> None:
    """Scores with a shared prefix and without, against transformers'; a forward never waits."""
    import decoders

    with small_decoder(at) as (model, peer):
        decoders.check(model, peer, at.dtype)
        if at.dry:
            return
        pack = decoders.candidates([40] * 20, 60, model.config.vocab_size)
        model.logits(pack)  # compiled, and buffers grown
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            model.logits(pack)
            torch.cuda.set_sync_debug_mode("default")
        found = [x for x in caught if "called a synchronizing" in str(x.message)]
        places = ", ".join(f"{Path(x.filename).name}:{x.lineno}" for x in found)
        assert not found, f"its forward waits for the device {len(found)} times: {places}"


def graph_of_a_decoder(at: Device) -> None:
    """With a shared prefix, and without."""
    import decoders

    with small_decoder(at) as (model, _):
        shared = decoders.candidates([40] * 20, 60, model.config.vocab_size)
        replays(at, model, [model.scoring(pack) for pack in (shared, decoders.whole(shared))])


QUESTIONS: dict[str, Callable[[Device], None]] = {
    "norm": norm,
    "embedding": embedding,
    "head": head,
    "linear": linear_layers,
    **{
        f"attention-{form}": lambda at, form=form: attention_triton(at, form)
        for form in ("self", "first", "prefix")
    },
    "attention-cuda": attention_cuda,
    **{
        f"maxsim-{prefix}{tokens}": lambda at, name=name, tokens=tokens: scores(at, name, tokens)
        for name, prefix in (("triton", ""), ("cuda", "cuda-"))
        for tokens in (32, 64, 128)
    },
    "transfer": transfer,
    "graph": graph,
    "threads": threads,
    "decoder": decoder,
    "graph-decoder": graph_of_a_decoder,
    "graph-vectors": graph_of_vectors,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", nargs="+", choices=QUESTIONS, metavar="QUESTION")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU")
    options = parser.parse_args()
    faulthandler.enable()
    if not options.dry_run:
        faulthandler.dump_traceback_later(HANGS_S)
    at, status = Device(options.dry_run), 0
    for name in options.questions:
        torch.manual_seed(0)
        start = time.monotonic()
        try:
            QUESTIONS[name](at)
            if not at.dry:
                torch.cuda.synchronize()
        except NotHere as reason:
            print(f"{name} is not asked: {reason}", flush=True)
            status = status or NOT_HERE
        else:
            print(f"{name}: right, in {time.monotonic() - start:.1f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
