"""What results found, field by field: absent where it is missing or of another kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packrank.bench.report import Result
from packrank.bench.typed import is_number

# Where a forward's time goes, in the order in which it is shown.
PARTS = ("products", "attention", "norms and elementwise", "launches", "host", "tokenizer")
PERCENTILES = ("p50", "p90", "p95", "p99")


def number(facts: Mapping[str, Any], name: str) -> float | None:
    """A finite number, None where there is none."""
    value: Any = facts.get(name)
    return float(value) if is_number(value) else None


def words(facts: Mapping[str, Any], name: str) -> str:
    """A text, "" where there is none."""
    value = facts.get(name)
    return value if isinstance(value, str) else ""


def items(facts: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects of a list."""
    value = facts.get(name)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def parts(result: Result) -> dict[str, float]:
    """Seconds a candidate by part, those that are known, others than `PARTS` last."""
    found = result.facts.get("parts")
    if not isinstance(found, dict):
        return {}
    names = [*PARTS, *(name for name in found if name not in PARTS)]
    seconds = {name: number(found, name) for name in names}
    return {name: value for name, value in seconds.items() if value is not None and value >= 0}


def curve(result: Result, name: str, along: str) -> list[tuple[float, float]]:
    """Rates along lengths or batches, in their order: `name` of the facts, by its field `along`."""
    found = [(number(one, along), number(one, "rate")) for one in items(result.facts, name)]
    return sorted((x, y) for x, y in found if x is not None and y is not None and x > 0 and y > 0)


@dataclass(frozen=True)
class Op:
    """An op of a forward; None of what is not known.

    Attributes:
        seconds: of all its calls.
        operations, bytes: of all its calls.
        possible: the seconds that the ceilings allow it.
    """

    name: str
    calls: float | None
    seconds: float
    operations: float | None
    bytes: float | None
    possible: float | None
    bound_by: str

    @property
    def intensity(self) -> float | None:
        """Operations a byte; None where either is zero or unknown."""
        return self.operations / self.bytes if self.operations and self.bytes else None


def ops(result: Result) -> list[Op]:
    """Those whose time is known."""
    found = []
    for one in items(result.facts, "ops"):
        seconds = number(one, "seconds")
        if seconds is not None and seconds > 0:
            found.append(
                Op(
                    words(one, "op") or "op",
                    number(one, "calls"),
                    seconds,
                    number(one, "operations"),
                    number(one, "bytes"),
                    number(one, "possible_s"),
                    words(one, "bound_by"),
                )
            )
    return found


@dataclass(frozen=True)
class Point:
    """What a server did at an offered rate; rates a second, times in seconds."""

    offered: float
    achieved: float | None
    goodput: float | None
    percentiles: dict[str, float]
    latencies: list[float]
    valid: bool
    reason: str


def points(result: Result) -> list[Point]:
    """Those of Server, from the lowest offered rate to the highest."""
    found = []
    for one in items(result.facts, "points"):
        offered = number(one, "offered")
        if offered is None or offered <= 0:
            continue
        times = {name: number(one, name) for name in PERCENTILES}
        raw = one.get("latencies")
        found.append(
            Point(
                offered,
                number(one, "achieved"),
                number(one, "goodput"),
                {name: value for name, value in times.items() if value is not None},
                [each for each in raw if _is_time(each)] if isinstance(raw, list) else [],
                one.get("valid") is not False,
                words(one, "reason"),
            )
        )
    return sorted(found, key=lambda point: point.offered)


def bottleneck(result: Result) -> str:
    """What takes the most time beyond what the machine needs; "" where that is not known.

    Of ops the time over what the ceilings allow counts, of launches, host and tokenizer all;
    where no op is known, all of every part but products.
    """
    known = parts(result)
    lost = {name: known.get(name, 0.0) for name in known if name not in PARTS[:3]}
    measured = [op for op in ops(result) if op.possible is not None]
    if measured:
        # Ops may be timed over another number of candidates than parts.
        device = sum(known.get(name, 0.0) for name in PARTS[:3])
        scale = device / sum(op.seconds for op in measured) if device else 1.0
        for op in measured:
            beyond = max(0.0, op.seconds - (op.possible or 0.0)) * scale
            lost[op.name] = lost.get(op.name, 0.0) + beyond
    else:
        lost |= {name: known[name] for name in PARTS[1:3] if name in known}
    most = max(lost, key=lambda name: lost[name], default="")
    return most if most and lost[most] > 0 else ""


def _is_time(value: Any) -> bool:
    return is_number(value) and value > 0
