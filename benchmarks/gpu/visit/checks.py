"""Steps of a visit that ask whether answers are right: questions, device tests, sanitizers."""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from visit.processes import GRACE_S, HERE, ROOT, Done, timed
from visit.state import Visit

Job = Callable[[], Done]
# Of smoke.py, in a process each.
QUESTIONS = (
    "norm", "embedding", "head", "linear", "linear-wide", "attention-self", "attention-first",
    "attention-prefix", "attention-cuda", "attention-relative", "attention-bias", "paged-float16",
    "paged-bfloat16", "paged-float32", "maxsim-32", "maxsim-64", "maxsim-128", "maxsim-cuda-32",
    "maxsim-cuda-64", "maxsim-cuda-128", "transfer", "graph", "threads", "decoder",
    "graph-decoder", "graph-vectors",
)  # fmt: skip
QUESTION_S = 20.0  # then it hangs
NOT_HERE = 3  # the exit status of a program for what there is not, with a sentence
# Where one of these fails, no benchmark runs the CUDA module.
CUDA_TESTS = ("kernels/backend/test_cuda", "kernels/backend/test_cuda_maxsim")
# Whose findings do not count: it reports what is meant to be so.
UNGATED = ("racecheck",)
SANITIZER = "--report-api-errors no --kernel-name kns=packrank"
SANITIZER_FOUND = 86  # its exit status where it has something to report
NOTHING_FOUND = "ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards"
REFUSED = "Device not supported"
COUNTED = (
    "SpeedOfLight ComputeWorkloadAnalysis MemoryWorkloadAnalysis SchedulerStats WarpStateStats"
)


def smoke(visit: Visit, limit: float) -> Done:
    """Small questions, several at once; one that hangs or crashes takes no other along."""
    program, until = str(HERE / "smoke.py"), time.monotonic() + limit

    def ask(question: str) -> Done:
        left = min(QUESTION_S, until - time.monotonic())
        outcome = visit.commands.python(f"smoke-{question}", [program, question], left)
        if outcome.status == NOT_HERE:
            return Done("skipped", outcome.output.strip().rpartition("\n")[2])
        done = outcome.done()
        if done.status == "ok":
            return Done("ok", outcome.output.strip().rpartition("\n")[2])
        hangs = done.status == "over time" and left == QUESTION_S
        if "cuda" in question and (done.status == "failed" or hangs):
            visit.suspects[f"smoke {question}"] = done.note
        return done

    return _all(visit, {f"smoke {one}": lambda one=one: ask(one) for one in QUESTIONS}, until)


def rehearse(visit: Visit, limit: float) -> Done:
    """The same on the CPU, in one process, for what takes time is to start one; and the fuzz."""
    commands = {
        "smoke": [str(HERE / "smoke.py"), *QUESTIONS, "--dry-run"],
        "fuzz": [str(ROOT / "tests/cuda_fuzz.py"), "3", "--dry-run"],
    }

    def run(name: str) -> Done:
        given = commands[name]
        return visit.commands.python(name, given, limit, OMP_NUM_THREADS="1").done()

    jobs = {name: lambda name=name: run(name) for name in commands}
    return _all(visit, jobs, time.monotonic() + limit, len(jobs))


def checks(visit: Visit, limit: float) -> Done:
    """Device tests, a process a file."""
    return _test_all(visit, device_tests(), limit)


def again(visit: Visit, limit: float) -> Done:
    """Tests of the CUDA module, and those that failed in an earlier visit."""
    ended = visit.earlier.get("checks", {})
    wanted = [*CUDA_TESTS, *(name for name, done in ended.items() if Done(**done).is_wrong)]
    return _test_all(visit, [path for path in device_tests() if name_of(path) in wanted], limit)


