"""The page stands alone, says what the terminal says, and shows names as they are."""

import html
import json
import math
import re
import sys
from dataclasses import replace
from typing import Any

import pytest
from bench_reports import EVIL, report

from packrank.bench.report import Ceiling, Report, Result
from packrank.bench.shown.page import page
from packrank.bench.shown.palette import DARK
from packrank.bench.shown.plots import sections
from packrank.bench.shown.summary import headlines, tables, verdict
from packrank.errors import InputError


@pytest.fixture(scope="module")
def made() -> str:
    return page(report())


def figures(made: str) -> list[dict[str, Any]]:
    found = re.findall(r'<script type="application/json" class="figure">(.*?)</script>', made)
    return [json.loads(text) for text in found]


def text_of(made: str) -> str:
    """What a reader without script sees: no script, no style, no tag."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", "", made, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", bare)).split())


def test_every_figure_has_a_place(made: str) -> None:
    shown = figures(made)
    assert len(shown) == made.count('<div class="plot"') == 11
    assert [len(section.plots) for section in sections(report())] == [1, 2, 1, 3, 1, 1, 2]
    assert all(figure["data"] and figure["layout"] for figure in shown)


def test_it_needs_no_network(made: str) -> None:
    assert "default-src 'none'" in made
    bare = re.sub(r"<script\b.*?</script>", "", made, flags=re.DOTALL)
    assert "http" not in bare.replace("http-equiv", "")
    assert not re.search(r"<(link|img|iframe)\b|<script[^>]*\bsrc=", bare)
    assert len(re.findall(r"plotly\.js v\d", made)) == 1


def test_without_script_it_says_the_same(made: str) -> None:
    text, one = text_of(made), report()
    for said in headlines(one):
        assert f"{said.name} {said.figure}" in text
    for sentence in [*verdict(one), *one.left_out]:
        assert sentence in text
    for grid in tables(one):
        assert grid.title in text
        for row in grid.rows:
            assert " ".join(" ".join(filter(None, row)).split()) in text


def test_names_are_no_markup(made: str) -> None:
    assert "alert(1)</script>" not in made
    assert "<b>" not in re.sub(r"<script\b.*?</script>", "", made, flags=re.DOTALL)
    assert made.count("</script>") == 1 + len(figures(made)) + 1
    assert EVIL in text_of(made)
    # Nothing in a figure's data can end its script; and plotly takes tags for markup.
    scripts = re.findall(r'class="figure">(.*?)</script>', made)
    assert not any("<" in text for text in scripts)
    drawn = json.dumps(figures(made))
    assert "mine/&lt;b&gt;" in drawn
    assert "mine/<b>" not in drawn
    assert "&lt;i&gt;own" in drawn
    assert "<i>own" not in drawn


def test_colours_have_another_one_at_night(made: str) -> None:
    used = set(re.findall(r'"(#[0-9a-f]{6})"', json.dumps(figures(made))))
    kept = {"#8aa4b8", "#e2c48a", "#bf9149", "#86602a", "#9aa5ab"}  # seen on both
    assert used
    assert used <= DARK.keys() | kept


def by_name(figure: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {trace.get("name", ""): trace for trace in figure["data"]}


def one_result(**facts: Any) -> Report:
    result = Result("Offline", "m", "float32", "long", "rate", "candidates/s", [10.0], facts=facts)
    peaks = [("memory read", "B/s", 20e9), ("product, float32", "op/s", 200e9)]
    peaks += [("product, float32, 384 by 384", "op/s", 150e9), ("memory copy", "B/s", 9e9)]
    ceilings = [Ceiling(name, "", unit, [value]) for name, unit, value in peaks]
    return Report("2026-11-30T20:00:00Z", {}, complete=True, ceilings=ceilings, results=[result])


def test_the_roofline_by_hand() -> None:
    one = {"op": "linear", "seconds": 2.0, "operations": 300e9, "bytes": 10e9, "possible_s": 1.5}
    [figure] = figures(page(one_result(ops=[one, {"op": "copy", "seconds": 1, "bytes": 9}])))
    traces = by_name(figure)
    assert traces.keys() == {"memory read", "product, float32", "m, float32"}
    assert (traces["m, float32"]["x"], traces["m, float32"]["y"]) == ([30.0], [150e9])
    [text] = traces["m, float32"]["text"]
    assert "75 % of its ceiling" in text
    # The slope ends where the level begins: 200e9 operations a second at 10 operations a byte.
    slope, level = traces["memory read"], traces["product, float32"]
    assert (slope["x"][1], slope["y"][1]) == (level["x"][1], level["y"][1]) == (10.0, 200e9)
    assert slope["y"][0] == pytest.approx(20e9 * slope["x"][0])
    low, high = (10**end for end in figure["layout"]["xaxis"]["range"])
    assert low < slope["x"][0] * 1.001 and high > 30.0
    assert math.log10(150e9) > figure["layout"]["yaxis"]["range"][0]


def test_roofs_are_those_of_what_is_under_them_and_their_names_lie_apart() -> None:
    one = {"op": "linear", "seconds": 2.0, "operations": 300e9, "bytes": 10e9}
    made = one_result(ops=[one])
    made.results.append(replace(made.results[0], dtype="bfloat16"))
    for dtype, rate in (("bfloat16", 220e9), ("float16", 210e9)):
        made.ceilings.append(Ceiling(f"product, {dtype}, torch", "", "op/s", [rate]))
    [figure] = figures(page(made))
    names = {each["text"]: each["yanchor"] for each in figure["layout"]["annotations"]}
    assert names.pop("memory read, 20.0 GB/s") == "top"
    assert names == {"product, float32, 200 Gop/s": "top", "product, bfloat16, 220 Gop/s": "bottom"}


def test_the_parts_by_hand() -> None:
    parts = {"products": 0.03, "attention": 0.01}
    [figure] = figures(page(one_result(parts=parts, share_of_ceiling=0.6)))
    traces = by_name(figure)
    assert traces["products"]["x"] == pytest.approx([75.0])
    assert traces["attention"]["x"] == pytest.approx([25.0])
    assert traces["what the ceilings allow"]["x"] == [60.0]
    assert traces["products"]["y"] == ["m<br>float32"]


def test_engines_by_hand() -> None:
    one = one_result()
    kind = ("Offline", "m", "float32", "long", "rate", "candidates/s")
    one.results += [Result(*kind, [4.0], "slow one"), Result(*kind, [20.0], "fast one (batch 32)")]
    one.results.append(Result("Offline", "m", "int8", *kind[3:], [1.0], "without ours"))
    made = page(one)
    [figure] = figures(made)
    assert {name: trace["x"] for name, trace in by_name(figure).items()} == {
        "packrank": [1.0],
        "fast one": [2.0],
        "slow one": [0.4],
    }
    assert "0.50 to 2.50 times as fast" in text_of(made)


def test_names_that_would_be_shortened_alike_are_not() -> None:
    """Else one model's engines would be held against another's, and their bars be one."""
    report = Report("2026-11-30T20:00:00Z", {}, complete=True)
    for place, rate in (("a", 10.0), ("b", 40.0)):
        for by, factor in (("packrank", 1.0), ("other", 0.5)):
            model = f"/srv/models/{place}/reranker-final"
            report.results.append(
                Result("Offline", model, "float32", "long", "rate", "c/s", [rate * factor], by)
            )
    made = page(report)
    assert by_name(figures(made)[-1])["other"]["x"] == [0.5, 0.5]
    assert "2.00 times as fast" in text_of(made)


def test_a_report_of_nothing_is_a_page() -> None:
    made = page(Report("2026-11-30T20:00:00Z", {}))
    assert "Nothing was measured." in text_of(made)
    assert "The run was interrupted" in text_of(made)
    assert figures(made) == []
    assert len(made) < 20_000  # without plotly


def test_without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(InputError, match=r"needs plotly: pip install packrank\[report\]$"):
        page(report())
