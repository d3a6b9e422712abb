"""A report in sentences and tables, which the terminal and the page show each in its way."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packrank.bench.load.workloads import least_for
from packrank.bench.report import Ceiling, Report, Result
from packrank.bench.shown.facts import (
    PARTS,
    PERCENTILES,
    Point,
    bottleneck,
    number,
    parts,
    points,
    words,
)
from packrank.bench.shown.grid import Grid
from packrank.bench.shown.statistics import quantiles, spread
from packrank.bench.shown.words import amount, digits, memory, money, percent, time
from packrank.bench.typed import is_number

OURS = "packrank"
_SIZES = ("caches ", "memory bytes", "gpu memory bytes", "l2 bytes")  # of a machine
_RATE = ("rate", "noise", "of ceiling", "bound by")


@dataclass(frozen=True)
class Headline:
    """What a result comes to: of what, the figure, what else there is to say of it."""

    name: str
    figure: str
    rest: str = ""
    share: float | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.figure}{self.rest}."


def headlines(report: Report) -> list[Headline]:
    """A sentence a model: how fast, how near to what can be, and what takes the rest."""
    own = [one for one in report.results if one.by == OURS]
    models = [one for one in own if not _is_maxsim(one)]
    spoken = [one for one in models if one.workload == "Offline"] or models or own or report.results
    several = len({one.lengths for one in spoken}) > 1
    return [_headline(one, several) for one in spoken]


def _headline(result: Result, several_lengths: bool) -> Headline:
    name = f"{result.model}, {result.dtype}" + (f", {result.lengths}" * several_lengths)
    if result.by != OURS:
        name += f" by {result.by}"
    if result.quantity == "latency":
        slowest = percentile(result, "p99")
        rest = "" if slowest is None else f", 99 of 100 at most {time(slowest)}"
        return Headline(name, time(result.value), f" or less for half of the queries{rest}")
    figure = amount(result.value, result.unit)
    if result.workload == "Server":
        limit = number(result.facts, "limit_s")
        rest = "" if limit is None else f" with 99 of 100 answers within {time(limit)}"
        return Headline(name, figure, rest)
    share = number(result.facts, "share_of_ceiling")
    rest = f", {percent(share)} of what the machine can do" if share is not None else ""
    most = bottleneck(result)
    if most:
        rest += f"; {most} takes the most beyond that" if rest else f"; {most} takes the most"
    return Headline(name, figure, rest, share)


def _is_maxsim(result: Result) -> bool:
    """Of documents that are vectors already: rates are a thousand times those of models."""
    return result.model.startswith("MaxSim ")


def begun(report: Report) -> str:
    """When it ran, for how long, and whether to its end."""
    took = f"{report.seconds / 60:.3g} minutes" if report.seconds >= 90 else time(report.seconds)
    ended = f"took {took}" if report.complete else f"was interrupted after {took}"
    return f"Begun {report.begun}; it {ended}."


def verdict(report: Report) -> list[str]:
    """Whether the numbers may be relied upon, each doubt, and what was seen, in sentences."""
    return [*_verdict(report), *_seen(report)]


def _verdict(report: Report) -> list[str]:
    doubts = [sentence(reason) for reason in report.verdict.reasons]
    if not report.complete:
        doubts.insert(0, "The run was interrupted: what is here is a part of what was asked for.")
    if not report.verdict.valid:
        return ["Not valid: do not rely on these numbers.", *doubts]
    if not doubts:
        return ["Valid: nothing speaks against these numbers."]
    return [f"Valid, with {'a doubt' if len(doubts) == 1 else f'{len(doubts)} doubts'}.", *doubts]


def _seen(report: Report) -> list[str]:
    """Clocks and such, from the least to the most of all looks."""
    found = []
    for name, looks in report.seen.items():
        what, _, unit = name.rpartition(", ")
        if unit == "share":
            found.append(f"{what} at {percent(sum(looks) / len(looks))} of the looks")
            continue
        ends = dict.fromkeys(amount(value, unit) for value in (min(looks), max(looks)))
        found.append(f"{what} {' to '.join(ends)}")
    return [sentence("Seen: " + "; ".join(found))] if found else []


def sentence(text: str) -> str:
    """A text as a sentence."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def flat(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts of a machine or settings, one text each; those within others by both names."""
    found: dict[str, str] = {}
    for name, value in facts.items():
        name = str(name).replace("_", " ")
        if isinstance(value, Mapping):
            found |= flat({f"{name} {inner}": each for inner, each in value.items()})
        elif isinstance(value, list | tuple):
            found[name] = ", ".join(map(_plain, value))
        elif is_number(value) and name.startswith(_SIZES):
            found[name.removesuffix(" bytes")] = memory(float(value))
        elif value is not None and value != "":
            found[name] = _plain(value)
    return found


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def percentile(result: Result, name: str) -> float | None:
    """One of a SingleStream, from its facts or else from its samples, where these are enough."""
    known, percent = number(result.facts, name), int(name[1:])
    if len(result.samples) < least_for(percent):
        return None
    return quantiles(result.samples, percent / 100)[0] if known is None else known


