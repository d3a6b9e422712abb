"""Every op of every model, and the measured roofs above it."""

import math
from collections.abc import Sequence
from typing import Any

from packrank.bench.report import Ceiling, Result
from packrank.bench.shown.facts import Op, ops
from packrank.bench.shown.figures import Plot, Section, Style, layout_of, plain, ticks
from packrank.bench.shown.palette import FADED, INK
from packrank.bench.shown.words import amount, digits, percent

_CLOSE = 1.4  # times, within which the names of two levels would lie on each other


def roofline(ceilings: Sequence[Ceiling], results: Sequence[Result]) -> Section:
    """Operations a second against operations a byte, both on logarithmic axes."""
    style = Style(results)
    shown = [(one, [op for op in ops(one) if op.intensity]) for one in results]
    shown = [(one, known) for one, known in shown if known]
    # A dtype's products at several shapes are one roof, that of the best.
    peaks: dict[str, float] = {}
    over = {f"product, {one.dtype}" for one, _ in shown}
    for each in ceilings:
        name = ", ".join(each.name.split(", ")[:2])
        if each.unit == "op/s" and each.value > 0 and name in over:
            peaks[name] = max(peaks.get(name, 0.0), each.value)
    bandwidths = {
        each.name: each.value
        for each in ceilings
        if each.unit == "B/s" and each.value > 0 and "copy" not in each.name
    }
    if not shown or not peaks or not bandwidths:
        return Section("", "", [])
    top, widest = max(peaks.values()), max(bandwidths.values())
    marks = [op.intensity or 1.0 for _, known in shown for op in known]
    rates = [(op.operations or 0.0) / op.seconds for _, known in shown for op in known]
    bottom = min(*rates, *peaks.values()) / 2.5
    left = min(*marks, min(peaks.values()) / widest) / 3
    right = max(*marks, top / min(bandwidths.values())) * 4
    slopes = []
    for name, rate in bandwidths.items():
        start = max(left, bottom / rate)  # on the left side or at the bottom
        slopes.append((name, rate, (start, rate * start), (top / rate, top)))
    levels = [(name, peak, (right, peak), (peak / widest, peak)) for name, peak in peaks.items()]
    data = [_roof(name, at, other) for name, _, at, other in [*slopes, *levels]]
    for one, known in shown:
        whole = sum(op.seconds for op in known)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": style.name(one),
                "x": [op.intensity for op in known],
                "y": [(op.operations or 0.0) / op.seconds for op in known],
                "text": [_op(op, whole) for op in known],
                "marker": {
                    "color": style.color(one),
                    "symbol": style.symbol(one),
                    "size": [8 + 22 * math.sqrt(op.seconds / whole) for op in known],
                    "opacity": 0.75,
                    "line": {"width": 1, "color": INK},
                },
                "hovertemplate": "%{text}<extra>%{fullData.name}</extra>",
            }
        )
    layout = layout_of("operations a byte", "operations a second", "log", "log")
    layout["xaxis"] |= {"range": [math.log10(left), math.log10(right)], "tickformat": "~r"}
    layout["xaxis"]["dtick"] = 1
    layout["yaxis"] |= ticks([*rates, *peaks.values()], "op/s")
    layout["yaxis"]["range"] = [math.log10(bottom), math.log10(max(top, *rates)) + 0.15]
    layout["annotations"] = [
        *(
            _written(f"{name}, {amount(rate, 'B/s')}", at, "top" if at[0] == left else "bottom")
            for name, rate, at, _ in slopes
        ),
        *(
            # Two that are close have one of their names above and one below.
            _written(f"{name}, {amount(peak, 'op/s')}", at, "")
            | ({"yanchor": "top"} if any(peak < y <= _CLOSE * peak for y in peaks.values()) else {})
            for name, peak, at, _ in levels
        ),
    ]
    missing = sum(not op.intensity for one in results for op in ops(one))
    said = (
        "Each mark is an op of a model, larger the more of the time it takes; what the machine can "
        "do is the lines. A mark under a slope waits for memory, under a level line for the "
        "arithmetic, and how far under is what could be won."
    )
    if missing:
        said += f" {missing} that move or compute nothing that was counted are not shown."
    return Section("Every op under its roof", said, [Plot("", data, layout, 560, True)])


def _roof(name: str, *line: tuple[float, float]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(name),
        "x": [x for x, _ in line],
        "y": [y for _, y in line],
        "line": {"color": FADED, "width": 1.5},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _written(text: str, at: tuple[float, float], under: str) -> dict[str, Any]:
    """What a roof is called: over the right end of a level; right of where a slope begins."""
    return {
        "x": math.log10(at[0]),
        "y": math.log10(at[1]),
        "xanchor": "left" if under else "right",
        "yanchor": under or "bottom",
        "xshift": {"top": 14, "bottom": 26, "": 0}[under],
        "text": plain(text),
        "showarrow": False,
        "font": {"size": 11, "color": FADED},
    }


def _op(op: Op, whole: float) -> str:
    rate = (op.operations or 0.0) / op.seconds
    lines = [
        f"<b>{plain(op.name)}</b>, {percent(op.seconds / whole)} of the time",
        f"{amount(rate, 'op/s')}, {digits(op.intensity or 0.0)} operations a byte",
    ]
    if op.possible is not None:
        lines.append(
            f"{percent(op.possible / op.seconds)} of its ceiling"
            + (f", bound by {plain(op.bound_by)}" if op.bound_by else "")
        )
    if op.calls is not None:
        lines.append(f"{op.calls:,.0f} calls")
    return "<br>".join(lines)
