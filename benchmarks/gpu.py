"""All that a machine with a CUDA device is asked, in one go: `make gpu`, within ten minutes.

Builds, tests and measures step by step, each in processes of its own and within its own time. A
step that fails or takes too long is reported and the next one runs. Rows and tables go to --out,
logs to --logs; the summary comes last on stdout. The exit status is 0 where every step succeeded.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks" / "gpu"
GRACE_S = 5.0  # between asking a process to stop and stopping it
SANITIZED = {"memcheck": 60, "racecheck": 30}  # tool -> cases
# Where one of these fails, no benchmark runs the CUDA module.
SUSPECTS = ("kernels/backend/test_cuda", "kernels/backend/test_cuda_maxsim", "memcheck")
SANITIZER = "--report-api-errors no --kernel-name kns=packrank"
SANITIZER_FOUND = 86  # its exit status where it has something to report
Outcome = tuple[int | None, str]
NOTHING_FOUND = "ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards"


@dataclass(frozen=True)
class Done:
    """How a step, or a part of one, ended.

    Attributes:
        status: "ok", "failed", "over time" or "skipped".
        note: what there is to say.
        seconds: how long it took.
    """

    status: str = "ok"
    note: str = ""
    seconds: float = 0.0


@dataclass
class Session:
    """One go: where things are, and what has been found so far."""

    out: Path
    logs: Path
    dry: bool
    found: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Done] = field(default_factory=dict)

    def command(self, name: str, command: list[str], limit: float, **more: str) -> Outcome:
        """(exit status, output) of a command; the status is None where it took too long."""
        log = self.logs / f"{name}.log"
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(_paths()),
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            **more,
        }
        with log.open("w") as stdout:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=variables,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            status: int | None
            try:
                status = process.wait(max(limit, 1.0))
            except subprocess.TimeoutExpired:
                status = None
            except BaseException:
                _stop(process)
                raise
            if status is None:
                _stop(process)
        return status, log.read_text(errors="replace")

    def python(self, name: str, arguments: list[str], limit: float, **more: str) -> Outcome:
        return self.command(name, [sys.executable, *arguments], limit, **more)


def _paths() -> list[str]:
    """Where the package is, unbuilt, before what the caller's environment names."""
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return [str(ROOT / "engine"), str(ROOT / "kernels"), *given]


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process and those that it started to stop, then end whichever has not."""
    for order in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, order)
        except ProcessLookupError:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)


def _ended(status: int | None, output: str) -> Done:
    if status == 0:
        return Done("ok")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1][:160] if lines else "no output"
    if status is None:
        return Done("over time", f"the last it said: {last}")
    return Done("failed", f"exit status {status}: {last}")


def machine(session: Session, limit: float) -> Done:
    status, output = session.python("machine", [str(HERE / "machine.py")], limit)
    if status != 0:
        return Done("failed", output.strip()) if status == 3 else _ended(status, output)
    session.found |= json.loads(output.splitlines()[-1])
    about = session.found["machine"]
    if "gpu" not in about and not session.dry:
        return Done("failed", about["no_gpu"])
    return Done("ok", f"{about.get('gpu', 'no CUDA device')}, {about['cores']} cores")


def build(session: Session, limit: float) -> Done:
    """Both extensions, beside their Python files."""
    if session.dry:
        return Done("skipped", "a dry run builds nothing")
    command = ["setup.py", "build_ext", "--inplace", "--parallel", "4"]
    status, output = session.python("build", command, limit)
    if status != 0:
        return _ended(status, output)
    check = "from packrank_kernels import _cpu, _cuda"
    return _ended(*session.python("import", ["-c", check], GRACE_S * 6))


def checks(session: Session, limit: float) -> Done:
    """Device tests, a process a file, beside the sanitizer: none of them is timed."""
    jobs: list[tuple[str, Callable[[], Done]]] = []
    until = time.monotonic() + limit
    for tool, cases in list(SANITIZED.items())[: 1 if session.dry else None]:
        jobs.append((tool, lambda t=tool, n=cases: _sanitize(session, t, n, until)))
    for path in () if session.dry else device_tests():
        name = path.relative_to(ROOT / "tests").with_suffix("").as_posix()
        jobs.append((name, lambda p=path: _test(session, p, until)))
    workers = min(max(len(os.sched_getaffinity(0)) - 2, 1), 8)
    with ThreadPoolExecutor(1 if session.dry else workers) as pool:
        results = [(name, pool.submit(_timed, job)) for name, job in jobs]
        parts = {name: result.result() for name, result in results}
    session.parts |= parts
    wrong = [name for name, part in parts.items() if part.status in ("failed", "over time")]
    note = f"{len(parts) - len(wrong)} of {len(parts)} parts are fine"
    return Done("failed" if wrong else "ok", note + (f"; not: {', '.join(wrong)}" if wrong else ""))


def device_tests() -> list[Path]:
    """Whole models take longest, so they begin first."""
    return [p for d in ("gpu", "kernels") for p in sorted((ROOT / "tests" / d).rglob("test_*.py"))]


def _timed(job: Callable[[], Done]) -> Done:
    start = time.monotonic()
    try:
        done = job()
    except Exception as error:
        done = Done("failed", f"{type(error).__name__}: {error}")
    return Done(done.status, done.note, time.monotonic() - start)


def _test(session: Session, path: Path, until: float) -> Done:
    # Libraries differ from machine to machine: a warning of theirs is no failure of ours here.
    options = ["-m", "gpu", "-q", "--tb=short", "-W", "default", "-p", "no:cacheprovider"]
    arguments = ["-m", "pytest", str(path), *options, "--durations=10"]
    limit = until - time.monotonic()
    if limit < GRACE_S:
        return Done("over time", "there was no time left to start it")
    name = f"test-{path.parent.name}-{path.stem}"
    # Several run at once, so few threads each.
    status, output = session.python(name, arguments, limit, OMP_NUM_THREADS="4")
    if status == 5:
        return Done("ok", "no device tests in it")
    last = output.strip().rpartition("\n")[2]
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped)\b", last)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    done = _ended(status, output)
    note = ", ".join(counts) + (f"; first {failed[0]}" if failed else "")
    return Done(done.status, note or done.note)


def _sanitize(session: Session, tool: str, cases: int, until: float) -> Done:
    """tests/cuda_fuzz.py under a tool of compute-sanitizer's."""
    fuzz = [sys.executable, str(ROOT / "tests/cuda_fuzz.py"), str(cases if not session.dry else 3)]
    if session.dry:
        return _ended(*session.command(tool, [*fuzz, "--dry-run"], until - time.monotonic()))
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    folders = [f"{home}/{inner}" for home in homes for inner in ("bin", "compute-sanitizer")]
    path = os.pathsep.join([os.environ["PATH"], *folders])
    program = shutil.which("compute-sanitizer", path=path)
    if program is None:
        return Done("skipped", "compute-sanitizer is neither on the PATH nor beside nvcc")
    # Without a launch timeout of 0 it goes on, looking at nothing, if importing torch takes long.
    options = f"--tool {tool} --error-exitcode {SANITIZER_FOUND} --launch-timeout 0 {SANITIZER}"
    limit = until - time.monotonic()
    status, output = session.command(
        tool,
        [program, *options.split(), *fuzz, "--seconds", str(limit / 2)],
        limit,
        # Each tensor an allocation of its own, so that what lies beyond its end is found.
        PYTORCH_NO_CUDA_MEMORY_CACHING="1",
    )
    if status == 3:
        return Done("skipped", next(x for x in output.splitlines() if "cannot run here" in x))
    if status == SANITIZER_FOUND:
        return Done("failed", f"compute-sanitizer reports; see {tool}.log")
    if status == 0 and not re.search(NOTHING_FOUND, output):
        return Done("failed", f"{tool} has looked at nothing; see {tool}.log")
    done = _ended(status, output)
    said = re.findall(r"^\d+ cases.*", output, re.MULTILINE)
    return Done(done.status, said[-1] if done.status == "ok" and said else done.note)


