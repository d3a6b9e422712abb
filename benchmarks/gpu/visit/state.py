"""What a visit knows: where things are, what it has found so far, and what it leaves behind."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from visit import goals, predictions
from visit.goals import Measured
from visit.processes import ROOT, Commands, Done
from visit.results import CACHE, REPORT, SUMMARY, TABLES, Results

Steps = dict[str, Done]
AHEAD = "cache"  # the stage that asks no device


@dataclass
class Visit:
    """One go.

    Attributes:
        results: what is kept.
        logs: of every command, one each.
        commands: what starts them.
        cache: Triton's.
        dry: tiny sizes on the CPU.
        found: about the machine.
        parts: how the parts of steps ended: a question, a file of tests, a tool each.
        suspects: what says that the CUDA module is not to be trusted, and what it says. Where
            there is any, no benchmark runs that backend.
        earlier: the report of an earlier visit, or nothing.
    """

    results: Results
    logs: Path
    commands: Commands
    cache: Path
    dry: bool
    found: dict[str, Any] = field(default_factory=dict)
    parts: Steps = field(default_factory=dict)
    suspects: dict[str, str] = field(default_factory=dict)
    earlier: dict[str, Any] = field(default_factory=dict)
    _packed: int = 0  # files of the cache when it was packed last

    @property
    def ceilings(self) -> Path:
        return self.logs / "ceilings.json"

    def keep(self, stage: str, steps: Steps) -> None:
        """Bring what is kept up to date; what cannot be kept is said and costs nothing else."""
        try:
            self._keep(stage, steps)
        except OSError as error:
            print(f"not kept: {error}", flush=True)

    def _keep(self, stage: str, steps: Steps) -> None:
        report = self.report(stage, steps)
        self.results.write(REPORT, json.dumps(report, indent=1) + "\n")
        self.results.pack_logs(self.logs)
        self.results.write(SUMMARY, self.summary(report) + "\n")
        made = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks/report.py"), self.results.folder / REPORT],
            capture_output=True,
            text=True,
            check=False,
        )
        self.results.write(TABLES, made.stdout + made.stderr)
        files = sum(1 for _ in self.cache.rglob("*")) if self.cache.is_dir() else 0
        if files != self._packed:
            self._packed = files
            if not self.results.pack_cache(self.cache):
                print("the Triton cache is too large to be kept", flush=True)

    def report(self, stage: str, steps: Steps) -> dict[str, Any]:
        records = self.results.records()
        known = self.ceilings.read_text() if self.ceilings.is_file() else "{}"
        return {
            "machine": self.found.get("machine", {}),
            "date": date.today().isoformat(),
            "commit": _commit(),
            "stage": stage,
            "python": self.found.get("python"),
            "versions": self.found.get("versions", {}),
            "ceilings": json.loads(known),
            "steps": {name: vars(done) for name, done in steps.items()},
            "checks": {name: vars(done) for name, done in self.parts.items()},
            "suspects": self.suspects,
            "headlines": [record["headline"] for record in records if "headline" in record],
            "rows": [record for record in records if "headline" not in record],
        }

    def summary(self, report: dict[str, Any]) -> str:
        """What a person reads first: what is wrong, the goals, then step by step."""
        machine, steps, parts = report["machine"], report["steps"], report["checks"]
        gpu = machine.get("gpu", "no device")
        lines = [f"# {gpu}, stage {report['stage']}, {report['date']}, commit {report['commit']}"]
        lines += ["", "## What is wrong", ""]
        for name, done in {**parts, **steps}.items():
            if Done(**done).is_wrong:
                lines.append(f"- {name}: {done['status']}; {done['note']}")
        for name, why in report["suspects"].items():
            lines.append(f"- benchmarks ran without the backend cuda, for {name}: {why}")
        lines += [] if lines[-1] else ["Nothing of what ran."]
        missing = [name for name, done in steps.items() if done["status"] == "left out"]
        if missing:
            lines += ["", f"Left out for want of time: {', '.join(missing)}."]
        if not self.dry and report["stage"] != AHEAD:
            visits = [Measured(x["rows"], x["ceilings"]) for x in (report, self.earlier) if x]
            lines += ["", "## Goals", "", *goals.table(visits)]
            if found := predictions.table(visits):
                lines += ["", "## Beside arithmetic for an H200", "", *found]
        if report["headlines"]:
            lines += ["", "## Headlines", "", *(f"- {text}" for text in report["headlines"])]
        lines += [
            "",
            "## Step by step",
            "",
            "| step | ended | seconds | note |",
            "|---|---|--:|---|",
        ]
        for name, done in {**parts, **steps}.items():
            note = done["note"].replace("|", "/")
            lines.append(f"| {name} | {done['status']} | {done['seconds']:.1f} | {note} |")
        if self.dry:
            return "\n".join([*lines, "", "A dry run: no figure here says anything about speed."])
        if report["stage"] == AHEAD:
            given = f"For the device's machine: --triton-cache {self.results.folder / CACHE}."
            is_whole = all(done["status"] == "ok" for done in steps.values())
            return "\n".join([*lines, "", given if is_whole else "The cache is not whole."])
        target = f"benchmarks/results/{slug(gpu)}/{report['date']}-{report['stage']}.json"
        lines += ["", f"To commit: {REPORT} as {target}; then `python benchmarks/report.py`."]
        return "\n".join(lines)


def slug(name: str) -> str:
    """A name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")


def _commit() -> str:
    if (git := shutil.which("git")) is None:
        return "unknown"
    command = [git, "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stdout.strip() or "unknown"
