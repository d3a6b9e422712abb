"""Server and SingleStream as pictures: latencies, and goodput against the load."""

import math
from collections.abc import Sequence
from typing import Any

from packrank.bench.report import Result
from packrank.bench.shown.facts import PERCENTILES, Point, number, points
from packrank.bench.shown.figures import ROW, Plot, Section, Style, axis, layout_of, plain, ticks
from packrank.bench.shown.palette import FADED, GRID, INK, LATENCY, PRIMARY
from packrank.bench.shown.summary import percentile
from packrank.bench.shown.words import amount, digits, time


def server(results: Sequence[Result]) -> Section:
    """Latencies and goodput against the offered rate, a figure a model."""
    style, plots = Style(results), []
    for one in results:
        known, limit = points(one), number(one.facts, "limit_s")
        if not known:
            continue
        data: list[dict[str, Any]] = []
        for name, color in zip(PERCENTILES, LATENCY, strict=True):
            timed = [point for point in known if name in point.percentiles]
            if timed:
                data.append(
                    _line(name, timed, [point.percentiles[name] for point in timed], color, "s")
                )
        data.append(
            {
                **_line("goodput", known, [point.goodput for point in known], PRIMARY, "queries/s"),
                "yaxis": "y2",
            }
        )
        end = known[-1].offered
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "as offered",
                "x": [0, end],
                "y": [0, end],
                "yaxis": "y2",
                "line": {"color": FADED, "width": 1, "dash": "dot"},
                "hoverinfo": "skip",
            }
        )
        layout = layout_of("queries offered a second", "latency", "linear", "log")
        layout["xaxis"] |= {"anchor": "y2", "rangemode": "tozero"}
        layout["yaxis"] |= {"domain": [0.42, 1]}
        layout["yaxis"] |= ticks([v for point in known for v in point.percentiles.values()], "s")
        layout["yaxis2"] = {**axis("goodput"), "domain": [0, 0.3], "rangemode": "tozero"}
        if limit:
            layout["shapes"] = [_limit(limit)]
            layout["annotations"] = [_limit_label(limit)]
        caption = style.name(one)
        if limit and one.value > 0:
            caption += f": {digits(one.value)} queries/s within {time(limit)}"
        plots.append(Plot(caption, data, layout, 470))
    said = (
        "Above each plot is the highest rate at which 99 of 100 answers keep within the limit. "
        "Goodput are the answers that do. Hollow marks do not count: the table says why."
    )
    return Section("Latency as the load grows", said, plots)


def _line(
    name: str, known: Sequence[Point], values: Sequence[float | None], color: str, unit: str
) -> dict[str, Any]:
    shown = [
        [amount(value, unit), plain(point.reason)]
        for point, value in zip(known, values, strict=True)
    ]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [point.offered for point in known],
        "y": list(values),
        "customdata": shown,
        "line": {"color": color, "width": 2},
        "marker": {
            "color": color,
            "size": 7,
            "symbol": ["circle" if point.valid else "circle-open" for point in known],
        },
        "hovertemplate": f"%{{x:.3~r}} queries/s: {name} <b>%{{customdata[0]}}</b> "
        "%{customdata[1]}<extra></extra>",
    }


def _limit(limit: float) -> dict[str, Any]:
    line = {"color": INK, "width": 1.5, "dash": "dash"}
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": limit,
        "y1": limit,
        "line": line,
    }


def _limit_label(limit: float) -> dict[str, Any]:
    return {
        "xref": "paper",
        "x": 0,
        "y": math.log10(limit),
        "xanchor": "left",
        "yanchor": "bottom",
        "text": f"limit {time(limit)}",
        "showarrow": False,
        "font": {"size": 11, "color": INK},
    }


def single_stream(results: Sequence[Result]) -> Section:
    """Latencies of one query at a time, from the median to the slowest of 100."""
    style, data = Style(results), []
    names = [style.row(one) for one in results]
    known = [[percentile(one, name) for name in PERCENTILES] for one in results]
    for name, row in zip(names, known, strict=True):
        times = [value for value in row if value is not None]
        if times:
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": [min(times), max(times)],
                    "y": [name, name],
                    "line": {"color": GRID, "width": 6},
                    "hoverinfo": "skip",
                    "showlegend": False,
                }
            )
    for place, (name, color) in enumerate(zip(PERCENTILES, LATENCY, strict=True)):
        marks = [(row[place], label) for row, label in zip(known, names, strict=True) if row[place]]
        if not marks:
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [value for value, _ in marks],
                "y": [label for _, label in marks],
                "text": [time(value or 0.0) for value, _ in marks],
                "marker": {"color": color, "size": 11},
                "hovertemplate": f"{name}: <b>%{{text}}</b><extra></extra>",
            }
        )
    layout = layout_of("time of a query", "", "log")
    layout["xaxis"] |= ticks([value for row in known for value in row if value is not None], "s")
    layout["yaxis"] |= {"autorange": "reversed", "type": "category"}
    said = "One query at a time, the next when the last is answered: what a person waits for."
    plot = Plot("", data, layout, ROW * len(results) + 150, True)
    return Section("How long one query takes", said, [plot] if results else [])
