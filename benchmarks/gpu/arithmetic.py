"""What an H200 should take for the benchmarks' shapes, kernel by kernel. No torch, no measurement.

A kernel takes as long as the busiest of its resources, a forward as long as its kernels and the
gaps between them. Left out: waves that are not full, a product's beginning and end, latencies.
"""

import functools
import re
from dataclasses import dataclass

from sizes import DECODERS, ENCODERS, LONGEST, SHORTEST, SPLIT_SHARE, WORDS

MEMORY, CACHE = 4.8e12, 5.5e12  # bytes a second
CACHE_BYTES = 60 * 2**20
DENSE = 790e12  # operations a second, float16; of bytes twice as many
PROCESSORS, CLOCK = 132, 1.755e9
CLOCKS = PROCESSORS * CLOCK
ISSUE, ALU, SPECIAL = 4 * CLOCKS, 2 * CLOCKS, CLOCKS / 2  # warps' instructions a second
GAP = 1e-6  # seconds between kernels of a graph
# The host's seconds: an op launched by itself, a pack as a graph, one pair laid out, its texts'
# tokens on one core.
NORM, LINEAR, ATTENTION, GRAPH = 26e-6, 44e-6, 70e-6, 120e-6
LAYOUT, TOKENIZED, CORES = 4e-6, 250e-6, 16

# Of a warp, as `python tests/instructions.py` counts them in the machine code that nvcc 13.0 makes:
# (issued, of which ALU, which has half as many lanes).
# Attention: a step of 16 queries and 64 keys; beside its steps a tile of 16 queries; a chunk of 16
# bytes of a key and of a value a lane; beside all these a unit (csrc/cuda/units.h).
# MaxSim: a tile of 16 document tokens at 32 query tokens; at many, what a tile has once a pass over
# the documents (rows), and each panel of 128 query tokens.
INSTRUCTIONS: dict[str, dict[str, tuple[int, int]]] = {
    "attention 32": {
        "step": (253, 64),
        "tile": (210, 92),
        "chunk": (60, 26),
        "unit": (147, 61),
    },
    "attention 64": {
        "step": (329, 68),
        "tile": (288, 134),
        "chunk": (63, 30),
        "unit": (151, 61),
    },
    "maxsim float16": {"tile": (177, 59), "rows": (74, 12), "panel": (223, 136)},
    "maxsim int8": {"tile": (145, 38), "rows": (57, 13), "panel": (348, 132)},
    "maxsim 4bit": {"tile": (252, 120), "rows": (136, 95), "panel": (348, 132)},
    "maxsim 2bit": {"tile": (210, 91), "rows": (122, 66), "panel": (348, 132)},
}
# Of Triton's products, a value that is activated: backend/triton/linear.py.
EPILOGUE = 16


@dataclass(frozen=True)
class Kernel:
    """What one launch keeps busy.

    Attributes:
        name: what it does.
        moved: bytes of memory, each once.
        operations: of products.
        cached: bytes that come from the second-level cache beside those.
        issue: instructions of warps; alu: those of the half-rate unit among them.
        exponentials: of single values.
        launches: where it is several small ones.
        dense: operations a second.
    """

    name: str
    moved: float = 0.0
    operations: float = 0.0
    cached: float = 0.0
    issue: float = 0.0
    alu: float = 0.0
    exponentials: float = 0.0
    launches: int = 1
    dense: float = DENSE

    @property
    def times(self) -> dict[str, float]:
        """Seconds of each resource, by its name."""
        return {
            "memory": self.moved / MEMORY,
            "cache": (self.moved + self.cached) / CACHE,
            "products": self.operations / self.dense,
            "issue": self.issue / ISSUE,
            "ALU": self.alu / ALU,
            "exponentials": self.exponentials / 32 / SPECIAL,
        }

    @property
    def binds(self) -> str:
        times = self.times
        return max(times, key=lambda name: times[name])

    @property
    def seconds(self) -> float:
        return self.times[self.binds]


