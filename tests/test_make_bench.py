"""What `make bench` stands on: rows as they come, kept when it is stopped; what is left."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CONFTEST = ROOT / "benchmarks/conftest.py"
BENCH = """
import os, signal, time
import torch
from packrank import get_num_threads

def bench_sleep(race):
    assert get_num_threads() == torch.get_num_threads() == 3
    assert os.environ["RAYON_NUM_THREADS"] == "3"
    contestants = {"packrank": lambda: time.sleep(0.01), "slow": lambda: time.sleep(0.05)}
    race("sleep", "a nap", contestants, 2, "nap", rounds=2)

def bench_stopped(race):
    os.kill(os.getpid(), signal.NAME)
    time.sleep(60)

def bench_never(rows):
    raise AssertionError
"""


@pytest.fixture(scope="module")
def conftest() -> Any:
    spec = importlib.util.spec_from_file_location("bench_conftest", CONFTEST)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 128 + signal.SIGTERM), ("SIGINT", 2)])
def test_a_run_that_is_stopped_keeps_its_rows(
    tmp_path: Path, thorough: bool, name: str, status: int
) -> None:
    if not thorough:
        pytest.skip("its long form alone: make proofs")
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "bench_naps.py").write_text(BENCH.replace("NAME", name))
    options = "python_functions = bench_*\nfilterwarnings = error\n"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\n{options}")
    command = [sys.executable, "-m", "pytest", "-q", "bench_naps.py", "--rows", "made/rows.json"]
    # Not as one of several of pytest's processes, which times nothing.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, "--threads", "3"],
        cwd=tmp_path,
        env=alone | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "3 cases, 3 of which have not run here yet; about 90 s." in done.stdout
    assert "Threads of each contestant: 3." in done.stdout
    lines = done.stdout.splitlines()
    assert any(line.endswith("sleep: a nap") for line in lines), done.stdout + done.stderr
    at = lines.index(next(line for line in lines if line.endswith("sleep: a nap")))
    assert lines[at].startswith("[1 of 3, about 60 s to go]")
    assert lines[at + 1].split()[::2] == ["packrank", "nap/s"]
    ratio = float(lines[at + 2].partition("packrank is ")[2].removesuffix("x as fast"))
    assert ratio > 1
    assert any(line.startswith("2 rows in made/rows.json;") for line in lines)
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["rows.json"]
    report = json.loads((tmp_path / "made/rows.json").read_text())
    assert report["machine"]["threads"] == 3
    ours, other = report["rows"]
    assert (ours["contestant"], other["contestant"], other["unit"]) == ("packrank", "slow", "nap/s")
    assert other["packrank_is_faster"] == pytest.approx(ratio, abs=0.01)


def test_what_is_left_follows_what_has_run(conftest: Any) -> None:
    cases = [f"benchmarks/bench_linear.py::bench[{i}]" for i in range(90)]
    progress = conftest.Progress(cases.copy(), {})
    expected = 90 * conftest.SECONDS["bench_linear"]
    assert progress.left() == f"{expected / 60:.0f} min"
    for case in cases[:40]:  # four times as long as expected
        progress.end(case, 4 * conftest.SECONDS["bench_linear"])
    minutes = int(progress.left().split()[0])
    assert 50 * 2 / 60 * 2 < minutes < 50 * 2 / 60 * 4
    progress.end(cases[40], None)
    assert cases[40] not in progress.known
    assert len(progress.waiting) == 49
    again = conftest.Progress(cases[:40], progress.known)
    assert again.left() == f"{40 * 8 / 60:.0f} min"


@pytest.mark.parametrize("bad", ["0", "-1", "two", ""])
def test_a_number_of_threads_is_one(conftest: Any, bad: str) -> None:
    with pytest.raises(ValueError):
        conftest._positive(bad)
    assert conftest._positive("4") == 4


def test_every_file_of_benchmarks_has_its_seconds(conftest: Any) -> None:
    files = {path.stem for path in (ROOT / "benchmarks").rglob("bench_*.py")}
    assert files == conftest.SECONDS.keys()
