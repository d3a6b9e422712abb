"""A visit of `make gpu` without a device: its plan, what ends it, and what it keeps."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from visits import ROOT, visit

checks: Any = visit("checks")
main: Any = visit("__main__")
plans: Any = visit("plan")
processes: Any = visit("processes")
results: Any = visit("results")
stages: Any = visit("stages")
state: Any = visit("state")

Done = processes.Done
DEAF = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"


def program(name: str, code: str) -> Any:
    """A step that runs some Python."""
    return plans.Step(
        name, 20, 1, lambda at, limit: at.commands.python(name, ["-c", code], limit).done()
    )


def kept_of(at: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The report as it is on disk, and what the archive has of each log."""
    report = json.loads((at.results.folder / results.REPORT).read_text())
    with tarfile.open(at.results.folder / results.LOGS) as archive:
        files = {one.name: archive.extractfile(one) for one in archive.getmembers()}
        return report, {name: file.read().decode() for name, file in files.items() if file}


@pytest.mark.parametrize("stage", [*stages.STAGES, None])
@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("total", [15, 60, 120, 200, 300, 330, 450, 570, 900, 1800])
def test_a_plan_fits_into_its_time(stage: str | None, dry: bool, total: float) -> None:
    every = stages.steps_of(stage, dry=dry)
    slots, left_out = plans.plan(every, total)
    taken = sum(slot.seconds + processes.GRACE_S for slot in slots) + plans.REPORT_S
    assert not slots or taken <= total + 1e-6
    assert all(x.step.least <= x.seconds <= x.step.wanted + 1e-6 for x in slots)
    planned = [slot.step for slot in slots]
    assert [step for step in every if step in planned] == planned
    assert [step for step in every if step not in planned] == left_out
    for step in left_out:
        before = [other for other in planned if every.index(other) < every.index(step)]
        assert taken_by([*before, step], "wanted" if step.extra else "least") > total


def taken_by(steps: list[Any], seconds: str) -> float:
    each = (getattr(step, seconds) + processes.GRACE_S for step in steps)
    return float(sum(each)) + plans.REPORT_S


def test_the_two_commands_of_the_page_leave_out_nothing_that_matters() -> None:
    page = (ROOT / "docs/gpu.md").read_text()
    given = re.findall(r"--stage (\w+) --total (\d+)", page)
    assert [stage for stage, _ in given] == list(stages.STAGES)
    assert 90 + sum(int(total) for _, total in given) + 90 <= 15 * 60
    planned = {
        stage: {slot.step.name for slot in plans.plan(stages.steps_of(stage, dry=False), int(t))[0]}
        for stage, t in given
    }
    assert planned["works"] == {step.name for step in stages.steps_of("works", dry=False)}
    names = "again sanitizers ceilings end-to-end end-to-end-modernbert decoders maxsim-many"
    assert {*names.split(), "forward-large", "relative", "generation"} <= planned["speed"]


def test_names_are_told_apart_and_the_doubtful_tools_come_last() -> None:
    both = [step.name for step in stages.steps_of(None, dry=False)]
    assert len(set(both)) == len(both)
    assert both[-2:] == ["counters", "racecheck"]
    for stage in stages.STAGES:
        assert {step.name for step in stages.steps_of(stage, dry=False)} - {"again"} <= {*both}


ENDS = {
    "crashes": ("print('begun'); import os; os.abort()", "failed", "exit status -6"),
    "is killed": ("import os; print('begun', flush=True); os.kill(os.getpid(), 9)", "failed", "-9"),
    "fails": ("print('begun'); raise SystemExit('no room')", "failed", "no room"),
    "ends": ("print('begun')", "ok", ""),
}