def tables(report: Report) -> Iterator[Grid]:
    """All that was measured, ceilings first; a table that would be empty is left out."""
    own = [one for one in report.ceilings if one.facts.get("of")]
    made = [_ceilings([one for one in report.ceilings if one not in own]), _products(own)]
    for workload, make in (
        ("Offline", (_offline, _maxsim, _peers, _time, _costs)),
        ("SingleStream", (_single_stream,)),
        ("Server", (_server, _points)),
    ):
        results = [one for one in report.results if one.workload == workload]
        made += [one(results) for one in make]
    return (grid for grid in made if grid.rows)


def _ceilings(ceilings: Sequence[Ceiling]) -> Grid:
    grid = Grid("What the machine can do, measured", ["", "best", "noise"])
    most: dict[str, float] = {}
    for one in ceilings:
        most[one.unit] = max(most.get(one.unit, 0.0), one.value)
    for one in ceilings:
        grid.rows.append([one.name, amount(one.value, one.unit), _noise(one.samples)])
        grid.bars.append((one.value / most[one.unit],) if most[one.unit] > 0 else ())
    return grid


def _products(ceilings: Sequence[Ceiling]) -> Grid:
    """Of the models' own shapes, a row a shape."""
    by: dict[str, None] = dict.fromkeys(str(one.facts.get("by")) for one in ceilings)
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for one in ceilings:
        facts = one.facts
        shape = f"{facts.get('m')} x {facts.get('k')} x {facts.get('n')}"
        row = rows.setdefault((str(facts.get("of")), str(facts.get("dtype")), shape), {})
        row[str(facts.get("by"))] = amount(one.value, one.unit)
    grid = Grid("Products of the models' own shapes", ["model", "dtype", "shape", *by], names=3)
    grid.rows = [[*names, *(row.get(name, "") for name in by)] for names, row in rows.items()]
    return grid


class _Names:
    """Results, those of one model together, and the columns in which their names differ."""

    def __init__(self, results: Sequence[Result]) -> None:
        order: dict[tuple[str, str, str], int] = {}
        for one in results:
            order.setdefault((one.model, one.lengths, one.dtype), len(order))
        self.results = sorted(
            results, key=lambda one: (order[one.model, one.lengths, one.dtype], one.by != OURS)
        )
        fields = ("model", "dtype", "lengths", "by")
        values = {name: {getattr(one, name) for one in results} for name in fields}
        self.shown = [name for name in fields if name == "model" or len(values[name]) > 1]
        same = [
            f"{name} {values[name].pop()}"
            for name in ("dtype", "lengths")
            if len(values[name]) == 1
        ]
        self.same = f" ({', '.join(same)})" if same else ""

    def of(self, result: Result) -> list[str]:
        """What tells a result from the others."""
        return [getattr(result, name) for name in self.shown]

    def grid(self, title: str, *heading: str) -> Grid:
        """A table that begins with the names."""
        return Grid(title + self.same, [*self.shown, *heading], names=len(self.shown))


def _offline(results: Sequence[Result]) -> Grid:
    names = _Names([one for one in results if one.by == OURS and not _is_maxsim(one)])
    grid = names.grid("Offline: everything at once, candidates/s", *_RATE)
    return _rates(grid, [(one, names.of(one)) for one in names.results])


def _maxsim(results: Sequence[Result]) -> Grid:
    own = [one for one in results if one.by == OURS and _is_maxsim(one)]
    title = ", ".join(dict.fromkeys(one.model for one in own))
    return _rates(
        Grid(f"{title}, candidates/s", ["format", *_RATE]), [(one, [one.dtype]) for one in own]
    )


def _rates(grid: Grid, named: Sequence[tuple[Result, list[str]]]) -> Grid:
    """Results in columns of `_RATE`, after their names."""
    most = max((one.value for one, _ in named), default=0.0)
    for one, names in named:
        share, bound = number(one.facts, "share_of_ceiling"), words(one.facts, "bound_by")
        row = [digits(one.value), _noise(one.samples), percent(share), bound]
        grid.rows.append([*names, *row])
        grid.bars.append((one.value / most,) if most > 0 else ())
    return grid


def _peers(results: Sequence[Result]) -> Grid:
    """Where others were measured on the same pairs: how many times as fast this engine is."""
    compared = {_pairs_of(one) for one in results if one.by != OURS}
    names = _Names([one for one in results if _pairs_of(one) in compared])
    own = {_pairs_of(one): one.value for one in names.results if one.by == OURS}
    most: dict[tuple[str, str, str], float] = {}
    for one in names.results:
        most[_pairs_of(one)] = max(most.get(_pairs_of(one), 0.0), one.value)
    grid = names.grid("Offline, beside other engines, candidates/s", "rate", "packrank is")
    for one in names.results:
        ours = own.get(_pairs_of(one)) if one.by != OURS else None
        times = f"{digits(ours / one.value)} x" if ours is not None and one.value > 0 else ""
        grid.rows.append([*names.of(one), digits(one.value), times])
        whole = most[_pairs_of(one)]
        grid.bars.append((one.value / whole,) if whole > 0 else ())
    return grid


