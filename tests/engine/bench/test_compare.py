"""What is said of two reports: rows by name, verdicts beyond noise, and doubts first."""

import dataclasses
import json

import numpy as np
import pytest
from bench_reports import report, slower

from packrank.bench.report import Ceiling, Report, Result, Verdict
from packrank.bench.shown.compare import as_json, compare, lines
from packrank.screen import Screen, columns

STEADY = [100.0, 101.0, 99.0, 100.5, 99.5, 100.2]


def offline(samples: list[float], model: str = "m", unit: str = "candidates/s") -> Result:
    return Result("Offline", model, "float32", "long", "rate", unit, samples)


def made(*results: Result, **fields: object) -> Report:
    made = Report("2026-11-30T20:00:00Z", {"cores": 2}, complete=True, results=list(results))
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]


def verdicts(a: Report, b: Report) -> dict[str, str]:
    return {row.id: row.verdict for row in compare(a, b).rows}


def test_two_runs_of_the_same_thing() -> None:
    found = compare(report(1, with_odd=False), report(2, with_odd=False))
    assert found.doubts == []
    assert {row.verdict for row in found.rows} == {"no difference", "not comparable"}
    # What was searched once has no noise; of Server six rates of three models count.
    once = [row.group for row in found.rows if row.verdict == "not comparable"]
    assert once == ["Server, queries/s"] * 3
    assert sum(row.group == "Server, latency at a rate" for row in found.rows) == 18


def test_all_a_tenth_slower() -> None:
    a, b = report(1, with_odd=False), slower(report(2, with_odd=False), 1.1)
    measured = [row for row in compare(a, b).rows if not row.group.startswith("Server")]
    assert {row.verdict for row in measured} == {"slower"}
    for row in measured:
        assert row.ratio == pytest.approx(1.1 if row.unit == "s" else 1 / 1.1, rel=0.03)
    back = [row for row in compare(b, a).rows if not row.group.startswith("Server")]
    assert {row.verdict for row in back} == {"faster"}


def test_one_row_by_hand() -> None:
    a, b = made(offline(STEADY)), made(offline([each / 2 for each in STEADY]))
    [row] = compare(a, b).rows
    assert row.id == "Offline, m, float32, long, packrank"
    assert (row.a, row.b, row.unit) == pytest.approx((100.1, 50.05, "candidates/s"))
    assert row.ratio is not None and row.low is not None and row.high is not None
    assert row.ratio == pytest.approx(0.5)
    assert row.low < 0.5 < row.high
    assert row.verdict == "slower"


def test_times_that_grow_are_slower() -> None:
    def stream(samples: list[float]) -> Result:
        return Result("SingleStream", "m", "float32", "long", "latency", "s", samples)

    longer = [1.5 * each for each in STEADY]
    assert set(verdicts(made(stream(STEADY)), made(stream(longer))).values()) == {"slower"}


def test_many_rows_count_together() -> None:
    """What would be a difference alone may be none of a hundred: the least p counts so often."""
    a = made(*(offline(STEADY, f"m{n}") for n in range(100)))
    b = made(
        *(offline([1.018 * v for v in STEADY] if n == 0 else STEADY, f"m{n}") for n in range(100))
    )
    alone = compare(made(a.results[0]), made(b.results[0])).rows[0]
    among = compare(a, b).rows[0]
    assert alone.verdict == "faster"
    assert among.verdict == "no difference"
    assert alone.p is not None and among.p == min(1.0, 100 * alone.p)


def test_fixed_work_tells_moods_of_one_machine_and_not_two_machines_apart() -> None:
    random = np.random.default_rng(0)

    def one(mood: float, processor: str, device: str = "cpu") -> Report:
        moods = np.exp(mood + random.normal(0, 0.05, 40))
        result = offline([100 * each * np.exp(random.normal(0, 0.01)) for each in moods])
        result.beside = {"product": list(moods), "copy": list(3e9 * moods)}
        return made(result, machine={"processor": processor}, settings={"device": device})

    assert set(verdicts(one(0.0, "x"), one(-0.3, "x")).values()) == {"no difference"}
    assert set(verdicts(one(0.0, "x"), one(-0.3, "y")).values()) == {"slower"}
    assert set(verdicts(one(0.0, "x"), one(-0.3, "x", "cuda")).values()) == {"slower"}