def test_whatever_a_step_does_the_next_runs_and_everything_is_kept(
    a_visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = [program(name, code) for name, (code, _, _) in ENDS.items()]
    every.append(plans.Step("raises", 20, 1, lambda at, limit: 1 / 0))
    seen = []
    keep = state.Visit.keep

    def looked_at(at: Any, stage: str, ended: Any) -> None:
        keep(at, stage, ended)
        report, logs = kept_of(at)
        begun = [name for name, done in ended.items() if done.status != "left out"]
        assert report["steps"].keys() == ended.keys()
        assert {f"{name}.log" for name in begun if name in ENDS} == logs.keys()
        assert all("begun" in log for log in logs.values())
        assert len(list(at.results.folder.iterdir())) <= results.MOST_FILES
        seen.append(begun)

    monkeypatch.setattr(state.Visit, "keep", looked_at)
    slots, left_out = plans.plan(every, 200)
    assert not left_out
    ended = main.run(a_visit, "works", every, slots, time.monotonic() + 200)
    assert len(seen) == len(every)
    assert ended["raises"].note == "ZeroDivisionError: division by zero"
    for name, (_, status, words) in ENDS.items():
        assert ended[name].status == status
        assert words in ended[name].note


class Killed(processes.Commands):  # type: ignore[misc]
    """Every command is killed as soon as it has begun."""

    def run(self, name: str, command: list[str], limit: float, **more: str) -> Any:
        code = ["sh", "-c", f"echo {command[0]} begins; kill -9 $$"]
        return super().run(name, code, limit, **more)


def test_every_step_may_be_killed(
    a_visit: Any, monkeypatch: pytest.MonkeyPatch, thorough: bool
) -> None:
    """Each leaves its logs, and a report that can be read."""
    monkeypatch.setattr(checks, "_beside_nvcc", lambda program: program)
    a_visit.commands = Killed(a_visit.logs, {})
    a_visit.results.rows.write_text('{"bench": "copy", "rate": 1.5}\n{"bench": "cut o')
    every = {
        step.name: step for stage in stages.STAGES for step in stages.steps_of(stage, dry=False)
    }
    ended = {}
    for name, step in every.items():
        for log in a_visit.logs.iterdir():
            log.unlink()
        a_visit.suspects.clear()
        ended[name] = processes.timed(lambda step=step: step.run(a_visit, 30.0))
        assert ended[name].status == "failed", name
        if thorough or step is list(every.values())[-1]:
            a_visit.keep("works", ended)
            report, logs = kept_of(a_visit)
            assert report["rows"] == [{"bench": "copy", "rate": 1.5}]
            assert {step["status"] for step in report["steps"].values()} == {"failed"}
            assert logs
        assert all("begins" in log.read_text() for log in a_visit.logs.iterdir())
        assert list(a_visit.logs.iterdir()), name


def test_a_command_over_its_time_is_ended_with_what_it_started(a_visit: Any) -> None:
    code = (
        "try:\n"
        " import signal, subprocess, sys, time\n"
        " signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's & ignores it
        f" child = subprocess.Popen([sys.executable, '-c', {DEAF!r}])\n"
        " print(child.pid, flush=True)\n"
        " time.sleep(60)\n"
        "except KeyboardInterrupt: print('asked to stop')\n"
    )
    begin = time.monotonic()
    outcome = a_visit.commands.python("slow", ["-c", code], 1.5)
    assert time.monotonic() - begin < 1.5 + processes.GRACE_S + 3
    child, said = outcome.output.split(maxsplit=1)
    assert "asked to stop" in said
    assert is_gone(int(child))
    assert outcome.done().status == "over time"


def test_a_hanging_call_says_where_it_stands(a_visit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that no KeyboardInterrupt reaches."""
    monkeypatch.setattr(processes, "ORDERS", ((signal.SIGINT, 0.1), *processes.ORDERS[1:]))
    outcome = a_visit.commands.python(
        "deaf", ["-c", f"def stands_here():\n {DEAF}\nstands_here()"], 2.0
    )
    assert outcome.status is None
    assert "stands_here" in outcome.output


def is_gone(process: int) -> bool:
    time.sleep(0.2)
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_what_comes_from_another_visit_may_be_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cache is passed over; a report is what the user wants to be read."""
    broken = tmp_path / "broken"
    broken.write_text("{}")
    other = tmp_path / "other.tar.gz"
    with tarfile.open(other, "w:gz") as archive:
        archive.add(broken, "broken")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    given = ["gpu", "--out", str(tmp_path / "out"), "--logs", str(tmp_path / "logs")]
    for path in (broken, other):
        monkeypatch.setattr(sys, "argv", [*given, "--triton-cache", str(path)])
        main.prepare(main.arguments())
        said = capsys.readouterr().out
        assert said.startswith(f"{path} is no cache of Triton's: ")
        assert said.count("\n") == 1
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(sys, "argv", [*given, "--after", str(broken)])
    with pytest.raises(SystemExit, match=f"{broken} is no report of a visit: KeyError"):
        main.prepare(main.arguments())


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_runs_and_all_is_kept(tmp_path: Path, order: signal.Signals) -> None:
    out, logs = tmp_path / "out", tmp_path / "logs"
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--dry-run", "--stage", "works"]
    command += ["--out", str(out), "--logs", str(logs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        while not driver.stdout.readline().startswith("machine: up to"):
            assert driver.poll() is None
        time.sleep(0.5)
        begin = time.monotonic()
        driver.send_signal(order)
        said, _ = driver.communicate(timeout=30)
    assert driver.returncode == 1
    assert time.monotonic() - begin < processes.GRACE_S + plans.REPORT_S
    report = json.loads((out / "report.json").read_text())
    ended = {name: step["status"] for name, step in report["steps"].items()}
    assert ended == dict.fromkeys(("machine", "build", "smoke"), "stopped")
    with tarfile.open(out / "logs.tar.gz") as archive:
        assert archive.getnames() == ["machine.log"]
    assert (out / "summary.md").read_text() in said


def test_what_was_left_out_runs_where_time_is_left_after_all(a_visit: Any) -> None:
    ran = []

    def step(name: str, wanted: float, least: float) -> Any:
        return plans.Step(
            name, wanted, least, lambda at, limit: ran.append((name, limit)) or Done()
        )

    grace = processes.GRACE_S + plans.REPORT_S
    every = [
        step("first", 50, 50),
        step("large", 40, 40),
        step("last", 5, 5),
        step("never", 99, 99),
    ]
    total = 55 + 2 * processes.GRACE_S + plans.REPORT_S + 0.5
    slots, _ = plans.plan(every, total)
    assert [slot.step.name for slot in slots] == ["first", "last"]
    ended = main.run(a_visit, "works", every, slots, time.monotonic() + total)
    assert [name for name, _ in ran] == ["first", "last", "large"]
    assert all(limit <= total - grace for _, limit in ran)
    assert list(ended) == ["first", "large", "last", "never"]
    assert [done.status for done in ended.values()] == ["ok", "ok", "ok", "left out"]


def test_results_stay_where_there_is_no_device(a_visit: Any) -> None:
    """What an earlier visit left goes when the machine has answered, not before."""
    kept = a_visit.results.folder / results.ROWS
    a_visit.results.clear()
    kept.write_text('{"bench": "earlier"}\n')
    for found in (Done("failed", "no device"), Done("ok")):
        machine = plans.Step("machine", 5, 5, lambda at, limit, found=found: found)
        slots, _ = plans.plan([machine], 60)
        run = partial(main.run, a_visit, "works", [machine], slots, time.monotonic() + 60)
        if found.is_wrong:
            with pytest.raises(SystemExit, match="no device"):
                run()
        else:
            run()
        assert kept.exists() == found.is_wrong


@pytest.mark.parametrize("given", ["-3", "0", "nan", "inf", "soon"])
def test_a_total_that_is_no_time(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--total", given])
    with pytest.raises(SystemExit):
        main.arguments()
    said = capsys.readouterr().err.splitlines()[-1]
    expected = f"expected a number of seconds above 0, not {given}"
    assert said == f"make gpu: error: argument --total: {expected}"


@pytest.mark.parametrize("option", ["--out", "--logs"])
def test_a_folder_that_cannot_be_written_to(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    given = {"--out": tmp_path / "out", "--logs": tmp_path / "logs", option: tmp_path / "file"}
    words = [word for name, path in given.items() for word in (name, str(path))]
    monkeypatch.setattr(sys, "argv", ["gpu", *words])
    with pytest.raises(SystemExit, match="file cannot be written to: "):
        main.prepare(main.arguments())


def test_files_are_few_and_bounded(a_visit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of logs the ends are kept; a cache that is too large is not."""
    monkeypatch.setattr(results, "MOST_BYTES", 60_000)
    monkeypatch.setattr(results, "LOG_BYTES", 40_000)
    noise = os.urandom(50_000).hex()
    for i in range(4):
        (a_visit.logs / f"{i}.log").write_text(noise + "the end")
    a_visit.cache.mkdir()
    (a_visit.cache / "kernel.cubin").write_bytes(os.urandom(70_000))
    a_visit.keep("works", {"machine": Done()})
    names = {path.name for path in a_visit.results.folder.iterdir()}
    assert names == {results.REPORT, results.TABLES, results.SUMMARY, results.LOGS}
    assert len(results.NAMES) <= results.MOST_FILES
    assert all(path.stat().st_size <= 60_000 for path in a_visit.results.folder.iterdir())
    _, logs = kept_of(a_visit)
    assert len(logs) == 4
    assert all(log.endswith("the end") for log in logs.values())
    (a_visit.cache / "kernel.cubin").write_bytes(b"small")
    (a_visit.cache / "another.cubin").write_bytes(b"small")
    a_visit.keep("works", {"machine": Done()})
    assert (a_visit.results.folder / results.CACHE).exists()


def test_a_cache_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton finds the files of a kernel in another folder than they were made in."""
    cache = pytest.importorskip("triton.runtime.cache")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "there"))
    made = cache.FileCacheManager("key")
    group = {name: made.put(name, name) for name in ("attend.cubin", "attend.json")}
    made.put_group("attend.json", group)
    results.pack(tmp_path / "there", tmp_path / "cache.tar.gz")
    for path in group.values():
        Path(path).unlink()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "here"))
    assert results.unpack_cache(tmp_path / "cache.tar.gz", tmp_path / "here") == 1
    found = cache.FileCacheManager("key").get_group("attend.json")
    assert {name: Path(path).read_text() for name, path in found.items()} == {
        name: name for name in group
    }
    assert all(path.startswith(str(tmp_path / "here")) for path in found.values())