def _pairs_of(result: Result) -> tuple[str, str, str]:
    """What engines have in common that are compared."""
    return result.model, result.dtype, result.lengths


def _time(results: Sequence[Result]) -> Grid:
    names = _Names([one for one in results if sum(parts(one).values()) > 0])
    found = [(one, parts(one)) for one in names.results]
    stack = tuple(dict.fromkeys([*PARTS, *(name for _, known in found for name in known)]))
    stack = tuple(name for name in stack if any(known.get(name) for _, known in found))
    grid = names.grid("Where the time of a candidate goes", "a candidate")
    grid.stack = stack
    for one, known in found:
        whole = sum(known.values())
        grid.rows.append([*names.of(one), time(whole)])
        grid.bars.append(tuple(known.get(name, 0.0) / whole for name in stack))
    return grid


def _costs(results: Sequence[Result]) -> Grid:
    taken = {one.id: _taken(one) for one in results}
    # Tokens a second alone are the rate once more.
    names = _Names([one for one in results if any(taken[one.id][1:])])
    grid = names.grid("What it takes", "tokens/s", "padding spared", "memory", "J/1000")
    grid.heading += ["W", "cost/million"]
    grid.rows += [[*names.of(one), *taken[one.id]] for one in names.results]
    if any(row[1] for row in taken.values()):
        grid.notes.append(
            "Padding spared: the share of tokens that would be padding in batches of 32 sorted by "
            "length."
        )
    return grid


def _taken(result: Result) -> list[str]:
    facts = result.facts
    return [
        amount(number(facts, "tokens_per_s")),
        percent(number(facts, "padding_share")),
        memory(number(facts, "memory_bytes")),
        amount(number(facts, "joules_per_1000")),
        amount(number(facts, "watts")),
        money(number(facts, "cost_per_million")),
    ]


def _single_stream(results: Sequence[Result]) -> Grid:
    names = _Names(results)
    asked = {number(one.facts, "candidates") for one in names.results}
    size = asked.pop() if len(asked) == 1 else None
    of = f" of {size:.0f} candidates" if size is not None else ""
    grid = names.grid(f"SingleStream: one query{of} at a time", *PERCENTILES, "queries/s")
    known = [[percentile(one, name) for name in PERCENTILES] for one in names.results]
    most = max((value for row in known for value in row[:1] if value is not None), default=0.0)
    for one, row in zip(names.results, known, strict=True):
        times = ["" if value is None else time(value) for value in row]
        rate = amount(number(one.facts, "queries_per_s"))
        grid.rows.append([*names.of(one), *times, rate])
        grid.bars.append((row[0] / most,) if row[0] is not None and most > 0 else ())
    return grid


def _server(results: Sequence[Result]) -> Grid:
    names = _Names(results)
    grid = names.grid("Server: queries arrive at a rate", "queries/s", "limit", "candidates/s")
    most = max((one.value for one in names.results), default=0.0)
    for one in names.results:
        limit, size = number(one.facts, "limit_s"), number(one.facts, "candidates")
        row = [digits(one.value), "" if limit is None else time(limit)]
        row.append("" if size is None else digits(size * one.value))
        grid.rows.append([*names.of(one), *row])
        grid.bars.append((one.value / most,) if most > 0 else ())
    grid.notes.append("Queries/s: the highest rate that keeps 99 of 100 answers within the limit.")
    return grid


def _points(results: Sequence[Result]) -> Grid:
    names = _Names(results)
    grid = names.grid("Server, rate by rate", "offered", "achieved", "p50", "p95", "p99", "goodput")
    grid.title += "; bars: p99, whole at the limit"
    for one in names.results:
        limit, label = number(one.facts, "limit_s"), names.of(one)
        for point in points(one):
            grid.rows.append([*label, *_point(point)])
            slow = point.percentiles.get("p99")
            grid.bars.append((slow / limit,) if slow is not None and limit else ())
            label = [""] * len(label)
            if not point.valid:
                grid.notes.append(
                    f"{one.model}, {one.dtype} at {digits(point.offered)} queries/s does not "
                    f"count: {point.reason or 'no reason is known'}."
                )
    return grid


def _point(point: Point) -> list[str]:
    times = [point.percentiles.get(name) for name in ("p50", "p95", "p99")]
    return [
        digits(point.offered) + ("" if point.valid else "?"),
        amount(point.achieved),
        *("" if value is None else time(value) for value in times),
        amount(point.goodput),
    ]


def _noise(samples: Sequence[float]) -> str:
    return percent(spread(samples)) if len(samples) > 1 else "once"
