"""What an H200 has, and how much of it a kernel keeps busy. No torch, no measurement.

A kernel takes as long as the busiest of its resources. Left out: waves that are not full, a
product's beginning and end, latencies.
"""

from dataclasses import dataclass, replace

MEMORY, CACHE = 4.8e12, 5.5e12  # bytes a second
CACHE_BYTES = 60 * 2**20
DENSE = 790e12  # operations a second, float16; of bytes twice as many
PROCESSORS, CLOCK = 132, 1.755e9
CLOCKS = PROCESSORS * CLOCK
# Bytes a second of a multiprocessor: from its first-level cache or shared memory, and from memory.
NEAR, FAR = 128 * CLOCK, 64 * CLOCK
ISSUE, ALU, SPECIAL = 4 * CLOCKS, 2 * CLOCKS, CLOCKS / 2  # warps' instructions a second
GAP = 1e-6  # seconds between kernels of a graph
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
        near: bytes that go through first-level caches or shared memory, gathered.
        alone: bytes of memory that one multiprocessor reads, where too few programs share them.
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
    near: float = 0.0
    alone: float = 0.0
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
            "gathers": self.near / (PROCESSORS * NEAR),
            "one multiprocessor": self.alone / FAR,
        }

    @property
    def binds(self) -> str:
        times = self.times
        return max(times, key=lambda name: times[name])

    @property
    def seconds(self) -> float:
        return self.times[self.binds]


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


def by_distance(name: str, count: int, length: int, heads: int, size: int, tables: int) -> Kernel:
    """Attention with tables of distances, or with biases, by Triton in tiles of 64 by 64.

    Of a tile a table has 127 distances, so 128 rows, of whose products half are taken: gathered
    from shared memory, those of queries turned. A bias is two loads, of its row and of itself.
    """
    plain = attention(name, count, length, heads, size, by_triton=True)
    pairs = count * heads * length * length
    counted, made = 4 + 2 * tables, 4 + 4 * tables
    tiles = count * heads * (-(-length // 64)) ** 2
    gathered, turned = 4 * (64 * 128 + 64 * 64), 4 * 2 * 64 * 64
    return replace(
        plain,
        operations=counted * pairs * size,
        dense=DENSE * counted / made,
        near=tiles * (tables * gathered + (tables == 2) * turned) if tables else 8 * pairs,
    )


def in_pages(count: int, have: int, heads: int, key_heads: int, size: int) -> list[Kernel]:
    """A token each of `count` sequences of `have`, as two launches: its key kept, then attention.

    A sequence and head of keys is one program's.
    """
    cache = 2 * 2 * have * key_heads * size
    new = 2 * count * key_heads * size * 2
    share = -(-count * key_heads // PROCESSORS)
    pairs = count * have * heads
    return [
        Kernel("new keys and values to pages", moved=2 * new),
        Kernel(
            "attention over pages",
            moved=count * (cache + 4 * heads * size),
            operations=4 * pairs * size,
            exponentials=pairs,
            alone=share * cache / key_heads,
        ),
    ]


def head(name: str, rows: int, size: int) -> Kernel:
    """A dense layer in float32, without tensor cores, and the scores."""
    return Kernel(name, moved=4 * size * size + 2 * rows * size, issue=rows * size * size / 32)
