"""What `make gpu` starts, on a machine without a device: a dry run, and how steps may end."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pretend.process import need_it_pretended, run
from visits import ROOT, load, visit

checks: Any = visit("checks")
measure: Any = load("measure")
results: Any = visit("results")


def start(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/gpu.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=300,
    )


def run_program(
    name: str, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """A program of benchmarks/gpu, with that folder and this one on the path."""
    paths = [ROOT / folder for folder in ("engine", "kernels", "benchmarks/gpu", "tests")]
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/gpu" / name), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))} | environment,
        timeout=300,
    )


@pytest.mark.parametrize("stage", ["works", "speed"])
def test_a_dry_run(tmp_path: Path, stage: str, thorough: bool) -> None:
    """Every question and the fuzz, or every benchmark and the tables, at tiny sizes."""
    if not thorough:
        pytest.skip("runs with --thorough; .ci/run makes a dry run by itself")
    places = "--out", tmp_path / "out", "--logs", tmp_path / "logs"
    done = start("--dry-run", "--stage", stage, "--total", 300, *places)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "out/summary.md").read_text() in done.stdout
    report = json.loads((tmp_path / "out/report.json").read_text())
    asked = "smoke" if stage == "works" else "benchmarks"
    ended = {name: step["status"] for name, step in report["steps"].items()}
    assert ended == {"machine": "ok", "build": "skipped", asked: "ok"}
    if stage == "speed":
        look_at(report["rows"], (tmp_path / "out/tables.md").read_text())


def look_at(measured: list[dict[str, Any]], tables: str) -> None:
    """Rows of every benchmark, each in a table."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in measured:
        rows.setdefault(row["bench"], []).append(row)
    assert rows.keys() == {
        "copy", "product", "encoder product", "attention", "linear", "add_layer_norm",
        "add_rms_norm", "embed_layer_norm", "take_sequences", "forward", "profile",
        "decoder", "cross-encoder", "busy", "maxsim", "maxsim streaming", "maxsim peers",
        "relative attention", "paged attention", "generation",
    }  # fmt: skip
    for row in rows["attention"] + rows["linear"] + rows["cross-encoder"] + rows["decoder"]:
        assert 0 < row["p20_s"] <= row["median_s"] <= row["p80_s"]
        assert row["packrank_is_faster"] > 0
    ops = {"linear 48 -> 64 gelu", "linear 48 -> 64 silu gated", "linear 48 -> 99 float32",
           "attention 3 x 16", "paged attention 4 x 12", "score_head"}  # fmt: skip
    assert ops <= {row["op"].split(",")[0] for row in rows["profile"]}
    assert all(f"| {bench} |" in tables for bench in rows if bench not in ("profile", "busy"))


def test_a_row_says_how_many_graphs_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = SimpleNamespace(num_graphs=3)
    assert measure.captured(None) == {}
    assert measure.captured(graphs) == {"num_graphs": 3}
    monkeypatch.setattr("packrank.runtime.capture._broken", "not permitted")
    assert measure.captured(graphs) == {"num_graphs": 3, "capture_broken": "not permitted"}


