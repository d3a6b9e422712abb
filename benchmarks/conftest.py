"""What every benchmark stands on: a race of contestants, checked first, and rows to keep.

Contestants take turns within a round, so that a noisy moment hits them all; medians are compared.
Every contestant's row is printed as soon as it is measured, and written to --rows, with machine
and versions, as JSON: a run that is stopped keeps what it has. `python benchmarks/report.py FILE`
prints such a file as tables.
"""

import json
import os
import platform
import signal
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import packrank
from packrank.bench import machine
from packrank.bench.timing import turns

# Seconds of a case on two cores of a Zen 4, by file, until it has run on this machine.
SECONDS = {"bench_attention": 3.0, "bench_layer_norm": 1.0, "bench_linear": 2.0,
           "bench_maxsim": 20.0, "bench_cross_encoder": 150.0, "bench_decoders": 100.0,
           "bench_encode": 60.0, "bench_ceilings": 15.0, "bench_compare": 260.0,
           "bench_generation": 60.0, "bench_joint": 200.0, "bench_paged_attention": 10.0,
           "bench_memory": 150.0, "bench_jobs": 200.0, "bench_serving": 60.0,
           "bench_load": 180.0}  # fmt: skip
UNKNOWN_S = 30.0  # of other files; and how much is to be measured before it outweighs a guess
TIMES = "bench/seconds"  # of the cases that have run here, in pytest's cache


@dataclass
class Progress:
    """How far a run is, and how long the rest of it will take.

    Attributes:
        waiting: node ids of the cases that have not ended.
        known: seconds by node id, of cases that have run on this machine.
        num_cases: of the whole run.
        guessed: seconds that cases which were not known were expected to take, and took.
    """

    waiting: list[str]
    known: dict[str, float]
    num_cases: int = field(init=False)
    guessed: tuple[float, float] = (UNKNOWN_S, UNKNOWN_S)

    def __post_init__(self) -> None:
        self.num_cases = len(self.waiting)

    def end(self, case: str, seconds: float | None) -> None:
        """A case has taken these seconds; None of one that did not run to its end."""
        self.waiting.remove(case)
        if seconds is None:
            return
        if case not in self.known:
            expected, took = self.guessed
            self.guessed = (expected + _guess(case), took + seconds)
        self.known[case] = seconds

    def left(self, begun: int = 0) -> str:
        """How long what waits will take, in words; all but the first `begun` cases."""
        waiting = self.waiting[begun:]
        guesses = sum(_guess(case) for case in waiting if case not in self.known)
        seconds = guesses * self.guessed[1] / self.guessed[0]
        seconds += sum(self.known.get(case, 0.0) for case in waiting)
        return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


def _guess(case: str) -> float:
    return SECONDS.get(Path(case.partition("::")[0]).stem, UNKNOWN_S)


class Rows:
    """What has been measured: printed, and written, as it comes."""

    def __init__(self, config: pytest.Config) -> None:
        self.path: Path = config.getoption("--rows") or (
            config.rootpath / f"build/bench/{datetime.now():%Y-%m-%d-%H%M%S}.json"
        )
        self.progress = Progress([], {})
        self._config = config
        self._rows: list[dict[str, Any]] = []
        described = machine.describe()
        self._report = {
            "machine": {name: described[name] for name in ("processor", "backend", "threads")},
            "date": date.today().isoformat(),
            "commit": machine.commit(config.rootpath),
            "python": platform.python_version(),
            "versions": described["versions"],
            "rows": self._rows,
        }

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, *rows: dict[str, Any]) -> None:
        """Rows of one case, which have `bench`, `case`, `contestant`, `rate` and `unit`."""
        self._rows += rows
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f"{self.path.name}.partial")
        beside.write_text(json.dumps(self._report, indent=1) + "\n")
        os.replace(beside, self.path)
        done = self.progress.num_cases - len(self.progress.waiting) + 1
        place = f"[{done} of {self.progress.num_cases}, about {self.progress.left(1)} to go]"
        self.say(f"{place} {rows[0]['bench']}: {rows[0]['case']}")
        width = max(len(row["contestant"]) for row in rows)
        for row in rows:
            ours = row["contestant"] == "packrank"
            ratio = "" if ours else f", packrank is {row['packrank_is_faster']:.2f}x as fast"
            self.say(f"  {row['contestant']:{width}}  {row['rate']:.4g} {row['unit']}{ratio}")

    def say(self, line: str) -> None:
        """Past what pytest captures."""
        capture = self._config.pluginmanager.getplugin("capturemanager")
        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(line)
            terminal.flush()


