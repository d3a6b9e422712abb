"""MaxSim in every format: checked against the definition, all scores, then timed.

Values are drawn at random, times do not depend on them; residual codes name centroids at random,
which is the least that a cache can be given, out of as many as ColBERT takes for so many tokens.
Bytes are those that must be read and written once: documents, offsets, queries, scores. Centroids
are not counted, they are the cache's. Goals are for an H100.

One query runs twice with the CUDA kernel: "documents evicted first" tells the L2 cache that nobody
reads a document again, so that centroids stay. The form that loses is to go.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from measure import Contestant, Session, num_sets
from torch import Tensor
from torch.nn.functional import normalize

from packrank_kernels import Codec, TokenEmbeddings, maxsim, reference
from packrank_kernels.backend import cuda_maxsim
from packrank_kernels.dispatch import TABLE, choose
from packrank_kernels.packed import BITS, FLOATS
from packrank_kernels.residual import to_planes
from packrank_kernels.testing import assert_close, cu_seqlens
from packrank_kernels.token_embeddings import quantize_int8

OURS = ("cuda", "triton")
MANY = ("float16", "int8", "4bit", "2bit", "bfloat16")
BLOCK = 1 << 26  # elements of the check that are alive at once


@dataclass(frozen=True)
class Shape:
    """What is asked.

    Attributes:
        name: of the kind of request, for --shape.
        queries: how many, of `query_tokens` each.
        documents: in words.
        lengths: [N] int64, tokens of each document.
        formats: of the documents.
        goals: seconds by format, on the device.
        wall_goals: seconds by format, of the host's clock.
        size: D.
    """

    name: str
    queries: int
    query_tokens: int
    documents: str
    lengths: np.ndarray
    formats: tuple[str, ...] = MANY
    goals: Mapping[str, float] = field(default_factory=dict)
    wall_goals: Mapping[str, float] = field(default_factory=dict)
    size: int = 128

    @property
    def title(self) -> str:
        count = len(self.lengths)
        return f"{self.queries} x {self.query_tokens} tokens, {count} documents of {self.documents}"


def shapes(session: Session) -> list[Shape]:
    """Those with goals first: one query of many documents, many queries, a long query, few."""
    rng = np.random.default_rng(0)

    def count(documents: int) -> int:
        return max(documents // 20000, 3) if session.dry else documents

    def even(documents: int, length: int) -> np.ndarray:
        return np.full(count(documents), length, dtype=np.int64)

    skewed = np.clip(rng.lognormal(5.0, 0.6, count(100_000)), 8, 512).astype(np.int64)
    many = {"float16": 1500e-6, "bfloat16": 1500e-6, "int8": 820e-6, "4bit": 520e-6,
            "2bit": 430e-6}  # fmt: skip
    share = float(skewed.mean()) / 180  # the same time a token
    found = [
        Shape("one query", 1, 32, "180", even(100_000, 180), goals=many),
        Shape("many queries", 128, 32, "180", even(10_000, 180),
              goals={"float16": 3100e-6, "bfloat16": 3100e-6, "int8": 1900e-6}),
        Shape("ragged", 1, 32, "8..512, log-normal", skewed,
              goals={k: v * share for k, v in many.items()}),
        Shape("long query", 1, 1024, "1024", even(1000, 1024),
              goals={"float16": 440e-6, "bfloat16": 440e-6, "int8": 270e-6}),
        Shape("few documents", 1, 32, "180", even(1000, 180),
              goals={"float16": 20e-6, "bfloat16": 20e-6},
              wall_goals={"float16": 30e-6, "bfloat16": 30e-6}),
    ]  # fmt: skip
    # Those that late-interaction-kernels publishes for its residual kernel.
    for documents, longest in ((5000, 200), (10_000, 300), (10_000, 512), (25_000, 300)):
        lengths = rng.integers(longest // 2, longest + 1, count(documents))
        formats = ("2bit", "4bit") if longest == 512 else ("2bit",)
        found.append(Shape("residual", 1, 32, f"{longest // 2}..{longest}", lengths, formats))
    if session.chosen:
        return [shape for shape in found if shape.name in session.chosen]
    if session.dry:  # every path once: plain, by the host's clock, residual codes
        return [shape for shape in found if shape is found[0] or shape.wall_goals] + found[-1:]
    return found


class Case:
    """Input sets of one shape and format.

    Attributes:
        queries: M tensors [Q, D].
        sets: the documents, as often as it takes that none is in the cache when it is read.
        expected: [M, N] float32, scores of the first set.
        moved: bytes that must be read and written.
    """

    def __init__(self, session: Session, shape: Shape, format: str) -> None:
        self.session, self.shape, self.format = session, shape, format
        self.device, self.tokens = session.device, int(shape.lengths.sum())
        self.dtype = FLOATS.get(format, torch.int8)
        rows = torch.randn(shape.queries, shape.query_tokens, shape.size, device=self.device)
        rows = normalize(rows, dim=-1)
        self.queries = list(rows.to(FLOATS.get(format, torch.float16)))
        self.cu = cu_seqlens(shape.lengths.tolist(), torch.int64).to(self.device)
        self.codec = None
        if format in BITS:
            centroids = 1 << max(math.floor(math.log2(16 * math.sqrt(self.tokens))), 0)
            self.codec = draw_codec(centroids, shape.size, BITS[format], self.device)
        first = self.draw()
        scored = shape.queries * len(shape.lengths)
        self.moved = int(self.tokens * first.bytes_per_token) + self.cu.nbytes + 4 * scored
        self.moved += sum(query.nbytes for query in self.queries)
        self.operations = 2.0 * shape.queries * shape.query_tokens * shape.size * self.tokens
        count = num_sets(self.moved, session.dry)
        self.sets = [first, *(self.draw() for _ in range(count - 1))]
        self.expected = exact(self.queries, first, shape.lengths)
        some = torch.tensor([0, len(first) // 2, len(first) - 1], device=self.device)
        by_definition = maxsim(self.queries, first, some, backend="reference")
        assert isinstance(by_definition, Tensor)
        assert_close(self.expected[:, some], by_definition, self.tolerance)

    @property
    def title(self) -> str:
        return f"{self.shape.title}, {self.format}"

    @property
    def chosen(self) -> str:
        """The backend that "auto" takes."""
        size = self.shape.size
        return choose("maxsim", "auto", self.device, self.dtype, size=size).name

    @property
    def tolerance(self) -> float | None:
        """Of scores: integers are exact."""
        return None if self.format in FLOATS else 0.0

    def draw(self) -> TokenEmbeddings:
        """One set of documents."""
        size, device = self.shape.size, self.device
        if self.format in FLOATS:
            values = torch.empty(self.tokens, size, dtype=self.dtype, device=device)
            return TokenEmbeddings.of(values.normal_(std=size**-0.5), self.cu)
        if self.codec is None:
            values = torch.empty(self.tokens, size, dtype=torch.int8, device=device)
            scales = torch.rand(self.tokens, device=device).add_(1.0).mul_(1.0 / 127)
            return TokenEmbeddings.of(values.random_(-127, 128), self.cu, scales)
        codes = torch.randint(
            len(self.codec.rows), (self.tokens,), dtype=torch.int32, device=device
        )
        width = size * self.codec.bits // 8
        values = torch.empty(self.tokens, width, dtype=torch.uint8, device=device).random_(0, 256)
        step = BLOCK // (8 * size)
        parts = zip(codes.split(step), values.split(step), strict=True)
        scales = torch.cat([self.codec.scales(*part) for part in parts])
        return TokenEmbeddings.of(values, self.cu, scales, codes, self.codec)

    def facts(self, goal_s: float | None) -> dict[str, float]:
        """What a row says beside its time."""
        known = {"operations": self.operations, "moved_bytes": self.moved}
        return known | ({} if goal_s is None else {"goal_s": goal_s})

    def ours(self, backend: str) -> Contestant:
        calls = [
            lambda documents=documents: maxsim(self.queries, documents, backend=backend)
            for documents in self.sets
        ]
        facts = {"backend": backend, **self.facts(self.shape.goals.get(self.format))}
        return Contestant(calls, tolerance=self.tolerance, facts=facts)

    def evicting(self) -> Contestant:
        """The CUDA kernel that has documents leave the L2 cache first."""
        ours = self.ours("cuda")
        return replace(ours, calls=[evicting_first(call) for call in ours.calls])

    def contestants(self) -> dict[str, Contestant]:
        """Every backend of ours; "packrank" is the one that "auto" takes."""
        facts = {"size": self.shape.size}
        chosen = self.chosen
        racing = {"packrank": self.ours(chosen)}
        for backend in TABLE["maxsim"]:
            if backend.name not in OURS or backend.name == chosen:
                continue
            reason = backend.why_not(self.device, self.dtype, **facts)
            if reason is None:
                racing[f"packrank, {backend.name}"] = self.ours(backend.name)
            else:
                print(f"{backend.name} does not race: {reason}", flush=True)
        tokens = self.shape.queries * self.shape.query_tokens
        if tokens <= 32 and any(each.facts["backend"] == "cuda" for each in racing.values()):
            racing["packrank, cuda, documents evicted first"] = self.evicting()
        return racing

    def race(self, bench: str, contestants: dict[str, Contestant]) -> dict[str, float]:
        return self.session.race(
            bench, self.title, contestants, amount=self.moved / 1e9, unit="GB", dtype=self.dtype,
            operations=self.operations, moved=self.moved, expected=self.expected,
        )  # fmt: skip

    def race_by_the_host(self, bench: str, contestants: dict[str, Contestant]) -> None:
        """One call after the other, the host waiting for each; of graphs, one replay."""
        facts = self.facts(self.shape.wall_goals.get(self.format))
        racing = {}
        for name, contestant in contestants.items():
            racing[name] = in_turn(contestant, facts)
            if name == "packrank":
                prepare = self.session.prepare
                replays = [prepare(Contestant([call]), False) for call in contestant.calls]
                racing["packrank, CUDA graph"] = in_turn(Contestant(replays), facts)
        self.session.race(
            bench, f"{self.title}, host's clock", racing, amount=self.moved / 1e9, unit="GB",
            moved=self.moved, wall=True,
        )  # fmt: skip


def evicting_first(call: Callable[[], object]) -> Callable[[], object]:
    """The same with the switch on."""

    def run() -> object:
        cuda_maxsim.EVICTS_FIRST = True
        try:
            return call()
        finally:
            cuda_maxsim.EVICTS_FIRST = False

    return run


def in_turn(contestant: Contestant, facts: dict[str, float]) -> Contestant:
    """A contestant that makes one of its calls at a time."""
    turns = itertools.cycle(contestant.calls)
    return Contestant([lambda: next(turns)()], facts={**contestant.facts, **facts})


def draw_codec(centroids: int, size: int, bits: int, device: torch.device) -> Codec:
    """Centroids of length 1, and what they leave 0.3 long, normally distributed."""
    centers = normalize(torch.randn(centroids, size, device=device), dim=1)
    steps = torch.arange(1, 2 ** (bits + 1), device=device) / 2 ** (bits + 1)
    quantiles = torch.special.ndtri(steps) * 0.3 / math.sqrt(size)
    return Codec.of(centers, quantiles[1::2], quantiles[0::2])


def exact(queries: list[Tensor], documents: TokenEmbeddings, lengths: np.ndarray) -> Tensor:
    """[M, N] float32: the definition of scores, of many documents at once; none may be empty.

    Integer products stay below 2^24, which float32 holds exactly: those scores have these bits.
    """
    rows = torch.cat(queries).float()
    weights = None
    if documents.format not in FLOATS:
        values, weights = quantize_int8(rows)
        if documents.codec is not None:
            values = to_planes(values, 8 // documents.codec.bits)
            weights = weights * documents.codec.step
        rows = values.float()
    ends = np.cumsum([0, *lengths])
    step = max(BLOCK // max(len(rows), 8 * documents.size), int(lengths.max()))
    parts, start = [], 0
    while start < len(lengths):
        stop = int(np.searchsorted(ends, ends[start] + step, side="right")) - 1
        block = slice(int(ends[start]), int(ends[stop]))
        scores = integers(documents, block) @ rows.T
        if documents.scales is not None:
            scores *= documents.scales[block, None]
        some = torch.from_numpy(lengths[start:stop]).to(rows.device)
        best = torch.segment_reduce(scores, "max", lengths=some, axis=0)
        if weights is not None:
            best = best * weights
        parts.append(reference.sum_in_order(best.view(stop - start, len(queries), -1)))
        start = stop
    return torch.cat(parts).T.contiguous()


def integers(documents: TokenEmbeddings, rows: slice) -> Tensor:
    """Rows of the documents as the product reads them, in float32."""
    values, codec = documents.values[rows], documents.codec
    if codec is None or documents.codes is None:
        return values.float()
    shifts = range(8 - codec.bits, -1, -codec.bits)
    fields = torch.cat([(values >> shift) & (2**codec.bits - 1) for shift in shifts], dim=1)
    centers = codec.rows[documents.codes[rows].long()].float() - 128
    return centers.add_(codec.weights.float()[fields.long()])


def main(session: Session) -> None:
    for shape in shapes(session):
        times: dict[str, float] = {}
        for format in session.some(shape.formats):
            if not session.has_time_for(f"maxsim, {shape.title}, {format}"):
                continue
            with session.guard(f"maxsim, {shape.title}, {format}"):
                case = Case(session, shape, format)
                contestants = case.contestants()
                medians = case.race("maxsim", contestants)
                times |= {format: medians["packrank"]} if "packrank" in medians else {}
                if shape.wall_goals:
                    case.race_by_the_host("maxsim", {name: contestants[name] for name in medians})
                del case, contestants
        said = []
        for format, seconds in times.items():
            share = shape.goals[format] / seconds if format in shape.goals else None
            goal = "" if share is None else f" ({share:.0%} of the goal)"
            said.append(f"{format} {seconds * 1e3:.4g} ms{goal}")
        if said:
            session.headline(f"maxsim, {shape.title}: {', '.join(said)}")
