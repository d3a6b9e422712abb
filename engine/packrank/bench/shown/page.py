"""A report as one page of HTML with plots, which needs no network: plotly's script is in it."""

import json
from html import escape
from typing import Any

from packrank.bench.report import Report
from packrank.bench.shown.figures import Plot, Section
from packrank.bench.shown.grid import Grid
from packrank.bench.shown.page_style import HEAD, SCRIPT
from packrank.bench.shown.palette import DARK, PART
from packrank.bench.shown.plots import sections
from packrank.bench.shown.summary import (
    Headline,
    begun,
    flat,
    headlines,
    sentence,
    tables,
    verdict,
)
from packrank.errors import InputError


def check_installed() -> None:
    """Raise InputError unless plotly is installed."""
    try:
        import plotly.graph_objects  # noqa: F401
    except ImportError:
        raise InputError("a page of HTML needs plotly: pip install packrank[report]") from None


def page(report: Report) -> str:
    """The page. All texts of the report are escaped; what it says stands there without script too.

    Raises:
        InputError: plotly is not installed.
    """
    check_installed()
    from plotly.graph_objects import Figure
    from plotly.offline import get_plotlyjs

    shown = sections(report)
    figures = [
        {"data": plot.data, "layout": plot.layout} for section in shown for plot in section.plots
    ]
    for figure in figures:
        Figure(figure)  # refuses what has no meaning in a figure
    relied = verdict(report)
    doubt = "" if report.verdict.valid and report.complete else " doubtful"
    cards = "".join(map(_card, headlines(report))) or "<li>Nothing was measured.</li>"
    lists = {"How far to rely on this": relied, "Left out": report.left_out}
    lists["Asked for"] = [f"{name}: {text}" for name, text in flat(report.settings).items()]
    return "".join(
        [
            HEAD,
            "<header>\n<h1>What this machine does with rerankers</h1>\n",
            f"<p>{escape(begun(report))} {_facts(report.machine)}</p>\n",
            f'<p class="verdict{doubt}">{escape(" ".join(relied))}</p>\n',
            f'<ul class="cards">{cards}</ul>\n</header>\n',
            *map(_section, shown),
            "<section>\n<h2>All numbers</h2>\n",
            *map(_table, tables(report)),
            "</section>\n",
            *(_list(heading, texts) for heading, texts in lists.items() if texts),
            "</main>\n",
            f"<script>{get_plotlyjs()}</script>\n" if figures else "",
            *map(_data, figures),
            f"<script>\nconst DARK = {json.dumps(DARK)};\n{SCRIPT}</script>\n</body>\n</html>\n",
        ]
    )


def _data(figure: object) -> str:
    """A figure as the script reads it; a text in it may hold what ends a script."""
    text = json.dumps(figure).replace("<", "\\u003c")
    return f'<script type="application/json" class="figure">{text}</script>\n'


def _card(said: Headline) -> str:
    share = ""
    if said.share is not None:
        share = f'<div class="share"><i style="width: {_width(said.share)}"></i></div>'
    rest = sentence(said.rest.lstrip(",; ")) if said.rest else ""
    return (
        f'<li><span class="name">{escape(said.name)}</span>'
        f'<span class="figure">{escape(said.figure)}</span>{share}'
        f'<span class="rest">{escape(rest)}</span></li>\n'
    )


def _section(section: Section) -> str:
    """A heading, what is said of the figures, and a place for each."""
    said = f"<p>{escape(section.said)}</p>\n" if section.said else ""
    return (
        f"<section>\n<h2>{escape(section.heading)}</h2>\n{said}"
        f'<div class="plots">{"".join(map(_place, section.plots))}</div>\n</section>\n'
    )


def _place(plot: Plot) -> str:
    caption = f"<h3>{escape(plot.caption)}</h3>" if plot.caption else ""
    wide = ' class="wide"' if plot.is_wide else ""
    return (
        f'<figure{wide}>{caption}<div class="plot" style="height: {plot.height}px"></div>'
        "</figure>\n"
    )


def _table(grid: Grid) -> str:
    """The same table as the terminal's, its bars drawn by the browser."""
    filled = [n for n in range(len(grid.heading)) if any(row[n] for row in grid.rows)]
    colors = PART if grid.stack else ("var(--primary)",)

    name = ' class="of"'

    def row(texts: list[str], tag: str, bar: str) -> str:
        cells = [
            f"<{tag}{name if n < grid.names else ''}>{escape(texts[n])}</{tag}>" for n in filled
        ]
        return f"<tr>{''.join(cells)}{bar}</tr>\n"

    rows = [row(grid.heading, "th", "<th></th>" if grid.bars else "")]
    for place, texts in enumerate(grid.rows):
        rows.append(row(texts, "td", _bar(grid.bars[place], colors) if grid.bars else ""))
    key = "".join(
        f'<i style="background: {colors[n % len(colors)]}"></i>{escape(name)}'
        for n, name in enumerate(grid.stack)
    )
    notes = "".join(f'<p class="note">{escape(note)}</p>\n' for note in grid.notes)
    return (
        f"<h3>{escape(grid.title)}</h3>\n"
        + (f'<p class="key">{key}</p>\n' if key else "")
        + f'<div class="scroll"><table>\n{"".join(rows)}</table>\n{notes}</div>\n'
    )


def _bar(shares: tuple[float, ...], colors: tuple[str, ...]) -> str:
    parts = "".join(
        f'<i style="width: {_width(share)}; background: {colors[n % len(colors)]}"></i>'
        for n, share in enumerate(shares)
    )
    return f'<td class="bar"><div>{parts}</div></td>'


def _width(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.1f}%"


def _facts(facts: dict[str, Any]) -> str:
    return escape("; ".join(f"{name}: {text}" for name, text in flat(facts).items()))


def _list(heading: str, texts: list[str]) -> str:
    said = "".join(f"<li>{escape(text)}</li>\n" for text in texts)
    return f"<section>\n<h2>{heading}</h2>\n<ul>{said}</ul>\n</section>\n"