def benchmark(*names: str, shape: str | None = None) -> Callable[[Session, float], Done]:
    """A step that runs benchmarks of benchmarks/gpu, of one model shape or of all.

    One that leaves the device without an answer is run once more without the CUDA module, which
    then does not take the other contestants along; and all are, where its own tests failed.
    """

    def step(session: Session, limit: float) -> Done:
        until = time.monotonic() + limit
        if any(session.parts.get(part, Done()).status == "failed" for part in SUSPECTS):
            return run(session, limit, ["--without", "cuda"])
        done = run(session, limit, [])
        left = until - time.monotonic()
        if "no longer answers" in done.note and left > 4 * GRACE_S:
            again = run(session, left, ["--without", "cuda"])
            return Done("failed", f"{done.note}; without the backend cuda: {again.status}")
        return done

    def run(session: Session, limit: float, more: list[str]) -> Done:
        files = ["--rows", str(session.logs / "rows.jsonl")]
        files += ["--ceilings", str(session.logs / "ceilings.json")]
        options = [*names, *files, "--seconds", str(limit - 2 * GRACE_S), *more]
        options += ["--shape", shape] if shape else []
        environment = {"PYTHONPATH": os.pathsep.join([*_paths(), str(HERE)])}
        if session.dry:
            options.append("--dry-run")
            environment["OMP_NUM_THREADS"] = "1"
        arguments = [str(HERE / "run.py"), *options]
        name = "-".join([*names, *([_slug(shape)] if shape else [])])
        status, output = session.python(name, arguments, limit, **environment)
        if "no longer answers" in output:
            return Done("failed", "the device no longer answers the process")
        wrong, late, absent = (
            re.findall(pattern, output, re.MULTILINE)
            for pattern in ("^FAILED .*", "^left out, the time.*", "^left out, .* not installed.*")
        )
        if wrong:
            return Done("failed", f"{len(wrong)} times; first {wrong[0][:160]}")
        if status == 0 and (late or absent):
            note = f"{len(late)} cases are left out" if late else absent[0]
            return Done("over time" if late else "skipped", note)
        return _ended(status, output)

    return step


