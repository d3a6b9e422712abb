"""Offline as pictures: where the time goes, throughput, other engines, cost."""

from collections.abc import Sequence

from packrank.bench.report import Result
from packrank.bench.shown.facts import PARTS, curve, number, parts
from packrank.bench.shown.figures import ROW, Plot, Section, Style, bars, layout_of, plain, ticks
from packrank.bench.shown.palette import ENGINES, INK, PART, PRIMARY
from packrank.bench.shown.summary import OURS
from packrank.bench.shown.words import amount, digits, money, percent, time

_POWERS = [2**n for n in range(15)]


def where_time_goes(results: Sequence[Result]) -> Section:
    """Bars of parts, with the share that the ceilings allow."""
    style = Style(results)
    shown = [(one, parts(one)) for one in results if sum(parts(one).values()) > 0]
    names = [style.row(one) for one, _ in shown]
    others = dict.fromkeys(name for _, known in shown for name in known if name not in PARTS)
    data = [
        bars(
            plain(name),
            names,
            [100 * known.get(name, 0.0) / sum(known.values()) for _, known in shown],
            PART[place % len(PART)],
            [f"{name}: {time(known.get(name, 0.0))} a candidate" for _, known in shown],
        )
        for place, name in enumerate([*PARTS, *others])
        if any(known.get(name) for _, known in shown)
    ]
    shares = [
        (name, number(one.facts, "share_of_ceiling"))
        for name, (one, _) in zip(names, shown, strict=True)
    ]
    marked = [(name, share) for name, share in shares if share is not None]
    if marked:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "what the ceilings allow",
                "x": [100 * share for _, share in marked],
                "y": [name for name, _ in marked],
                "marker": {"symbol": "line-ns", "size": 24, "line": {"color": INK, "width": 2.5}},
                "hovertemplate": "the ceilings allow %{x:.0f} % of this time<extra></extra>",
            }
        )
    layout = layout_of("share of a candidate's time, %", "")
    layout |= {"barmode": "stack", "bargap": 0.35}
    layout["legend"]["traceorder"] = "normal"
    layout["xaxis"] |= {"range": [0, 100.5], "dtick": 20}
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False}
    said = (
        "Each bar is the time of one candidate, by what it goes to. The stroke is the time that "
        "the measured ceilings would allow: what lies beyond it could be won."
    )
    best = max((share for _, share in marked), default=None)
    least = min((share for _, share in marked), default=None)
    heading = "Where the time goes"
    if best is not None and least is not None and best != least:
        heading += f": between {percent(least)} and {percent(best)} of what the machine can do"
    elif best is not None:
        heading += f": {percent(best)} of what the machine can do"
    height = ROW * len(shown) + 150
    return Section(heading, said, [Plot("", data, layout, height, True)] if shown else [])


def throughput(results: Sequence[Result]) -> Section:
    """Rates against length and against batch."""
    style, plots, said = Style(results), [], []
    for fact, along, axis, caption, of in (
        ("by_length", "tokens", "tokens of a pair", "By length", "a length of"),
        ("by_batch", "candidates", "candidates in a call", "By batch", "a batch of"),
    ):
        lines = [(one, curve(one, fact, along)) for one in results]
        lines = [(one, line) for one, line in lines if line]
        if not lines:
            continue
        data = [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": style.name(one),
                "x": [x for x, _ in line],
                "y": [y for _, y in line],
                "line": {"color": style.color(one), "dash": style.dash(one), "width": 2},
                "marker": {"color": style.color(one), "symbol": style.symbol(one), "size": 7},
                "hovertemplate": f"%{{x:,}} {along}: <b>%{{y:,.3~r}}</b> candidates/s"
                "<extra>%{fullData.name}</extra>",
            }
            for one, line in lines
        ]
        layout = layout_of(axis, "candidates/s", "log", "log")
        layout["yaxis"] |= ticks(y for _, line in lines for _, y in line)
        layout["xaxis"] |= {"tickvals": _POWERS, "ticktext": [f"{n:,}" for n in _POWERS]}
        plots.append(Plot(caption, data, layout, 430))
        first, line = lines[0]
        if len(line) > 1:
            (low, slow), (high, fast) = line[0], line[-1]
            said.append(
                f"{first.model}, {first.dtype}: {digits(slow)} candidates/s at {of} {low:g}, "
                f"{digits(fast)} at {high:g}."
            )
    return Section("Candidates a second, by length and by batch", " ".join(said), plots)


