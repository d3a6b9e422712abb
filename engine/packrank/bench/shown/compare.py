"""Two reports beside each other: what became slower or faster by more than the noise."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from packrank.bench.machine import HARDWARE
from packrank.bench.report import Report
from packrank.bench.shown.facts import points
from packrank.bench.shown.grid import Grid, wrapped
from packrank.bench.shown.statistics import Comparison, compared, holm, median
from packrank.bench.shown.summary import flat, sentence
from packrank.bench.shown.words import amount
from packrank.screen import Screen

SLOWER, FASTER, SAME, UNKNOWN = "slower", "faster", "no difference", "not comparable"
ONLY_A, ONLY_B = "only in A", "only in B"
SCHEMA, VERSION = "packrank bench compare", 1
_CEILINGS = "Ceilings"
_LEGEND = (
    "B / A lies between the two of 95 %, with that confidence. A difference counts if noise alone, "
    "among so many rows, would make one in 20 such comparisons at most, and from 1 % on. Not "
    "comparable is what was measured once, is zero, or is in another unit. Where fixed work ran "
    "beside, what it tells of the machine is taken off B / A, which then need not be B over A."
)


@dataclass
class Row:
    """One measurement of two reports.

    Attributes:
        id: of the result, the name of the ceiling, or of Server these and an offered rate.
        group: "Ceilings", or the workload and what it measures.
        names: what tells it from others of its group.
        unit: of a and b, the medians of the samples; None where it was not measured.
        verdict: "slower", "faster", "no difference", "only in A", "only in B", "not comparable".
        ratio: of b to a, with 95 % confidence between low and high; None where nothing tells.
        p: how often noise alone makes such a difference, among as many as were compared.
    """

    id: str
    group: str
    names: list[str]
    unit: str
    a: float | None = None
    b: float | None = None
    verdict: str = UNKNOWN
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass
class Compared:
    """All rows, and what makes them doubtful, in sentences."""

    doubts: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """How many rows have which verdict, in a sentence."""
        verdicts = [row.verdict for row in self.rows]
        shown = [
            f"{verdicts.count(verdict)} {verdict}"
            for verdict in (SLOWER, FASTER, SAME, UNKNOWN, ONLY_A, ONLY_B)
            if verdict in verdicts
        ]
        if not shown:
            return "Neither report has a measurement."
        return f"Of {len(verdicts)} measurements, B beside A: {', '.join(shown)}."


def compare(a: Report, b: Report) -> Compared:
    """What became slower or faster from a to b: ceilings by name, results by id.

    Of Server the latencies count too, at the rates that were offered in both.
    """
    rows: list[Row] = []
    tested: list[tuple[Row, Comparison]] = []
    alike = _hardware(a) == _hardware(b)
    for measured, in_both in ((_measured, False), (_at_rates, True)):
        first, second = ({one.row.id: one for one in measured(each)} for each in (a, b))
        for id in {**first, **second}:
            if id in first and id in second:
                row, found = _compared(first[id], second[id], alike)
                tested += [] if found is None else [(row, found)]
            elif in_both:
                continue  # a search goes by rates of its own
            elif id in first:
                row = first[id].row
                row.a, row.verdict = median(first[id].samples), ONLY_A
            else:
                row = second[id].row
                row.b, row.verdict = median(second[id].samples), ONLY_B
            rows.append(row)
    adjusted = holm([found.p for _, found in tested])
    for (row, found), p in zip(tested, adjusted, strict=True):
        row.p, row.verdict = p, SAME
        if found.differs(p):
            row.verdict = FASTER if (found.ratio > 1) == (row.unit != "s") else SLOWER
    return Compared([*_doubts(a, b), *_of_the_machine(rows)], rows)


def as_json(found: Compared) -> str:
    """The comparison as a document."""
    document = {"schema": SCHEMA, "version": VERSION, "summary": found.summary, **asdict(found)}
    return json.dumps(document, indent=1)


def lines(found: Compared, screen: Screen) -> Iterator[str]:
    """The comparison as a person reads it."""
    for doubt in found.doubts:
        yield from wrapped(doubt, screen)
    yield from wrapped(found.summary, screen)
    if not found.rows:
        return
    for group in dict.fromkeys(row.group for row in found.rows):
        yield ""
        yield from _grid(group, [row for row in found.rows if row.group == group]).lines(screen)
    yield ""
    yield from wrapped(_LEGEND, screen)


@dataclass(frozen=True)
class _Samples:
    """Of one measurement; of each sample, if anything, what fixed work did right beside it."""

    row: Row
    samples: list[float]
    beside: list[float] = field(default_factory=list)


def _measured(report: Report) -> Iterator[_Samples]:
    for ceiling in report.ceilings:
        row = Row(ceiling.name, _CEILINGS, [ceiling.name], ceiling.unit)
        yield _Samples(row, ceiling.samples)
    for one in report.results:
        names = [one.model, one.dtype, one.lengths, one.by]
        group = f"{one.workload}, {'latency' if one.unit == 's' else one.unit}"
        row = Row(one.id, group, names, one.unit)
        if one.accompanied:
            yield _Samples(row, one.samples, mean_beside(one.beside))
        else:
            yield _Samples(row, one.by_round)


def mean_beside(beside: dict[str, list[float]]) -> list[float]:
    """The geometric one of all works, sample by sample: none tells the machine's mood alone."""
    return [math.prod(each) ** (1 / len(each)) for each in zip(*beside.values(), strict=True)]


