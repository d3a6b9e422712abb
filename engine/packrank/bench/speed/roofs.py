"""How fast an op could be at most: by the machine's products, or by what its memory delivers."""

from dataclasses import dataclass, field

from packrank.bench.report import Ceiling


@dataclass(frozen=True)
class Bound:
    """The least seconds of some work, and what sets them: "operations" or "bytes"."""

    seconds: float
    by: str


@dataclass(frozen=True)
class Roofs:
    """The ceilings that ops are held against.

    Attributes:
        operations: dtype -> operations a second, the best of all products, whoever's.
        bytes: (bytes, bytes a second) by level, smallest first: what moves at most so much at a
            time moves at that rate.
    """

    operations: dict[str, float] = field(default_factory=dict)
    bytes: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, ceilings: list[Ceiling]) -> "Roofs":
        """From what was measured."""
        operations: dict[str, float] = {}
        levels: dict[str, tuple[float, float]] = {}
        for one in ceilings:
            if one.kind == "products":
                dtype = one.facts["dtype"]
                operations[dtype] = max(operations.get(dtype, 0.0), one.value)
            if one.kind == "bandwidth":
                where = one.name.partition(", ")[2]
                size = float("inf") if where == "memory" else 2.0 * one.facts["bytes"]
                before = levels.get(where, (size, 0.0))
                levels[where] = max(size, before[0]), max(one.value, before[1])
        ordered = sorted(levels.values())
        # What is narrower than float32 can be multiplied in that, and is where nothing is faster.
        operations = {
            dtype: max(rate, operations.get("float32", 0.0)) for dtype, rate in operations.items()
        }
        # What a farther level was seen to deliver, a nearer one delivers as well.
        rates = [max(rate for _, rate in ordered[place:]) for place in range(len(ordered))]
        return cls(
            operations, tuple((size, rate) for (size, _), rate in zip(ordered, rates, strict=True))
        )

    def bound(
        self, dtype: str, operations: float, moved: float, calls: int = 1, held: float = 0.0
    ) -> Bound | None:
        """The least seconds of some calls of an op; None where no ceiling is known.

        Args:
            dtype: of the operands.
            operations: of all calls.
            moved: bytes that all calls must read and write.
            calls: how many.
            held: bytes that calls move in turn, where that is more than one moves: what a cache
                does not hold of them comes from farther away each time.
        """
        found = []
        if operations and dtype in self.operations:
            found.append(Bound(operations / self.operations[dtype], "operations"))
        nearest = max(moved / calls, held)
        rate = next((rate for size, rate in self.bytes if nearest <= size), None)
        if moved and rate:
            found.append(Bound(moved / rate, "bytes"))
        return max(found, key=lambda one: one.seconds, default=None)