ROWS = pytest.StashKey[Rows]()
REPORTS = pytest.StashKey[list[pytest.TestReport]]()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError
    return int(text)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", type=Path, metavar="FOLDER", help="folder of real collections")
    parser.addoption(
        "--rows", type=Path, metavar="FILE", help="the rows, as JSON; default: build/bench/TIME"
    )
    parser.addoption("--thorough", action="store_true", help="larger samples, for rows to keep")
    parser.addoption(
        "--threads",
        type=_positive,
        metavar="N",
        help="of every contestant; default: as many as torch takes, the machine's cores",
    )


def pytest_configure(config: pytest.Config) -> None:
    threads: int = config.getoption("--threads") or packrank.get_num_threads()
    packrank.set_num_threads(threads)
    threadpool_limits(threads)  # numpy's products
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # of tokenizers and maxsim-cpu
    signal.signal(signal.SIGTERM, _terminated)
    config.stash[ROWS] = Rows(config)


def _terminated(number: int, frame: object) -> None:
    pytest.exit("ended by SIGTERM", returncode=128 + number)


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.getoption("collectonly"):
        return
    rows, cache = session.config.stash[ROWS], getattr(session.config, "cache", None)
    known = cache.get(TIMES, {}) if cache else {}
    rows.progress = Progress([item.nodeid for item in session.items], known)
    new = sum(item.nodeid not in known for item in session.items)
    guess = f", {new} of which have not run here yet" if new else ""
    rows.say(f"{len(session.items)} cases{guess}; about {rows.progress.left()}.")
    rows.say(f"Threads of each contestant: {packrank.get_num_threads()}. Rows go to {rows.path}.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    reports = item.stash.setdefault(REPORTS, [])
    reports.append(report)
    if report.when == "teardown":
        progress, cache = item.config.stash[ROWS].progress, getattr(item.config, "cache", None)
        passed = all(report.passed for report in reports)
        progress.end(item.nodeid, sum(each.duration for each in reports) if passed else None)
        if cache:
            cache.set(TIMES, progress.known)
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """No dots between the rows."""
    return ("passed" if report.when == "call" else "", "", "PASSED") if report.passed else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """However it ended; the terminal's own summary is left out where a signal ended it."""
    if rows := session.config.stash[ROWS]:
        tables = f"python benchmarks/report.py {rows.path}"
        rows.say(f"{len(rows)} rows in {rows.path}; as tables: {tables}")


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path | None:
    """The folder given with --data, or None."""
    folder: Path | None = request.config.getoption("--data")
    return folder


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> Rows:
    """Rows of the session."""
    return request.config.stash[ROWS]


Race = Callable[..., dict[str, float]]


@pytest.fixture
def race(rows: Rows) -> Race:
    """A function (bench, case, contestants, amount, unit) -> median seconds by name.

    In every round the contestant "packrank" comes last. `amount` is what one call does, in
    `unit`s: rates are units a second.
    """

    def run(
        bench: str,
        case: str,
        contestants: dict[str, Callable[[], object]],
        amount: float,
        unit: str,
        rounds: int = 7,
    ) -> dict[str, float]:
        order = sorted(contestants, key=lambda name: name == "packrank")
        calls = {name: contestants[name] for name in order}
        times = turns(calls, rounds=rounds, pause_s=0.05)  # idle threads may still be spinning
        medians, measured = {}, []
        for name in contestants:
            seconds = np.array(times[name])
            medians[name] = float(np.median(seconds))
            # Of rounds, not of medians: what a round's noise did to both cancels.
            pairs = seconds / np.array(times["packrank"])
            measured.append(
                {
                    "bench": bench,
                    "case": case,
                    "contestant": name,
                    "median_s": medians[name],
                    "p20_s": float(np.quantile(seconds, 0.2)),
                    "p80_s": float(np.quantile(seconds, 0.8)),
                    "rate": amount / medians[name],
                    "unit": f"{unit}/s",
                    "packrank_is_faster": float(np.median(pairs)),
                }
            )
        rows.add(*measured)
        return medians

    return run
