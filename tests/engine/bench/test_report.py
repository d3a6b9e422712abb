"""Reports that were read: whole, or refused by the field that is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from bench_reports import report

from packrank.bench.report import Report, Result
from packrank.commands.cli import main
from packrank.errors import InputError

ABSENT, HUGE = object(), 10**400
WRONG: list[tuple[tuple[Any, ...], Any, str]] = [
    (("machine",), None, "report.machine is not an object"),
    (("complete",), "yes", "report.complete is not true or false"),
    (("complete",), 1, "report.complete is not true or false"),
    (("seconds",), float("nan"), "report.seconds is not a finite number"),
    (("seconds",), HUGE, "report.seconds is not a finite number"),
    (("begun",), ABSENT, "report has no field 'begun'"),
    (("colour",), 1, "report has an unknown field 'colour'"),
    (("results",), {}, "report.results is not a list"),
    (("results", 0), [], r"report.results\[0\] is not an object"),
    (("results", 0, "samples", 1), True, r"results\[0\].samples\[1\] is not a finite number"),
    (("results", 0, "samples"), [], "a measurement without samples"),
    (("results", 0, "dtype"), 32, r"results\[0\].dtype is not a text"),
    (("results", 0, "beside"), {"copy": 1.0}, r"results\[0\].beside.copy is not a list"),
    (("ceilings", 0, "unit"), ABSENT, r"ceilings\[0\] has no field 'unit'"),
    (("verdict", "reasons"), "none", "verdict.reasons is not a list"),
    (("left_out", 0), None, r"left_out\[0\] is not a text"),
]


def written(tmp_path: Path, at: tuple[Any, ...] = (), value: Any = None) -> Path:
    """A report in which one field is another, or absent."""
    file = tmp_path / "report.json"
    report().write(file)
    document = inner = json.loads(file.read_text())
    for name in at[:-1]:
        inner = inner[name]
    if value is ABSENT:
        del inner[at[-1]]
    elif at:
        inner[at[-1]] = value
    file.write_text(json.dumps(document))
    return file


@pytest.mark.parametrize(("at", "value", "reason"), WRONG, ids=[reason for *_, reason in WRONG])
def test_a_field_that_is_wrong_is_named(
    tmp_path: Path, at: tuple[Any, ...], value: Any, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        Report.read(written(tmp_path, at, value))


@pytest.mark.parametrize("value", [None, 7, "x", {}, [None], [1.5], HUGE, float("inf"), -1.0])
@pytest.mark.parametrize("name", ["rounds", "points", "candidates", "p99"])
def test_whatever_facts_hold_reports_are_compared(
    tmp_path: Path, name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [n for n, one in enumerate(report().results) if one.workload != "Offline"]
    file = written(tmp_path, ("results", places[-1], "facts", name), value)
    assert main(["bench", "compare", str(file), str(file)]) == 0
    assert capsys.readouterr().err == ""


def test_what_follows_from_the_rest_may_be_missing_and_a_byte_order_mark_there(
    tmp_path: Path,
) -> None:
    file = written(tmp_path, ("results", 0, "value"), ABSENT)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(Report.read(file).results) == len(report().results)


def test_what_is_too_deep_is_no_report(tmp_path: Path) -> None:
    file = tmp_path / "deep.json"
    file.write_text("[" * 100_000)
    with pytest.raises(InputError, match="is no JSON"):
        Report.read(file)


def test_fixed_work_that_took_no_time_is_beside_nothing() -> None:
    one = Result("Offline", "m", "float32", "x", "rate", "candidates/s", [1.0, 2.0])
    one.beside = {"copy": [1.0, 3.0], "product": [2.0, 2.0]}
    assert one.accompanied
    one.beside["copy"][0] = -1.0
    assert not one.accompanied
