"""Steps of a visit: the machine, what is built and compiled for it, and what is measured."""

import json
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from visit.processes import GRACE_S, HERE, ROOT, Done, paths
from visit.state import Visit, slug

LOST = "no longer answers"


def machine(visit: Visit, limit: float) -> Done:
    """What there is; without a device there is nobody to ask."""
    outcome = visit.commands.python("machine", [str(HERE / "machine.py")], limit)
    if outcome.status != 0:
        return Done("failed", outcome.output.strip()) if outcome.status == 3 else outcome.done()
    visit.found |= json.loads(outcome.output.splitlines()[-1])
    about = visit.found["machine"]
    if "gpu" not in about and not visit.dry:
        return Done("failed", about["no_gpu"])
    return Done("ok", f"{about.get('gpu', 'no CUDA device')}, {about['cores']} cores")


def build(visit: Visit, limit: float) -> Done:
    """Both extensions, beside their Python files; meanwhile Triton's kernels are compiled.

    A kernel that cannot be compiled ahead is left to whoever calls it, who will say why.
    """
    if visit.dry:
        return Done("skipped", "a dry run builds nothing")
    until = time.monotonic() + limit
    with ThreadPoolExecutor(2) as pool:
        warmed = pool.submit(_warm, visit, limit)
        command = ["setup.py", "build_ext", "--inplace", "--parallel", "4"]
        done = visit.commands.python("build", command, limit).done()
        if done.status == "ok":
            check = "from packrank_kernels import _cpu, _cuda"
            left = until - time.monotonic()
            done = visit.commands.python("import", ["-c", check], left).done()
        visit.parts["prewarm"] = warmed.result()
    return done


def ahead(visit: Visit, limit: float) -> Done:
    """Triton's kernels for a Hopper device, where there is none: see tests/pretend."""
    modules = os.pathsep.join([*paths(), str(ROOT / "tests")])
    return _warm(visit, limit, "--without-gpu", str(visit.logs), PYTHONPATH=modules)


def _warm(visit: Visit, limit: float, *options: str, **environment: str) -> Done:
    """As many processes as there are cores, each with its share of the kernels."""
    start, cores = time.monotonic(), len(os.sched_getaffinity(0))
    program = str(HERE / "prewarm.py")
    with ThreadPoolExecutor(cores) as pool:
        outcomes = pool.map(
            lambda i: visit.commands.python(
                f"prewarm-{i}",
                [program, f"{i}/{cores}", *options],
                limit,
                OMP_NUM_THREADS="1",
                **environment,
            ),
            range(cores),
        )
        ended = list(outcomes)
    wrong = [outcome for outcome in ended if outcome.status != 0]
    seconds = time.monotonic() - start
    if wrong:
        first = wrong[0].done()
        return Done(first.status, f"{len(wrong)} of {cores} processes; {first.note}", seconds)
    said = "".join(outcome.output for outcome in ended)
    counts = re.findall(r"^(\d+) kernels compiled, (\d+) found (.*)", said, re.MULTILINE)
    compiled, found = (sum(int(count[i]) for count in counts) for i in range(2))
    return Done("ok", f"{compiled} kernels compiled, {found} found {counts[0][2]}", seconds)


def bench(visit: Visit, limit: float) -> Done:
    """`packrank bench`, as anybody would run it; its report is among the logs."""
    seconds, report = str(max(limit - 2 * GRACE_S, 1.0)), str(visit.logs / "bench.json")
    asked = ["--device", "cuda", "--models", "MiniLM-L6", "base", "--dtypes", "float16"]
    words = ["-m", "packrank", "bench", *asked, "--seconds", seconds, "--output", report]
    return visit.commands.python("bench", words, limit).done()


def benchmark(*names: str, shapes: tuple[str, ...] = ()) -> Callable[[Visit, float], Done]:
    """A step that runs benchmarks of benchmarks/gpu, of some shapes or of all.

    One that leaves the device without an answer is run once more without the CUDA module, which
    then does not take the other contestants along; and all are, where that module is suspect.
    """

    def step(visit: Visit, limit: float) -> Done:
        until = time.monotonic() + limit
        if visit.suspects:
            return run(visit, limit, ["--without", "cuda"])
        done = run(visit, limit, [])
        left = until - time.monotonic()
        if LOST in done.note and left > 5 * GRACE_S:
            again = run(visit, left, ["--without", "cuda"])
            return Done("failed", f"{done.note}; without the backend cuda: {again.status}")
        return done

    def run(visit: Visit, limit: float, more: list[str]) -> Done:
        files = ["--rows", str(visit.results.rows), "--ceilings", str(visit.ceilings)]
        # No case begins so shortly before the end.
        options = [*names, *files, "--seconds", str(max(limit - 2 * GRACE_S, 1.0)), *more]
        options += [word for shape in shapes for word in ("--shape", shape)]
        environment = {}
        if visit.dry:
            options.append("--dry-run")
            environment["OMP_NUM_THREADS"] = "1"
        # A second run of the same must not overwrite the first one's log.
        name = "-".join([*names[:2], *map(slug, shapes), *(["without-cuda"] if more else [])])
        arguments = [str(HERE / "run.py"), *options]
        outcome = visit.commands.python(name, arguments, limit, **environment)
        if LOST in outcome.output:
            return Done("failed", f"the device {LOST} the process")
        wrong, late, absent = (
            re.findall(pattern, outcome.output, re.MULTILINE)
            for pattern in ("^FAILED .*", "^left out, the time.*", "^left out, .* not installed.*")
        )
        if wrong:
            return Done("failed", f"{len(wrong)} times; first {wrong[0][:160]}")
        if outcome.status == 0 and (late or absent):
            note = f"{len(late)} cases are left out" if late else absent[0]
            return Done("over time" if late else "skipped", note)
        return outcome.done()

    return step
