"""What every benchmark stands on: a race of contestants, checked first, and rows to keep.

Contestants take turns within a round, so that a noisy moment hits them all; medians are compared.
`pytest benchmarks --rows FILE` writes every contestant's row, with machine and versions, as JSON;
`python benchmarks/report.py FILE` prints them as tables.
"""

import json
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import packrank
from packrank_kernels.dispatch import choose

VERSIONS = ("torch", "transformers", "sentence-transformers", "openvino", "maxsim-cpu", "numpy")
NUM_THREADS = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data", type=Path, metavar="FOLDER", help="folder of real collections")
    parser.addoption("--rows", type=Path, metavar="FILE", help="write the rows here, as JSON")
    parser.addoption("--thorough", action="store_true", help="larger samples, for rows to keep")


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    packrank.set_num_threads(NUM_THREADS)


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> Path | None:
    """The folder given with --data, or None."""
    folder: Path | None = request.config.getoption("--data")
    return folder


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> Any:
    """Rows of the session; written at its end."""
    kept: list[dict[str, Any]] = []
    yield kept
    target: Path | None = request.config.getoption("--rows")
    if target is None or not kept:
        return
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    report = {
        "machine": {
            "processor": _processor(),
            "backend": choose("linear", "auto", torch.device("cpu"), torch.float32).name,
            "threads": NUM_THREADS,
        },
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "versions": {name: _installed(name) for name in VERSIONS},
        "rows": kept,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=1) + "\n")


Race = Callable[..., dict[str, float]]


@pytest.fixture
def race(benchmark: Any, rows: list[dict[str, Any]]) -> Race:
    """A function (bench, case, contestants, amount, unit) -> median seconds by name.

    The contestant "packrank" is timed by pytest-benchmark, the others just before it in every
    round. `amount` is what one call does, in `unit`s: rates are units a second.
    """

    def run(
        bench: str,
        case: str,
        contestants: dict[str, Callable[[], object]],
        amount: float,
        unit: str,
        rounds: int = 7,
    ) -> dict[str, float]:
        times: dict[str, list[float]] = {name: [] for name in contestants}

        def timed(name: str) -> None:
            start = time.perf_counter()
            contestants[name]()
            times[name].append(time.perf_counter() - start)

        def others() -> None:
            for name in contestants:
                if name != "packrank":
                    timed(name)
                    time.sleep(0.05)  # its idle threads may still be spinning

        benchmark.pedantic(
            lambda: timed("packrank"), setup=others, rounds=rounds, warmup_rounds=1, iterations=1
        )
        medians = {}
        for name, measured in times.items():
            kept = np.array(measured[1:])  # the first was the warm-up
            medians[name] = float(np.median(kept))
            rows.append(
                {
                    "bench": bench,
                    "case": case,
                    "contestant": name,
                    "median_s": medians[name],
                    "p20_s": float(np.quantile(kept, 0.2)),
                    "p80_s": float(np.quantile(kept, 0.8)),
                    "rate": amount / medians[name],
                    "unit": f"{unit}/s",
                }
            )
        for row in rows[-len(times) :]:
            # Of rounds, not of medians: what a round's noise did to both cancels.
            pairs = np.array(times[row["contestant"]][1:]) / np.array(times["packrank"][1:])
            row["packrank_is_faster"] = float(np.median(pairs))
        benchmark.extra_info.update(
            {
                f"vs {row['contestant']}": round(row["packrank_is_faster"], 2)
                for row in rows[-len(times) :]
            }
        )
        return medians

    return run
