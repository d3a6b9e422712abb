"""What the machine can do, measured: memory, products, tokenization, launches."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from packrank.bench.machine import caches, memory_bytes
from packrank.bench.report import Ceiling
from packrank.bench.subjects.texts import Pairs
from packrank.bench.timing import Call, Clock, by_host, repeats_for, turns
from packrank.text.tokenizer import Tokenizer
from packrank_kernels import get_num_threads, linear, pack_linear, stream

ROUNDS = 7
SAMPLE_S = 0.05
PRODUCT_DTYPES = ("float32", "bfloat16", "float16", "int8")
_LARGEST_STREAM = 1 << 30  # bytes, of what is read or written
_LARGE = {"cpu": 1024, "cuda": 8192}  # rows and columns of a large product
PAIRS = 512  # that are tokenized: enough to keep all cores busy


@dataclass(frozen=True)
class Measured:
    """A ceiling to be measured.

    Attributes:
        name: of the ceiling.
        kind: see `Ceiling`.
        unit: see `Ceiling`.
        call: does the work so many times.
        amount: of one time, in units; of "s" ignored.
        facts: for the report.
    """

    name: str
    kind: str
    unit: str
    call: Callable[[int], object]
    amount: float
    facts: dict[str, Any]


def measure(
    every: list[Measured], *, rounds: int | None = None, clock: Clock = by_host
) -> list[Ceiling]:
    """Measure ceilings in turns, each call long enough to forget what a call costs."""
    repeated = [Repeated.of(one, clock) for one in every]
    calls: dict[str, Call] = {one.ceiling.name: one.run for one in repeated}
    turns(calls, rounds=rounds or ROUNDS, warm_up=False)
    return [one.ceiling for one in repeated]


@dataclass
class Repeated:
    """A ceiling whose samples come one by one, in whatever rounds there are.

    Attributes:
        what: is measured.
        times: that its call repeats the work.
        ceiling: with the samples so far.
        clock: what times it.
    """

    what: Measured
    times: int
    ceiling: Ceiling
    clock: Clock = by_host

    @classmethod
    def of(cls, what: Measured, clock: Clock = by_host, seconds: float | None = None) -> "Repeated":
        """None so far; a sample takes so many seconds, by default `SAMPLE_S`."""
        times = repeats_for(what.call, seconds or SAMPLE_S, clock)
        return cls(what, times, Ceiling(what.name, what.kind, what.unit, [], what.facts), clock)

    def run(self) -> None:
        """One sample more."""
        each = self.clock(partial(self.what.call, self.times)) / self.times
        self.ceiling.samples.append(each if self.what.unit == "s" else self.what.amount / each)


def memory(device: torch.device) -> list[Measured]:
    """Reading and copying, of what lies in each cache and of what lies in none."""
    if device.type == "cuda":
        size = 1 << 28
        return [copy(device, "memory", size), _read(device, "memory", size)]
    threads, levels = get_num_threads(), caches()
    sizes, lower = {}, 0
    for name, (size, shared) in levels.items():
        whole = size * max(1, threads // shared)
        if whole > 4 * lower:  # else what the level below holds would count as this one's
            sizes[name] = max(whole // 4, 2 * lower)
            lower = whole
    room = (memory_bytes() or 4 * _LARGEST_STREAM) // 8
    sizes["memory"] = min(max(4 * lower, 1 << 26), _LARGEST_STREAM, room)
    ready = []
    for name, size in sizes.items():
        ready += [_read(device, name, size), copy(device, name, size // 2)]
    return ready


def products(device: torch.device) -> list[Measured]:
    """Large products in each dtype, by torch and by the kernels here; the best is the ceiling."""
    size = _LARGE[device.type]
    ready: list[Measured] = []
    for name in PRODUCT_DTYPES:
        ready += product(device, name, size, size, size)
    return ready


def product(
    device: torch.device, dtype: str, rows: int, inputs: int, outputs: int, of: str = ""
) -> list[Measured]:
    """One product by whoever can do it here.

    Args:
        device: where.
        dtype: of its operands.
        rows: of [rows, inputs] times [inputs, outputs].
        inputs: see there.
        outputs: see there.
        of: whose shape it is; "": of nobody, a large one.
    """
    facts = {"m": rows, "n": outputs, "k": inputs, "dtype": dtype, "of": of}
    shape = f", {inputs} -> {outputs} of {of}" if of else ""
    amount = 2.0 * rows * inputs * outputs
    ready = []
    for by, call in _multipliers(device, dtype, rows, inputs, outputs).items():
        name = f"product, {dtype}{shape}, {by}"
        ready.append(Measured(name, "products", "op/s", call, amount, facts | {"by": by}))
    return ready


def _multipliers(
    device: torch.device, dtype: str, rows: int, inputs: int, outputs: int
) -> dict[str, Callable[[int], object]]:
    if dtype == "int8":
        return _that_run(_of_integers(device, rows, inputs, outputs))
    kind: torch.dtype = getattr(torch, dtype)
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(rows, inputs, device=device, generator=generator).to(kind)
    weight = torch.randn(outputs, inputs, device=device, generator=generator).to(kind)
    out = torch.empty(rows, outputs, dtype=kind, device=device)

    def by_torch(times: int) -> Tensor:
        for _ in range(times):
            torch.mm(x, weight.t(), out=out)
        return out

    found: dict[str, Callable[[int], object]] = {"torch": by_torch}
    layer = pack_linear(weight)
    if layer.backend != "reference":

        def ours(times: int) -> Tensor:
            for _ in range(times):
                y = linear(x, layer)
            return y

        found["packrank"] = ours
    return _that_run(found)


def _of_integers(
    device: torch.device, rows: int, inputs: int, outputs: int
) -> dict[str, Callable[[int], object]]:
    generator = torch.Generator().manual_seed(0)
    x, w = (
        torch.randint(0, 127, size, dtype=torch.int8, generator=generator).to(device)
        for size in ((rows, inputs), (outputs, inputs))
    )

    def by_torch(times: int) -> None:
        for _ in range(times):
            torch._int_mm(x, w.t())

    if device.type != "cpu":
        return {"torch": by_torch}

    def by_onednn(times: int) -> None:
        packed = torch.ops.onednn.qlinear_prepack(w, [rows, inputs])
        scales, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int32)
        given = x.to(torch.uint8)
        rest: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")
        for _ in range(times):
            torch.ops.onednn.qlinear_pointwise(given, 1.0, 0, packed, scales, zeros, *rest)

    return {"torch": by_torch, "oneDNN": by_onednn}


def _that_run(found: dict[str, Callable[[int], object]]) -> dict[str, Callable[[int], object]]:
    able = {}
    for name, call in found.items():
        try:
            call(1)
        except (RuntimeError, NotImplementedError, AttributeError):
            continue
        able[name] = call
    return able


def tokenization(tokenizer: Tokenizer, pairs: Pairs, name: str) -> list[Measured]:
    """Texts to ids, on one core and on all.

    Args:
        tokenizer: of a model.
        pairs: whose texts they are.
        name: of the model.
    """
    given = [text for pair in pairs for text in pair]

    def encode(times: int) -> None:
        for _ in range(times):
            tokenizer.try_encode(given)

    def alone(times: int) -> None:
        with _one_core():
            encode(times)

    facts = {"pairs": len(pairs), "characters": sum(map(len, given))}
    return [
        Measured(f"tokenizer, {where}, {name}", "tokenizer", "pairs/s", call, len(pairs), facts)
        for where, call in (("one core", alone), ("all cores", encode))
    ]


def launches(device: torch.device) -> list[Measured]:
    """What the host pays to start work that is next to none; nothing on a CPU."""
    if device.type != "cuda":
        return []
    x = torch.zeros(1, device=device)

    def launch(times: int) -> None:
        for _ in range(times):
            x.add_(1.0)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.add_(1.0)

    def replay(times: int) -> None:
        for _ in range(times):
            graph.replay()

    return [
        Measured("launch of a kernel", "launch", "s", launch, 1, {}),
        Measured("launch of a graph of one kernel", "launch", "s", replay, 1, {}),
    ]


@contextmanager
def _one_core() -> Iterator[None]:
    """The tokenizers library asks for this at each call."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _read(device: torch.device, where: str, size: int) -> Measured:
    x = torch.ones(max(size // 4, 64), device=device)
    return Measured(
        f"read, {where}", "bandwidth", "B/s", lambda times: stream(x, repeats=times),
        4.0 * len(x), {"bytes": 4 * len(x), "threads": get_num_threads()},
    )  # fmt: skip


def copy(device: torch.device, where: str, size: int) -> Measured:
    """Copying so many bytes, of which as many are read as are written."""
    x = torch.ones(max(size // 4, 64), device=device)
    out = torch.zeros_like(x)
    return Measured(
        f"copy, {where}", "bandwidth", "B/s", lambda times: stream(x, out, repeats=times),
        8.0 * len(x), {"bytes": 8 * len(x), "threads": get_num_threads()},
    )  # fmt: skip
