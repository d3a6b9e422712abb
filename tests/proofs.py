"""The long form of tests that have one, and the C++ under sanitizers: `make proofs`.

Hundreds of kills, thousands of examples of each property, every byte of a store, every Triton
kernel in every configuration on two Tritons, disassembled. Writes what ran to
benchmarks/results/proofs.md; exit status 1 if anything failed.
"""

import datetime
import os
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "proofs"
SUMMARY = ROOT / "benchmarks" / "results" / "proofs.md"
OLDER_TRITON = Path(sys.prefix) / "triton-3.6.0"
EXAMPLES = 5000  # of a property
FUZZ_CASES = 20_000  # under sanitizers
PACKAGES = ("torch", "triton", "hypothesis", "tokenizers", "numpy")


def words(*command: str) -> str:
    return subprocess.check_output(command, text=True, cwd=ROOT).strip()


def run_tests(arguments: list[str]) -> tuple[bool, list[tuple[str, str, float]]]:
    """Whether all passed, and of each test its name, what became of it, and seconds."""
    report = BUILD / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", f"--thorough={EXAMPLES}", "-n", "auto"]
    command += ["--dist", "worksteal", f"--junitxml={report}"]
    command.append(f"--older-triton={OLDER_TRITON}")
    status = subprocess.call([*command, *arguments], cwd=ROOT)
    rows = []
    for case in ElementTree.parse(report).iter("testcase"):
        ended = next((part.tag for part in case if part.tag in ("failure", "error", "skipped")), "")
        name = f"{case.get('classname', '').removeprefix('tests.')} {case.get('name')}"
        rows.append((name, ended or "passed", float(case.get("time", 0))))
    return status == 0, rows


def run_sanitizers() -> tuple[bool, tuple[str, str, float]]:
    start = time.monotonic()
    command = [sys.executable, str(ROOT / "tests" / "sanitize.py"), str(FUZZ_CASES)]
    status = subprocess.call(command, cwd=ROOT)
    name = f"sanitize: races of the thread pool, then {FUZZ_CASES:,} random calls"
    return status == 0, (name, "failed" if status else "passed", time.monotonic() - start)


def main() -> int:
    BUILD.mkdir(parents=True, exist_ok=True)
    dirty = "-dirty" if words("git", "status", "--porcelain", "--untracked-files=no") else ""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    commit = words("git", "rev-parse", "--short", "HEAD") + dirty
    tested, rows = run_tests(sys.argv[1:])
    sane, row = run_sanitizers()
    rows.append(row)
    rest = [argument for argument in sys.argv[1:] if not argument.startswith("--data=")]
    data = "without" if len(rest) == len(sys.argv) - 1 else "with"
    chosen = " ".join(rest) or "none"
    ends = Counter(ended for _, ended, _ in rows)
    outcomes = ", ".join(f"{count} {ended}" for ended, count in ends.items())
    table = [f"| {name} | {ended} | {seconds:,.0f} s |" for name, ended, seconds in sorted(rows)]
    lines = [
        "# Proofs",
        "",
        f"Made by `make proofs` on {datetime.date.today()}, commit {commit}; {platform.machine()}, "
        f"{os.cpu_count()} cores; Python {platform.python_version()}, {versions}.",
        f"{EXAMPLES:,} examples of a property, {data} real data; arguments: {chosen}. {outcomes}.",
        "",
        "| proof | outcome | time |",
        "|---|---|--:|",
        *table,
    ]
    SUMMARY.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{SUMMARY.relative_to(ROOT)} says what ran")
    return 0 if tested and sane else 1


if __name__ == "__main__":
    sys.exit(main())