def engines_beside(results: Sequence[Result]) -> Section:
    """Other engines beside this one, on the same model in the same dtype."""
    style = Style(results)
    own = {style.pairs(one): one.value for one in results if one.by == OURS and one.value > 0}
    peers = [one for one in results if one.by != OURS and style.pairs(one) in own]
    beside = {style.pairs(one) for one in peers}
    shown = [one for one in results if style.pairs(one) in beside]
    engines = sorted({_engine(one) for one in shown}, key=lambda by: (by != OURS, by))
    data = []
    for place, by in enumerate(engines):
        mine = [one for one in shown if _engine(one) == by]
        names = [style.pairs(one) for one in mine]
        shares = [one.value / own[name] for one, name in zip(mine, names, strict=True)]
        texts = [amount(one.value, one.unit) for one in mine]
        row = bars(plain(by), names, shares, ENGINES[place % len(ENGINES)], texts)
        data.append(
            {
                **row,
                "text": texts,
                "textposition": "auto",
                "insidetextanchor": "end",
                "textangle": 0,
            }
        )
    layout = layout_of("speed beside packrank, 1 is as fast", "")
    layout |= {"barmode": "group", "bargap": 0.3}
    layout["xaxis"]["rangemode"] = "tozero"
    layout["yaxis"] |= {"autorange": "reversed", "showgrid": False}
    height = (26 * len(engines) + 24) * len(beside) + 150  # a group has room for every engine
    heading = "Beside other engines, on the same pairs"
    times = [own[style.pairs(one)] / one.value for one in peers if one.value > 0]
    if times:
        low, high = digits(min(times)), digits(max(times))
        heading += f": {low} times as fast" if low == high else f": {low} to {high} times as fast"
    said = "Packrank and the others were measured in turns."
    return Section(heading, said, [Plot("", data, layout, height, True)] if shown else [])


def _engine(result: Result) -> str:
    """Who ran it, without the precision and the batch size that a peer has in its name."""
    return result.by.partition(" (")[0]


def cost(results: Sequence[Result]) -> Section:
    """Money and energy, where either is known."""
    style, plots = Style(results), []
    for fact, caption, show in (
        ("cost_per_million", "Cost of a million pairs", money),
        ("joules_per_1000", "Joules for a thousand pairs", digits),
    ):
        known = [(one, number(one.facts, fact)) for one in results]
        found = [(one, value) for one, value in known if value is not None]
        if not found:
            continue
        texts = [show(value) for _, value in found]
        names = [style.row(one) for one, _ in found]
        rows = bars(caption, names, [value for _, value in found], PRIMARY, texts)
        rows |= {
            "text": texts,
            "textposition": "auto",
            "textangle": 0,
            "cliponaxis": False,
            "showlegend": False,
        }
        layout = layout_of("", "")
        layout["xaxis"] |= {"rangemode": "tozero", "showticklabels": False, "showgrid": False}
        layout["yaxis"] |= {"autorange": "reversed", "showgrid": False}
        plots.append(Plot(caption, [rows], layout, ROW * len(found) + 60))
    is_priced = any(number(one.facts, "cost_per_million") is not None for one in results)
    said = "Cost is in the currency of the price an hour that was given." if is_priced else ""
    heading = "What a million pairs cost" if is_priced else "What a thousand pairs take"
    return Section(heading, said, plots)