@dataclass(frozen=True)
class Forward:
    """Kernels, each with how often it runs, for some scored sequences.

    Attributes:
        kernels: (times, what).
        scored: sequences, candidates or queries times documents.
        eager: the host's seconds where it launches op by op.
        is_graph: whether it launches a graph.
    """

    kernels: list[tuple[int, Kernel]]
    scored: int
    eager: float = 0.0
    is_graph: bool = True

    @property
    def launches(self) -> int:
        return sum(count * kernel.launches for count, kernel in self.kernels)

    @property
    def operations(self) -> float:
        return sum(count * kernel.operations for count, kernel in self.kernels)

    @property
    def device(self) -> float:
        """Seconds of the device."""
        return sum(count * kernel.seconds for count, kernel in self.kernels) + GAP * self.launches

    @property
    def host(self) -> float:
        return GRAPH if self.is_graph else self.eager

    @property
    def seconds(self) -> float:
        """Host and device work side by side."""
        return max(self.device, self.host)

    @property
    def share(self) -> float:
        """Of the dense rate."""
        return self.operations / self.seconds / DENSE


def linear(
    name: str, rows: int, inputs: int, outputs: int, *, act: bool = False, gated: bool = False
) -> Kernel:
    wide = outputs * (1 + gated)
    return Kernel(
        name,
        moved=2 * (rows * (inputs + outputs) + inputs * wide),
        operations=2 * rows * inputs * wide,
        issue=EPILOGUE * rows * outputs / 32 if act else 0.0,
    )


def add_norm(rows: int, size: int) -> Kernel:
    """Of a sum: two tensors are read; the norm and the sum are written."""
    return Kernel("add + norm", moved=4 * 2 * rows * size)


def visible(length: int, window: int | None = None) -> int:
    """Pairs of a query and a key that it sees, in one sequence."""
    if window is None:
        return length * length
    return sum(min(i + window, length - 1) - max(i - window, 0) + 1 for i in range(length))