# Seconds for each; what a step leaves of its time goes to the next, and what steps that are not
# chosen leave, to the last.
BENCHMARKS = {"ceilings": 20.0, "attention": 30.0, "linear": 30.0, "norms": 15.0, "maxsim": 45.0,
              "forward": 30.0, "decoders": 60.0}  # fmt: skip
STEPS: dict[str, tuple[float, Callable[[Session, float], Done]]] = {
    "machine": (50, machine),
    "build": (65, build),
    "checks": (130, checks),
    **{name: (seconds, benchmark(name)) for name, seconds in BENCHMARKS.items()},
    "end-to-end-minilm": (30, benchmark("end_to_end", shape="MiniLM-L6")),
    "end-to-end-base": (25, benchmark("end_to_end", shape="XLM-R base")),
    "end-to-end-modernbert": (25, benchmark("end_to_end", shape="ModernBERT-base")),
    "end-to-end-large": (20, benchmark("end_to_end", shape="XLM-R large")),
    "maxsim-peers": (25, benchmark("maxsim_peers")),  # they are tuned at their first calls
}
ALL = (*BENCHMARKS, "end_to_end", "maxsim_peers")
# On a dry run all benchmarks share a process: what takes time is to start one.
DRY_STEPS: dict[str, tuple[float, Callable[[Session, float], Done]]] = {
    "machine": (60, machine),
    "build": (1, build),
    "checks": (60, checks),
    "benchmarks": (180, benchmark(*ALL)),
}


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file of JSON lines; one cut short is passed over."""
    for line in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


def write(session: Session, steps: dict[str, Done], name: str = "") -> Path:
    """What there is so far, as JSON; its path, which ends with the date and `name`."""
    records = list(lines_of(session.logs / "rows.jsonl"))
    ceilings = session.logs / "ceilings.json"
    report = {
        "machine": session.found.get("machine", {}),
        "date": date.today().isoformat(),
        "commit": _commit(),
        "python": session.found.get("python"),
        "versions": session.found.get("versions", {}),
        "ceilings": json.loads(ceilings.read_text()) if ceilings.is_file() else {},
        "steps": {name: vars(done) for name, done in steps.items()},
        "checks": {name: vars(done) for name, done in session.parts.items()},
        "headlines": [record["headline"] for record in records if "headline" in record],
        "rows": [record for record in records if "headline" not in record],
    }
    folder = session.out / _slug(report["machine"].get("gpu", "no-gpu"))
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{report['date']}{name}.json"
    target.write_text(json.dumps(report, indent=1) + "\n")
    return target


def _slug(gpu: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower().removeprefix("nvidia ")).strip("-")


def _commit() -> str:
    if (git := shutil.which("git")) is None:
        return "unknown"
    command = [git, "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return done.stdout.strip() or "unknown"


def summary(session: Session, steps: dict[str, Done]) -> None:
    for record in lines_of(session.logs / "rows.jsonl"):
        if "headline" in record:
            print(record["headline"])
    print()
    for name, done in {**session.parts, **steps}.items():
        print(f"{name:24} {done.status:10} {done.seconds:6.1f} s  {done.note}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: benchmarks/results")
    parser.add_argument("--logs", type=Path, default=ROOT / "build/gpu", metavar="FOLDER")
    parser.add_argument("--only", metavar="STEP,...", help=f"some of {', '.join(STEPS)}")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU, no device")
    options = parser.parse_args()
    plan = DRY_STEPS if options.dry_run else STEPS
    chosen = options.only.split(",") if options.only else list(plan)
    unknown = [name for name in chosen if name not in plan]
    if unknown:
        parser.error(f"there is no step {unknown[0]}; there are {', '.join(plan)}")
    options.logs.mkdir(parents=True, exist_ok=True)
    out = options.out or (options.logs if options.dry_run else ROOT / "benchmarks/results")
    session = Session(out.resolve(), options.logs.resolve(), options.dry_run)
    (session.logs / "rows.jsonl").unlink(missing_ok=True)
    if {"ceilings", "benchmarks"} & set(chosen):
        (session.logs / "ceilings.json").unlink(missing_ok=True)
    suffix = "".join(f"-{name}" for name in chosen) if options.only else ""
    steps: dict[str, Done] = {}
    target = None
    end = time.monotonic()
    last = end + sum(seconds for seconds, _ in plan.values())
    for name in chosen:
        seconds, step = plan[name]
        end = last if name == chosen[-1] else end + seconds
        limit = max(end - time.monotonic(), GRACE_S)
        print(f"{name}: up to {limit:.0f} s ...", flush=True)
        steps[name] = _timed(lambda step=step, limit=limit: step(session, limit))
        if step is machine and steps[name].status == "failed":
            raise SystemExit(f"make gpu: {steps[name].note}")  # there is no device to ask
        print(f"{name}: {steps[name].status} in {steps[name].seconds:.1f} s", flush=True)
        target = write(session, steps, suffix)
    if target is not None:
        report = [sys.executable, str(ROOT / "benchmarks/report.py"), str(target)]
        tables = subprocess.run(report, capture_output=True, text=True, check=False)
        target.with_suffix(".md").write_text(tables.stdout)
        print(f"\n{target}, tables beside it; logs in {session.logs}\n")
    summary(session, steps)
    return int(any(done.status in ("failed", "over time") for done in steps.values()))


if __name__ == "__main__":
    sys.exit(main())
