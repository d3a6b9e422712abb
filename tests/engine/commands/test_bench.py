"""packrank bench: files and tables, partial reports, what is refused before it takes time."""

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from bench_reports import report as sample
from bench_reports import slower
from small_bench import shorten

from packrank.bench.report import Report
from packrank.bench.shown import page
from packrank.bench.speed import offline
from packrank.commands import bench
from packrank.commands.cli import main
from packrank.commands.signals import holding, keep, stopping
from packrank.errors import InputError

SHORT = ["--models", "MiniLM-L6", "--dtypes", "float32", "--lengths", "fixed:24",
         "--candidates", "4", "--device", "cpu", "--seconds", "60"]  # fmt: skip


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shorten(monkeypatch)
    monkeypatch.chdir(tmp_path)


def test_a_report_is_shown_and_written_in_every_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forms = ["--output", "r.json", "--csv", "r.csv", "--html", "r.html", "--price-per-hour", "2"]
    assert main(["bench", *SHORT, *forms]) == 0
    shown = capsys.readouterr()
    assert "MiniLM-L6" in shown.out
    assert "packrank: written to r.json" in shown.err
    report = Report.read("r.json")
    assert report.complete
    assert report.settings["price_per_hour"] == 2.0
    with open("r.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report.ceilings) + len(report.results)
    html = Path("r.html").read_text()
    assert html.startswith("<!DOCTYPE html>")
    assert "MiniLM-L6" in html
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", "r.csv", "r.html"}


def test_a_report_has_a_name_of_its_own_where_none_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *SHORT, "--quiet"]) == 0
    [path] = tmp_path.iterdir()
    assert path.name.startswith("packrank-bench-")
    assert capsys.readouterr().err == f"packrank: written to {path.name}\n"


def test_standard_output_has_json_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *SHORT, "--output", "-", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["schema"] == "packrank bench"
    assert shown.err == ""


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (OSError(28, "full"), 2), (KeyError("x"), 3)]
)
def test_whatever_ends_it_what_was_measured_before_is_kept_and_called_partial(
    error: BaseException,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls, run = iter(range(9)), offline.Racer.run

    def interrupted(racer: Any, yardstick: Any) -> None:
        if next(calls) == 2:
            raise error
        run(racer, yardstick)

    monkeypatch.setattr(offline.Racer, "run", interrupted)
    assert main(["bench", *SHORT, "--output", "r.json"]) == status
    report = Report.read("r.json")
    assert not report.complete
    [one] = [one for one in report.results if one.model == "MiniLM-L6"]
    assert len(one.samples) == 2
    shown = capsys.readouterr()
    assert "partial" in shown.err
    assert "interrupted" in shown.out


def test_a_report_that_cannot_be_written_where_it_should_be_is_written_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "_check_writable", lambda path: None)
    assert main(["bench", *SHORT, "--output", "gone/r.json", "--quiet"]) == 2
    [path] = Path().glob("*.json")
    assert Report.read(path).complete
    instead, why = capsys.readouterr().err.splitlines()
    assert instead == f"packrank: the report is in {path} instead"
    assert "gone/r.json cannot be written" in why


def test_a_signal_while_a_report_is_written_waits_for_it_and_a_second_one_does_not() -> None:
    done = []

    def write(signals: int) -> None:
        with stopping():
            keep()
            with holding():
                for _ in range(signals):
                    os.kill(os.getpid(), signal.SIGINT)
                done.append(signals)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
    try:
        for signals in (1, 2):
            with pytest.raises(KeyboardInterrupt):
                write(signals)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == [1]


def test_who_reads_a_pipe_is_not_told_that_it_ends_before_it_begins() -> None:
    os.mkfifo("pipe")
    bench._check_writable("pipe")  # would wait for a reader


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["--output", "there/r.json"], "there/r.json cannot be written: No such file or directory"),
        (["--csv", "."], "."),
        (["--csv", "r", "--html", "./r"], "r is named for several outputs"),
        (["--output", "-", "--csv", "-"], "- is named for several outputs"),
        (["--lengths", "t.txt", "--output", "./t.txt"], "./t.txt is read, and cannot be written"),
        (["--lengths", "nowhere.jsonl"], "'nowhere.jsonl' are none of msmarco-like"),
        (["--lengths", "empty.jsonl"], "empty.jsonl holds no text"),
        (["--models", "no-such-model"], "no-such-model"),
        (["--lengths", "fixed:999"], "fixed:999: the models that are asked for read 512 tokens"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    asked: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.jsonl").write_text("")
    Path("t.txt").write_text("a text")
    assert main(["bench", "--models", "MiniLM-L6", "--device", "cpu", *asked]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if sentence in line]
    assert said
    assert Path("t.txt").read_text() == "a text"
    assert not list(Path().glob("*.json"))


@pytest.mark.parametrize("price", ["dear", "-1", "0", "nan", "inf", ""])
def test_a_price_is_a_number(price: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--price-per-hour", price])
    assert ended.value.code == 2
    assert f"{price!r} is not a number above 0" in capsys.readouterr().err


def test_a_page_without_plotly_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise InputError("a page of HTML needs plotly: pip install packrank[report]")

    monkeypatch.setattr(page, "check_installed", missing)
    assert main(["bench", *SHORT, "--html", "r.html"]) == 2
    assert "pip install packrank[report]" in capsys.readouterr().err


def test_two_reports_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    sample(seed=1).write("a.json")
    sample(seed=2).write("b.json")
    slower(sample(seed=3), 1.3).write("c.json")
    assert main(["bench", "compare", "a.json", "b.json", "--output-format", "json"]) == 0
    same = json.loads(capsys.readouterr().out)
    assert main(["bench", "compare", "a.json", "c.json", "--output-format", "json"]) == 0
    other = json.loads(capsys.readouterr().out)
    of = [{row["id"]: row["verdict"] for row in one["rows"]} for one in (same, other)]
    assert of[0].keys() == of[1].keys()
    assert "slower" not in of[0].values()
    assert list(of[1].values()).count("slower") > len(of[1]) / 3
    assert main(["bench", "compare", "a.json", "c.json"]) == 0
    assert "slower" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "is no report of packrank bench"),
        ("[", "is no JSON"),
        ('{"schema": "packrank bench", "version": 9}', "is of version 9, this is version 1"),
        ('{"schema": "packrank bench", "version": 1}', "report has no field 'begun'"),
    ],
)
def test_what_is_no_report_is_refused(
    content: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sample().write("a.json")
    Path("b.json").write_text(content)
    for given in (["a.json", "b.json"], ["b.json", "a.json"]):
        assert main(["bench", "compare", *given]) == 2
        assert reason in capsys.readouterr().err
