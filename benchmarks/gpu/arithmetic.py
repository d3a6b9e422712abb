"""What an H200 should take for the benchmarks' shapes, kernel by kernel. No torch, no measurement.

A forward takes as long as its kernels (resources.py) and the gaps between them.
"""

import functools
import re
from dataclasses import dataclass, replace

from resources import (
    CACHE_BYTES,
    DENSE,
    GAP,
    INSTRUCTIONS,
    Kernel,
    add_norm,
    attention,
    by_distance,
    head,
    in_pages,
    linear,
)
from sizes import (
    DEBERTAS,
    DECODERS,
    DISTANCES,
    ENCODERS,
    LONGEST,
    PAGED,
    SHORTEST,
    SPLIT_SHARE,
    WORDS,
)

# The host's seconds: an op launched by itself, a pack as a graph, one pair laid out, its texts'
# tokens on one core.
NORM, LINEAR, ATTENTION, GRAPH = 26e-6, 44e-6, 70e-6, 120e-6
LAYOUT, TOKENIZED, CORES = 4e-6, 250e-6, 16


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
    name, sizes = (ENCODERS | DEBERTAS)[shape]
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    layers, heads = sizes["num_hidden_layers"], sizes["num_attention_heads"]
    rows, full, is_modern = count * length, layers - 1, name == "ModernBert"

    def attend(kind: str, window: int | None = None) -> Kernel:
        return attention(f"attention{kind}", count, length, heads, hidden // heads, window=window,
                         by_triton=is_modern)  # fmt: skip

    attended = [(full, attend(""))]
    if name == "DebertaV2":
        attended = [(full, by_distance("attention, by distance", count, length, heads,
                                       hidden // heads, 2))]  # fmt: skip
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


@functools.cache
def step(shape: str, count: int, have: int) -> Forward:
    """A token each of `count` sequences of `have`, and the logits of what follows; op by op."""
    _, sizes = DECODERS[shape]
    hidden, inner = sizes["hidden_size"], sizes["intermediate_size"]
    layers, heads = sizes["num_hidden_layers"], sizes["num_attention_heads"]
    key_heads, words, size = sizes["num_key_value_heads"], sizes["vocab_size"], hidden // heads
    qkv = hidden + 2 * key_heads * size
    vocabulary = linear("vocabulary product", count, hidden, words)
    kernels = [
        (1, Kernel("embedding, first norm", moved=count * (4 + 8 * hidden), launches=2)),
        (2 * layers, add_norm(count, hidden)),
        (layers, linear("query, key, value product", count, hidden, qkv)),
        *((layers, k) for k in in_pages(count, have, heads, key_heads, size)),
        (layers, linear("out product", count, hidden, hidden)),
        (layers, linear("gated SiLU product", count, hidden, inner, act=True, gated=True)),
        (layers, linear("down product", count, inner, hidden)),
        (1, replace(vocabulary, moved=vocabulary.moved + 2 * count * words)),  # float32 is written
    ]
    eager = layers * (3 * NORM + 4 * LINEAR + ATTENTION)
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
    if bench == "relative attention" and (found := re.match(r"(\d+) x (\d+) tokens", rest)):
        one = DISTANCES[named]
        return by_distance("", int(found[1]), int(found[2]), one.heads, 64, one.tables).seconds
    grown = re.match(r"(\d+) sequences of (\d+) tokens", rest)
    if bench == "paged attention" and grown:
        kernels = in_pages(int(grown[1]), int(grown[2]), *PAGED[named])
        return sum(one.seconds + GAP for one in kernels)
    if bench == "generation" and grown:
        return step(named, int(grown[1]), int(grown[2])).seconds / int(grown[1])
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