def _at_rates(report: Report) -> Iterator[_Samples]:
    for one in report.results:
        for point in points(one):
            if point.valid and point.latencies:
                at = f"at {point.offered:g}/s"
                names = [one.model, one.dtype, one.lengths, one.by, at]
                row = Row(f"{one.id}, {at}", f"{one.workload}, latency at a rate", names, "s")
                yield _Samples(row, point.latencies)


def _hardware(report: Report) -> dict[str, object]:
    """What must be the same for fixed work to tell moods, and not machines or devices."""
    device = {"device": report.settings.get("device")}
    return device | {name: report.machine.get(name) for name in HARDWARE}


def _compared(a: _Samples, b: _Samples, alike: bool) -> tuple[Row, Comparison | None]:
    row = a.row
    row.a, row.b = median(a.samples), median(b.samples)
    if row.unit != b.row.unit or len(a.samples) == len(b.samples) == 1:
        return row, None
    try:
        beside = (a.beside, b.beside) if alike else ()
        found = compared(a.samples, b.samples, *beside)
    except ValueError:
        return row, None
    row.ratio, row.low, row.high = found.ratio, found.low, found.high
    return row, found


def _doubts(a: Report, b: Report) -> Iterator[str]:
    for name, report in (("A", a), ("B", b)):
        if not report.complete:
            yield f"{name} was interrupted, so a part of it is missing."
        if not report.verdict.valid:
            yield sentence(
                f"{name} is not valid: {'; '.join(report.verdict.reasons) or 'no reason is given'}"
            )
    for what, first, second in (
        ("ran on different machines or versions", flat(a.machine), flat(b.machine)),
        ("ran with different settings", flat(a.settings), flat(b.settings)),
    ):
        differ = [
            f"{name} {first.get(name, 'unknown')} in A, {second.get(name, 'unknown')} in B"
            for name in {**first, **second}
            if first.get(name) != second.get(name)
        ]
        if differ:
            yield sentence(f"A and B {what}: {'; '.join(differ)}")


def _of_the_machine(rows: list[Row]) -> Iterator[str]:
    """Where most ceilings have moved one way, what was measured under them is not to blame."""
    ceilings = [row for row in rows if row.group == _CEILINGS and row.ratio is not None]
    for verdict in (SLOWER, FASTER):
        if sum(row.verdict == verdict for row in ceilings) * 2 > len(ceilings):
            yield (
                f"The machine itself was {verdict} in B, by most of its ceilings, so other "
                "differences may be the machine's."
            )


def _grid(group: str, rows: list[Row]) -> Grid:
    """One group; what all its rows are called alike is said once."""
    places = range(len(rows[0].names))
    alike = [n for n in places if len(rows) > 1 and len({row.names[n] for row in rows}) == 1]
    shown = [n for n in places if n not in alike]
    same = ", ".join(rows[0].names[n] for n in alike)
    grid = Grid(
        f"{group} ({same})" if same else group,
        [*[""] * len(shown), "A", "B", "B / A", "95 %", "B is"],
        names=len(shown),
    )
    for row in rows:
        # What the title has of a unit needs no column.
        unit = row.unit if group == _CEILINGS or row.unit == "s" else ""
        grid.rows.append(
            [
                *(row.names[n] for n in shown),
                amount(row.a, unit),
                amount(row.b, unit),
                "" if row.ratio is None else _ratio(row.ratio),
                ""
                if row.low is None or row.high is None
                else f"{_ratio(row.low)}-{_ratio(row.high)}",
                row.verdict,
            ]
        )
    return grid


def _ratio(value: float) -> str:
    """Three digits after the point; of what is very small or large two in all."""
    return f"{value:.3f}" if 0.1 <= value < 1000 else f"{value:.2g}"