def test_what_is_compiled_ahead_can_be_called(thorough: bool) -> None:
    if not thorough:
        pytest.skip("its long form alone: make proofs")
    done = run_program("prewarm.py", "0/1", "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_compiled_without_a_device_is_found_again(
    tmp_path: Path, checkpoint: Callable[..., Path], thorough: bool
) -> None:
    """All of it, by another process, out of the archive; and models need nothing beside it."""
    if not thorough:
        pytest.skip("its long form alone: make proofs")
    need_it_pretended()
    places = "--out", tmp_path / "out", "--logs", tmp_path / "logs"
    done = start("--stage", "cache", *places, TRITON_INTERPRET="0")
    assert done.returncode == 0, done.stdout
    shutil.rmtree(tmp_path / "logs/triton")
    cache = tmp_path / "here/triton"
    kernels = results.unpack_cache(tmp_path / "out" / results.CACHE, cache)
    options = "0/1", "--without-gpu", str(tmp_path)
    there = {"TRITON_CACHE_DIR": str(cache), "TRITON_INTERPRET": "0"}
    again = run_program("prewarm.py", *options, **there)
    counts = re.search(r"^(\d+) kernels compiled, (\d+) found", again.stdout, re.MULTILINE)
    assert counts is not None, again.stdout + again.stderr
    assert counts.groups() == ("0", str(kernels))
    sizes = load("sizes")
    shapes = (sizes.ENCODERS | sizes.DEBERTAS).values()
    models = [checkpoint(name, **(given | {"num_hidden_layers": 2})) for name, given in shapes]
    found = run("forwards.py", *models, "--keep", cache.parent, "--more", 40)
    assert len(found) == len(models)
    assert [model["compiled"] for model in found] == [[]] * len(models)


def test_every_file_with_device_tests_is_run() -> None:
    """At any depth; and what the benchmarks go by is among it."""
    files = [*(ROOT / "tests/gpu").rglob("*.py"), *(ROOT / "tests/kernels").rglob("*.py")]
    wanted = {p for p in files if re.search(r"mark\.gpu\b|^OP = ", p.read_text(), re.MULTILINE)}
    found = checks.device_tests()
    assert {p for p in wanted if p.name.startswith("test_")} <= set(found)
    assert set(checks.CUDA_TESTS) <= {checks.name_of(path) for path in found}


def test_every_question_is_asked() -> None:
    assert tuple(load("smoke").QUESTIONS) == checks.QUESTIONS


def test_without_a_device_it_says_so_and_stops(tmp_path: Path) -> None:
    done = start("--out", tmp_path / "out", "--logs", tmp_path / "logs", CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    why = "is built without CUDA" if torch.version.cuda is None else "sees no CUDA device"
    assert sentence.startswith(f"make gpu: torch {torch.__version__} of {sys.executable} {why}")
    assert "ARGS=--dry-run" in sentence
    assert done.stdout.splitlines()[-1].startswith("machine: up to")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["device", "dry"])
def test_without_torch_it_says_so_and_stops(tmp_path: Path, dry: list[str]) -> None:
    """As a new environment has none."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    python = bare / "bin" / "python"
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), str(ROOT / "benchmarks/gpu.py"), *dry, "--logs", str(tmp_path / "logs")]
    done = subprocess.run(command, capture_output=True, text=True, env=kept, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        f"make gpu: {python} has no torch; name one that has: make gpu PYTHON=/path/to/python3\n"
    )


def test_a_wrong_contestant_is_not_timed(tmp_path: Path) -> None:
    """Nor one that leaves part of its result unwritten, nor one that cannot run."""
    race = measure.Session(tmp_path / "rows", tmp_path / "ceilings", 60, dry=True)
    race.ceilings = {"float16": 1e6}
    expected = torch.arange(1.0, 5.0)
    unwritten = expected.clone()
    unwritten[2] = torch.nan

    def unable() -> torch.Tensor:
        raise ValueError("no such kernel")

    results = {"packrank": lambda: expected * 1, "off": lambda: expected + 1,
               "unwritten": lambda: unwritten, "unable": unable,
               "inexact": lambda: expected * (1 + 2**-20)}  # fmt: skip
    medians = race.race(
        "bench",
        "case",
        {
            name: measure.Contestant([call], tolerance=0.0 if name == "inexact" else None)
            for name, call in results.items()
        },
        amount=1,
        unit="GB",
        operations=2.0,
        expected=expected,
    )
    assert medians.keys() == {"packrank"}
    assert race.failures == 4
    (row,) = map(json.loads, (tmp_path / "rows").read_text().splitlines())
    assert row["share_of_ceiling"] == pytest.approx(2e-6 / row["median_s"])
    assert row["bound_by"] == "operations"
