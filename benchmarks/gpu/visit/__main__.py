"""All that a machine with a CUDA device is asked, in one go: `make gpu`.

Builds, tests and measures step by step, each in processes of its own and within its own time, all
of it within --total seconds. A step that fails or takes too long is reported and the next one
runs; one for which there is no time is left out by name. After each step the folder --out is
brought up to date: report, tables, summary, rows, logs and Triton's cache, eight files at most.
The summary comes last on stdout. SIGTERM and SIGINT end what runs and report as usual. The exit
status is 0 where every step that ran succeeded.
"""

import argparse
import contextlib
import functools
import json
import math
import os
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from visit.goals import Measured
from visit.plan import REPORT_S, Slot, Step, fits, plan
from visit.processes import GRACE_S, ROOT, Commands, Done, timed
from visit.results import REPORT, SUMMARY, Results, unpack_cache
from visit.stages import STAGES, steps_of
from visit.state import AHEAD, Steps, Visit

TOTAL_S = 570.0  # of commands that may take ten minutes


def seconds(text: str) -> float:
    """A number of seconds, as an option's type."""
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"expected a number of seconds above 0, not {text}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__)
    add = parser.add_argument
    add("--stage", choices=[*STAGES, AHEAD], help="default: works, then speed; cache: compile "
        "Triton's kernels for a Hopper device on a machine that has none")  # fmt: skip
    add("--total", type=seconds, default=TOTAL_S, metavar="SECONDS", help="all included; 570")
    add("--out", type=Path, default=ROOT / "build/gpu", metavar="FOLDER", help="of results, whose "
        "files take the place of an earlier visit's; build/gpu")  # fmt: skip
    add("--logs", type=Path, default=ROOT / "build/gpu-logs", metavar="FOLDER",
        help="as they are, not packed; build/gpu-logs")  # fmt: skip
    add("--triton-cache", type=Path, metavar="FILE", help="triton-cache.tar.gz of another visit")
    add("--after", type=Path, metavar="REPORT", help="report.json of another visit: what failed "
        "there is run again, what was measured stands in the summary")  # fmt: skip
    add("--only", metavar="STEP,...", help="some of the stage's steps")
    add("--dry-run", action="store_true", help="tiny sizes on the CPU, no device")
    add("--plan", action="store_true", help="say which steps fit into the time, and run none")
    options = parser.parse_args()
    for path in (options.triton_cache, options.after):
        if path is not None and not path.is_file():
            parser.error(f"there is no file {path}")
    there = {step.name: step for step in steps_of(options.stage, dry=options.dry_run)}
    names = options.only.split(",") if options.only else list(there)
    if unknown := [name for name in names if name not in there]:
        parser.error(f"there is no step {unknown[0]}; there are {', '.join(there)}")
    options.steps = [step for name, step in there.items() if name in names]
    return options


def prepare(options: argparse.Namespace) -> Visit:
    logs, out = options.logs.resolve(), options.out.resolve()
    for folder in (logs, out):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise SystemExit(f"make gpu: {folder} cannot be written to: {error.strerror}") from None
    for path in (*logs.glob("*.log"), logs / "ceilings.json"):
        path.unlink(missing_ok=True)
    cache = Path(os.environ.get("TRITON_CACHE_DIR") or ROOT / "build/gpu-triton").resolve()
    if options.stage == AHEAD:  # nothing is packed that an earlier commit asked for
        cache = logs / "triton"
        shutil.rmtree(cache, ignore_errors=True)
    # Sources and listings are nobody's there, and larger than the kernels.
    environment = {"TRITON_CACHE_DIR": str(cache), "TRITON_STORE_BINARY_ONLY": "1"}
    # Both may lie among the results that are about to be replaced.
    earlier = read_report(options.after) if options.after else {}
    if options.triton_cache:
        try:
            kernels = unpack_cache(options.triton_cache, cache)
            print(f"{kernels} kernels come with {options.triton_cache}", flush=True)
        except (tarfile.TarError, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            print(f"{options.triton_cache} is no cache of Triton's: {reason}", flush=True)
    visit = Visit(
        results=Results(out),
        logs=logs,
        commands=Commands(logs, environment),
        cache=cache,
        dry=options.dry_run,
        earlier=earlier,
    )
    if earlier.get("ceilings"):  # until they are measured again
        visit.ceilings.write_text(json.dumps(earlier["ceilings"]))
    return visit


def read_report(path: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        Measured(report["rows"], report["ceilings"])
    except (ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"make gpu: {path} is no report of a visit: {error!r}") from None
    return report


def run(visit: Visit, stage: str, steps: list[Step], slots: list[Slot], end: float) -> Steps:
    """Run the steps that are planned, then of the others those that fit after all."""
    ended: Steps = {step.name: Done("left out", "there was no time") for step in steps}
    clear = functools.cache(visit.results.clear)

    def one(step: Step, until: float) -> None:
        limit = until - GRACE_S - time.monotonic()
        if visit.commands.is_stopping:
            ended[step.name] = Done("stopped", "the visit was ended")
            return
        if limit < 1.0:
            ended[step.name] = Done("left out", "what came before took longer than it may")
            return
        print(f"{step.name}: up to {limit:.0f} s ...", flush=True)
        if step.name != "machine":
            clear()
        ended[step.name] = timed(lambda: step.run(visit, limit))
        if step.name == "machine" and ended["machine"].status == "failed":
            raise SystemExit(f"make gpu: {ended['machine'].note}")  # there is no device to ask
        clear()  # not before it is known that there is one
        print(f"{step.name}: {ended[step.name].status}", flush=True)
        visit.keep(stage, ended)

    until = time.monotonic()
    planned = [slot.step for slot in slots]
    for slot in slots:
        until += slot.seconds + GRACE_S
        # The last may have all that is left, if nobody waits for it.
        is_last = slot is slots[-1] and len(planned) == len(steps)
        one(slot.step, end - REPORT_S if is_last else until)
    for step in steps:
        if step not in planned and fits(step, end - time.monotonic()):
            one(step, end - REPORT_S)
    return ended


def print_plan(stage: str, total: float, slots: list[Slot], left_out: list[Step]) -> None:
    print(f"{stage}, {total:g} s: {', '.join(slot.step.name for slot in slots)}")
    if left_out:
        names = ", ".join(step.name for step in left_out)
        print(f"left out, unless others leave the time: {names}")


def main() -> int:
    start = time.monotonic()
    options = arguments()
    stage = options.stage or "both"
    slots, left_out = plan(options.steps, options.total)
    if not slots:
        needed = min(step.least for step in left_out) + GRACE_S + REPORT_S
        raise SystemExit(f"make gpu: no step fits into {options.total:g} s; give {needed:.0f}")
    if options.plan:
        print_plan(stage, options.total, slots, left_out)
        return 0
    visit = prepare(options)
    for order in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(order, lambda *_: visit.commands.stop())
    print_plan(stage, options.total, slots, left_out)
    ended = run(visit, stage, options.steps, slots, start + options.total)
    visit.keep(stage, ended)
    print(f"\n{(visit.results.folder / SUMMARY).read_text()}\n{visit.results.folder / REPORT}")
    return int(any(done.is_wrong for done in ended.values()))


if __name__ == "__main__":
    sys.exit(main())