def test_what_only_one_has_or_cannot_be_told() -> None:
    a = made(offline(STEADY, "gone"), offline([0.0, 0.0], "zero"), offline(STEADY, "unit"))
    b = made(offline([0.0, 1.0], "zero"), offline(STEADY, "unit", "tokens/s"), offline([1], "new"))
    found = verdicts(a, b)
    assert {id.split(", ")[1]: verdict for id, verdict in found.items()} == {
        "gone": "only in A",
        "zero": "not comparable",
        "unit": "not comparable",
        "new": "only in B",
    }
    assert compare(a, b).summary == (
        "Of 4 measurements, B beside A: 2 not comparable, 1 only in A, 1 only in B."
    )
    assert compare(made(), made()).summary == "Neither report has a measurement."
    assert list(lines(compare(made(), made()), Screen(None, "utf-8"))) == [
        "Neither report has a measurement."
    ]


def test_latencies_count_at_the_rates_of_both() -> None:
    def server(*offered: float) -> Report:
        points = [{"offered": rate, "valid": rate < 9, "latencies": STEADY} for rate in offered]
        kind = ("Server", "m", "float32", "long", "rate", "queries/s")
        return made(Result(*kind, [4.0], facts={"points": points}))

    assert verdicts(server(1.0, 2.5, 3, 9), server(2.5, 3.0, 4, 9)) == {
        "Server, m, float32, long, packrank": "not comparable",
        "Server, m, float32, long, packrank, at 2.5/s": "no difference",
        "Server, m, float32, long, packrank, at 3/s": "no difference",
    }


def test_doubts_are_sentences() -> None:
    a = made(complete=False, settings={"seed": 1, "lengths": ["long", "nq-like"]})
    b = made(
        machine={"cores": 4, "versions": {"torch": "2.13.0"}},
        settings={"seed": 2, "lengths": ["long", "nq-like"]},
        verdict=Verdict(False, ["the clock fell", "others were at work"]),
    )
    assert compare(a, b).doubts == [
        "A was interrupted, so a part of it is missing.",
        "B is not valid: the clock fell; others were at work.",
        "A and B ran on different machines or versions: cores 2 in A, 4 in B; "
        "versions torch unknown in A, 2.13.0 in B.",
        "A and B ran with different settings: seed 1 in A, 2 in B.",
    ]


def test_a_machine_that_is_slower_by_itself_is_named() -> None:
    def ceilings(*factors: float) -> Report:
        return made(
            ceilings=[
                Ceiling(f"c{n}", "products", "op/s", [factor * each for each in STEADY])
                for n, factor in enumerate(factors)
            ]
        )

    [doubt] = compare(ceilings(1, 1, 1), ceilings(0.8, 0.8, 1)).doubts
    assert doubt.startswith("The machine itself was slower in B, by most of its ceilings")
    assert compare(ceilings(1, 1, 1), ceilings(0.8, 1.2, 1)).doubts == []


def test_json_is_whole_and_strict() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = compare(report(1), slower(report(2), 1.1))
    document = json.loads(as_json(found), parse_constant=refuse)
    assert (document["schema"], document["version"]) == ("packrank bench compare", 1)
    assert document["summary"] == found.summary
    assert document["rows"] == [dataclasses.asdict(row) for row in found.rows]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_fits(width: int) -> None:
    shown = list(lines(compare(report(1), slower(report(2), 1.1)), Screen(width, "utf-8")))
    assert max(map(columns, shown)) <= width
    narrow = " ".join(" ".join(shown).split())
    assert narrow.count("slower") == 1 + 22 + 1  # the sentence, the rows, the machine's
    assert "sentence-transformers, ONNX" in narrow
    assert shown[0].startswith("The machine itself was slower in B")


@pytest.mark.parametrize(("by", "shown"), [(1.0, "1.000"), (2.5e-4, "0.00025"), (4e3, "4e+03")])
def test_a_ratio_has_digits_however_small_or_large(by: float, shown: str) -> None:
    found = compare(made(offline(STEADY)), made(offline([by * each for each in STEADY])))
    [row] = [line for line in lines(found, Screen(80, "utf-8")) if line.startswith("m ")]
    assert shown in row.split()
