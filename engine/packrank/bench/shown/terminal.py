"""A report as a person reads it in a terminal."""

from collections.abc import Iterator

from packrank.bench.report import Report
from packrank.bench.shown.grid import wrapped
from packrank.bench.shown.summary import begun, flat, headlines, tables, verdict
from packrank.screen import Screen


def lines(report: Report, screen: Screen) -> Iterator[str]:
    """The report: what it comes to, then tables, then how far it may be relied upon."""
    for text in map(str, headlines(report)) if report.results else ["Nothing was measured."]:
        yield from wrapped(text, screen)
    yield ""
    yield from wrapped(begun(report), screen)
    machine = "; ".join(f"{name}: {text}" for name, text in flat(report.machine).items())
    if machine:
        yield from wrapped(f"Machine: {machine}", screen)
    for grid in tables(report):
        yield ""
        yield from grid.lines(screen)
    yield ""
    for text in verdict(report):
        yield from wrapped(text, screen)
    if report.left_out:
        yield ""
        yield from wrapped("Left out:", screen)
        for text in report.left_out:
            yield from wrapped(f"- {text}", screen)
