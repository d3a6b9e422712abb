"""Figures as plotly takes them, made without it, and the style that they share."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from packrank.bench.report import Result
from packrank.bench.shown.palette import GRID, INK, MODELS, SYMBOLS
from packrank.bench.shown.summary import OURS
from packrank.bench.shown.words import tick

_LABEL = 20  # characters of a model's name
_DASHES = ("solid", "dash", "dot", "dashdot")
ROW = 42  # pixels of a bar


@dataclass
class Plot:
    """A figure.

    Attributes:
        caption: a heading of its own, where a section has several.
        data, layout: plotly's.
        height: in pixels.
        is_wide: it takes the width of the page.
    """

    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 380
    is_wide: bool = False


@dataclass
class Section:
    """Plots of one question, under a heading that says what one sees; `said` explains them."""

    heading: str
    said: str
    plots: list[Plot]


class Style:
    """Colours by model, lines and symbols by dtype, the same in all plots."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.models = list(dict.fromkeys(one.model for one in results))
        self.dtypes = list(dict.fromkeys(one.dtype for one in results))
        self.lengths = {one.lengths for one in results}
        short = [_short(name) for name in self.models]
        self._labels = {
            name: label if short.count(label) == 1 else name
            for name, label in zip(self.models, short, strict=True)
        }

    def color(self, one: Result) -> str:
        """By model."""
        return MODELS[self.models.index(one.model) % len(MODELS)]

    def symbol(self, one: Result) -> str:
        """Of a mark, by dtype."""
        return SYMBOLS[self.dtypes.index(one.dtype) % len(SYMBOLS)]

    def dash(self, one: Result) -> str:
        """Of a line, by dtype."""
        return _DASHES[self.dtypes.index(one.dtype) % len(_DASHES)]

    def name(self, one: Result) -> str:
        """What it is called in legends and headings."""
        return self.pairs(one, ", ") + self._by(one, ", ")

    def row(self, one: Result) -> str:
        """What it is called beside its row: in two lines, which leaves the plot more room."""
        return self.pairs(one) + self._by(one, "<br>")

    def pairs(self, one: Result, between: str = "<br>") -> str:
        """What several engines are compared on."""
        last = f"{one.dtype}, {one.lengths}" if len(self.lengths) > 1 else one.dtype
        return plain(self._labels[one.model]) + between + plain(last)

    def _by(self, one: Result, between: str) -> str:
        return "" if one.by == OURS else between + plain(one.by)


def _short(name: str) -> str:
    if len(name) <= _LABEL:
        return name
    return f"{name[: _LABEL // 2 - 1]}...{name[2 - _LABEL // 2 :]}"


def bars(
    name: str, labels: Sequence[str], values: Sequence[float], color: str, shown: Sequence[str]
) -> dict[str, Any]:
    """Bars to the right, a row a label, with what is shown of each when it is pointed at."""
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": list(values),
        "y": list(labels),
        "customdata": [plain(text) for text in shown],
        "marker": {"color": color, "line": {"width": 0}},
        "hovertemplate": "%{y}: <b>%{customdata}</b><extra></extra>",
    }


def plain(text: str) -> str:
    """A text of which plotly takes nothing for markup; it knows no entity of a quotation mark."""
    return escape(text, quote=False)


def axis(title: str, kind: str = "linear") -> dict[str, Any]:
    """An axis, "linear", "log" or "category"."""
    return {
        "title": {"text": title, "standoff": 10, "font": {"size": 13}},
        "type": kind,
        "automargin": True,
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GRID,
    }


def ticks(values: Iterable[float], unit: str = "") -> dict[str, Any]:
    """Marks of a logarithmic axis that are read without counting: 1, 2, 5, 10, with their unit."""
    known = [value for value in values if value > 0]
    if not known:
        return {}
    low, high = math.log10(min(known)), math.log10(max(known))
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    powers = range(math.floor(low) - 1, math.ceil(high) + 2)
    marks = [float(f"{step}e{power}") for power in powers for step in steps]
    return {"tickvals": marks, "ticktext": [tick(mark, unit) for mark in marks]}


def layout_of(x: str, y: str, x_kind: str = "linear", y_kind: str = "linear") -> dict[str, Any]:
    """A layout by the titles and kinds of its axes; without a title the upright one has names."""
    return {
        "xaxis": axis(x, x_kind),
        "yaxis": axis(y, y_kind if y else "category"),
        "margin": {"l": 8, "r": 12, "t": 10, "b": 8},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
    }