def device_tests() -> list[Path]:
    """Whole models take longest, so they begin first."""
    return [p for d in ("gpu", "kernels") for p in sorted((ROOT / "tests" / d).rglob("test_*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "tests").with_suffix("").as_posix()


def _test_all(visit: Visit, paths: list[Path], limit: float) -> Done:
    until = time.monotonic() + limit
    return _all(visit, {name_of(p): lambda p=p: _test(visit, p, until) for p in paths}, until)


def _all(visit: Visit, jobs: dict[str, Job], until: float, at_once: int = 0) -> Done:
    """Run jobs, `at_once` or as many as cores allow at a time; each is a part of the report."""
    workers = at_once or min(max(len(os.sched_getaffinity(0)) - 2, 1), 8)

    def part(name: str, job: Job) -> Done:
        if until - time.monotonic() < GRACE_S:
            return Done("over time", "there was no time left to start it")
        return timed(job)

    with ThreadPoolExecutor(workers) as pool:
        waiting = {name: pool.submit(part, name, job) for name, job in jobs.items()}
        for name, future in waiting.items():
            visit.parts[name] = future.result()
    wrong = [name for name in jobs if visit.parts[name].is_wrong]
    note = f"{len(jobs) - len(wrong)} of {len(jobs)} parts are fine"
    return Done("failed" if wrong else "ok", note + (f"; not: {', '.join(wrong)}" if wrong else ""))


def _test(visit: Visit, path: Path, until: float) -> Done:
    # Libraries differ from machine to machine: a warning of theirs is no failure of ours here.
    options = ["-m", "gpu", "-q", "--tb=short", "-W", "default", "-p", "no:cacheprovider"]
    arguments = ["-m", "pytest", str(path), *options, "--durations=10"]
    name = f"test-{path.parent.name}-{path.stem}"
    limit = until - time.monotonic()
    # Several run at once, so few threads each.
    outcome = visit.commands.python(name, arguments, limit, OMP_NUM_THREADS="4")
    if outcome.status == 5:
        return Done("ok", "no device tests in it")
    last = outcome.output.strip().rpartition("\n")[2]
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped)\b", last)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", outcome.output, re.MULTILINE)
    done = outcome.done()
    note = ", ".join(counts) + (f"; first {failed[0]}" if failed else "") or done.note
    if done.status == "failed" and name_of(path) in CUDA_TESTS:
        visit.suspects[name_of(path)] = note
    return Done(done.status, note)


def sanitize(*tools: str, cases: int) -> Callable[[Visit, float], Done]:
    """A step that runs tests/cuda_fuzz.py under tools of compute-sanitizer's, side by side."""

    def step(visit: Visit, limit: float) -> Done:
        until = time.monotonic() + limit
        jobs = {tool: lambda tool=tool: _sanitize(visit, tool, cases, until) for tool in tools}
        return _all(visit, jobs, until)

    return step


def _sanitize(visit: Visit, tool: str, cases: int, until: float) -> Done:
    program = _beside_nvcc("compute-sanitizer")
    if program is None:
        return Done("skipped", "compute-sanitizer is neither on the PATH nor beside nvcc")
    limit = until - time.monotonic()
    fuzz = [sys.executable, str(ROOT / "tests/cuda_fuzz.py"), str(cases)]
    # Without a launch timeout of 0 it goes on, looking at nothing, if importing torch takes long.
    options = f"--tool {tool} --error-exitcode {SANITIZER_FOUND} --launch-timeout 0 {SANITIZER}"
    outcome = visit.commands.run(
        tool,
        [program, *options.split(), *fuzz, "--seconds", str(limit / 2)],
        limit,
        # Each tensor an allocation of its own, so that what lies beyond its end is found.
        PYTORCH_NO_CUDA_MEMORY_CACHING="1",
    )
    if REFUSED in outcome.output:
        return Done("skipped", f"compute-sanitizer says: {REFUSED}")
    if outcome.status == NOT_HERE:
        said = [line for line in outcome.output.splitlines() if "cannot run here" in line]
        return Done("skipped", said[0] if said else outcome.done().note)
    if outcome.status == SANITIZER_FOUND:
        if tool not in UNGATED:
            visit.suspects[tool] = f"it reports; see {tool}.log"
        return Done("failed", f"compute-sanitizer reports; see {tool}.log")
    if outcome.status == 0 and not re.search(NOTHING_FOUND, outcome.output):
        return Done("failed", f"{tool} has looked at nothing; see {tool}.log")
    said = re.findall(r"^\d+ cases.*", outcome.output, re.MULTILINE)
    done = outcome.done()
    return Done(done.status, said[-1] if done.status == "ok" and said else done.note)


def counters(visit: Visit, limit: float) -> Done:
    """Nsight Compute's counters of a few kernels, at the clocks as they are."""
    program = _beside_nvcc("ncu")
    if program is None:
        return Done("skipped", "ncu is neither on the PATH nor beside nvcc")
    if visit.suspects:
        return Done("skipped", "the CUDA module, whose kernels are among them, is suspect")
    options = ["--clock-control", "none", "--profile-from-start", "off", "--page", "details"]
    options += [word for section in COUNTED.split() for word in ("--section", section)]
    files = ["--rows", str(visit.results.rows), "--ceilings", str(visit.ceilings)]
    command = [sys.executable, str(HERE / "run.py"), "counters", *files]
    command += ["--seconds", str(max(limit - 2 * GRACE_S, 1.0))]
    outcome = visit.commands.run("counters", [program, *options, *command], limit)
    if outcome.status == 0 and "==PROF== Profiling" not in outcome.output:
        return Done("skipped", "ncu has read no counter; see counters.log")
    done = outcome.done()
    return Done(done.status, "see counters.log" if done.status == "ok" else done.note)


def _beside_nvcc(program: str) -> str | None:
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    folders = [f"{home}/{inner}" for home in homes for inner in ("bin", "compute-sanitizer")]
    return shutil.which(program, path=os.pathsep.join([os.environ["PATH"], *folders]))