def attention(
    name: str, count: int, length: int, heads: int, size: int, *, window: int | None = None,
    by_triton: bool = False,
) -> Kernel:  # fmt: skip
    """Of `count` sequences; the CUDA kernel up to 256 tokens, unless positions are rotary."""
    pairs = count * heads * visible(length, window)
    issue = alu = 0.0
    if not by_triton and length <= 256:
        tiles, steps = -(-length // 16), -(-length // 64)
        chunks = length * size / 8 / 32
        often = {"step": tiles * steps, "tile": tiles, "chunk": chunks, "unit": 4}
        of = INSTRUCTIONS[f"attention {size}"]
        issue, alu = (count * heads * sum(often[x] * of[x][i] for x in of) for i in (0, 1))
    return Kernel(
        name,
        moved=4 * 2 * count * length * heads * size,
        operations=4 * pairs * size,
        issue=issue,
        alu=alu,
        exponentials=pairs,
    )


def head(name: str, rows: int, size: int) -> Kernel:
    """A dense layer in float32, without tensor cores, and the scores."""
    return Kernel(name, moved=4 * size * size + 2 * rows * size, issue=rows * size * size / 32)


def last_layer(
    rows: int, count: int, hidden: int, inner: int, kv: int, heads: int, *, gated: bool
) -> list[Kernel]:
    """Keys and values of all tokens; the rest of those that are scored, weights above all."""
    products = 2 * hidden * hidden + hidden * inner * (2 + gated)
    attended = Kernel(
        "last: attention of scored tokens",
        moved=2 * rows * 2 * kv + 4 * count * hidden,
        operations=4 * rows * hidden,
        exponentials=rows * heads,
    )
    rest = Kernel(
        "last: all else of scored tokens",
        moved=2 * products,
        operations=2 * count * products,
        launches=8,  # rows chosen twice; query, out, up and down products; two norms
    )
    return [linear("last: key, value product", rows, hidden, 2 * kv), attended, rest]


@functools.cache
def encoder(shape: str, count: int, length: int) -> Forward:
    """`count` sequences of one length, as one graph."""
    name, sizes = ENCODERS[shape]
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    layers, heads = sizes["num_hidden_layers"], sizes["num_attention_heads"]
    rows, full, is_modern = count * length, layers - 1, name == "ModernBert"

    def attend(kind: str, window: int | None = None) -> Kernel:
        return attention(f"attention{kind}", count, length, heads, hidden // heads, window=window,
                         by_triton=is_modern)  # fmt: skip

    attended = [(full, attend(""))]
    if is_modern:  # every third layer from the first on sees all, the others 64 to either side
        everywhere = -(-layers // 3) - (full % 3 == 0)
        attended = [(everywhere, attend(", global")), (full - everywhere, attend(", local", 64))]
    up = "gated GELU product" if is_modern else "GELU product"
    kernels = [
        (1, Kernel("embedding + norm", moved=rows * (12 + 4 * hidden))),
        (full, linear("query, key, value product", rows, hidden, 3 * hidden)),
        *attended,
        (full, linear("out product", rows, hidden, hidden)),
        # Pre-norm: none before the first layer, one before the last.
        (2 * full, add_norm(rows, hidden)),
        (full, linear(up, rows, hidden, inner, act=True, gated=is_modern)),
        (full, linear("down product", rows, inner, hidden)),
        *((1, k) for k in last_layer(rows, count, hidden, inner, hidden, heads, gated=is_modern)),
        (1, head("head", count, hidden)),
    ]
    return Forward(kernels, count, layers * (2 * NORM + 4 * LINEAR + ATTENTION))


@functools.cache
def decoder(shape: str, lengths: tuple[int, ...], prefix: int = 0) -> Forward:
    """Sequences of some lengths, launched op by op, behind one prefix that is there once."""
    _, sizes = DECODERS[shape]
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    layers, heads = sizes["num_hidden_layers"], sizes["num_attention_heads"]
    kv = sizes["num_key_value_heads"] * hidden // heads
    rows, full = sum(lengths) + prefix, layers - 1
    pairs = sum(n * (n + 1) // 2 + n * prefix for n in lengths) + prefix * (prefix + 1) // 2
    attended = Kernel(
        "attention, causal",
        moved=2 * rows * (2 * hidden + 2 * kv),
        operations=4 * pairs * hidden,
        exponentials=pairs * heads,
    )
    count = len(lengths)
    kernels = [
        (1, Kernel("embedding, first norm", moved=rows * (4 + 8 * hidden), launches=2)),
        (2 * full, add_norm(rows, hidden)),
        (full, linear("query, key, value product", rows, hidden, hidden + 2 * kv)),
        (full, attended),
        (full, linear("out product", rows, hidden, hidden)),
        (full, linear("gated SiLU product", rows, hidden, inner, act=True, gated=True)),
        (full, linear("down product", rows, inner, hidden)),
        *((1, k) for k in last_layer(rows, count, hidden, inner, kv, heads, gated=True)),
        (1, Kernel("last norm, head", launches=4)),
    ]
    eager = layers * (2 * NORM + 4 * LINEAR + ATTENTION)
    return Forward(kernels, count, eager, is_graph=False)


def budget(shape: str) -> int:
    """Tokens of a pack: `default_budget` of packrank/runtime/runner.py."""
    sizes = ENCODERS[shape][1]
    widest = max(sizes["intermediate_size"], 3 * sizes["hidden_size"])
    return min(max(CACHE_BYTES // (2 * widest) // 1024 * 1024, 4096), 16384)


@dataclass(frozen=True)
class Texts:
    """Seconds a pair, texts in, of each that works beside the others."""

    tokens: int
    times: dict[str, float]

    @property
    def binds(self) -> str:
        return max(self.times, key=lambda name: self.times[name])

    @property
    def seconds(self) -> float:
        return self.times[self.binds]


def texts(shape: str, cap: int) -> Texts:
    """Pairs of the benchmark's words, cut at `cap` tokens, packed as if all had their mean."""
    special = 4 if ENCODERS[shape][0] == "XLMRoberta" else 3
    every = [min(cap, round((q + d) * (1 + SPLIT_SHARE)) + special) for q, d in WORDS]
    tokens = round(sum(every) / len(every))
    count = budget(shape) // tokens
    device = encoder(shape, count, tokens).device / count
    times = {
        "the device": device,
        "tokenization": TOKENIZED / CORES,
        "one thread of Python": LAYOUT + GRAPH / count,
    }
    return Texts(tokens, times)


def bytes_per_token(format: str, size: int = 128) -> int:
    """Values, scale and code."""
    return {"float16": 2 * size, "bfloat16": 2 * size, "int8": size + 4,
            "4bit": size // 2 + 8, "2bit": size // 4 + 8}[format]  # fmt: skip


def passes(format: str, columns: int) -> int:
    """Over the documents, with as many panels of 128 query tokens at a time as fit.

    See `plan_maxsim` of csrc/cuda/maxsim.h.
    """
    is_float = format.endswith("float16")
    slots = {"int8": 5, "4bit": 7, "2bit": 6}.get(format, 8)
    left = 232448 - 64 - 3 * 2 * slots * 2048  # three warpgroups, two stages each
    panels = left // (128 * ((256 if is_float else 128 + 8) + 3 * 16))
    return -(-(columns // 128) // panels)


@functools.cache
def maxsim(queries: int, tokens: int, documents: int, length: int, format: str) -> Forward:
    """Scores of `documents` of `length` tokens for each of some queries; D = 128."""
    rows, columns = documents * length, queries * tokens
    of = INSTRUCTIONS[f"maxsim {'float16' if format == 'bfloat16' else format}"]
    turns = 1 if columns <= 32 else passes(format, columns)
    often = {"tile": 1} if columns <= 32 else {"rows": turns, "panel": columns / 128}
    issue, alu = (rows / 16 * sum(often[x] * of[x][i] for x in often) for i in (0, 1))
    is_float = format.endswith("float16")
    has_centroids = format in ("4bit", "2bit")
    maxima, scores = 4 * documents * max(columns, 32), 4 * queries * documents
    kernels = [
        (1, Kernel("maxima", moved=turns * rows * bytes_per_token(format) + maxima,
                   operations=2 * rows * columns * 128, dense=DENSE * (2 - is_float),
                   cached=turns * rows * 128 * has_centroids, issue=issue, alu=alu)),
        (1, Kernel("sums", moved=maxima + scores)),
        (1, Kernel("query bytes, starts", launches=10 * (not is_float) + (queries > 1))),
    ]  # fmt: skip
    return Forward(kernels, queries * documents, is_graph=False)


def predicted(bench: str, case: str) -> float | None:
    """Seconds that a row of the benchmarks should have as its median; None where no one knows."""
    named, _, rest = case.partition(", ")
    if bench == "forward" and (found := re.match(r"(\d+) x (\d+) tokens", rest)):
        return encoder(named, int(found[1]), int(found[2])).seconds
    if bench == "cross-encoder" and (found := re.match(r"pairs of up to (\d+) tokens", rest)):
        return texts(named, int(found[1])).seconds
    if bench == "decoder" and (found := re.match(r"(\d+) x (\d+) tokens", rest)):
        return decoder(named, (int(found[2]),) * int(found[1])).seconds
    if bench == "decoder" and (found := re.match(r"(\d+) candidates under (\d+) tokens", rest)):
        return candidates(named, int(found[1]), int(found[2])).seconds / int(found[1])
    of = r"(\d+) x (\d+) tokens, (\d+) documents of (\d+), (\w+)"
    if bench == "maxsim" and (found := re.fullmatch(of, case)):
        numbers = [int(x) for x in found.groups()[:4]]
        columns = numbers[0] * numbers[1]
        if columns == 32 or columns % 128 == 0:
            return maxsim(*numbers, found[5]).seconds
    return None


def candidates(shape: str, count: int, prefix: int) -> Forward:
    """Documents of all lengths from SHORTEST to LONGEST alike, behind the query's prefix."""
    step = (LONGEST - SHORTEST) / max(count - 1, 1)
    return decoder(shape, tuple(round(SHORTEST + i * step) for i in range(count)), prefix)
