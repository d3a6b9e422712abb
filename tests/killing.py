"""A command that is killed and run again until it has ended."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Ends the process and those it started at a call to the system, half way through a write. And what
# an output holds, to be compared wherever a run comes to its end before it is killed.
KILL_AT = """
import os, shutil, signal, sys
from pathlib import Path

def compare_and_remove(output, wanted):
    if contents(output) != contents(wanted):
        sys.exit(99)
    shutil.rmtree(output) if output.is_dir() else output.unlink()

def contents(output):
    if output.is_file():
        return output.read_bytes()
    shown = [path for path in output.iterdir() if path.is_file() and path.name[0] not in "._"]
    return {path.name: path.read_bytes() for path in shown}

def kill_at(moment):
    left = moment
    def counted(original):
        def call(*args, **options):
            nonlocal left
            left -= 1
            if left == 0:
                if original is pwrite:
                    pwrite(args[0], memoryview(args[1])[: len(args[1]) // 2], args[2])
                os.killpg(0, signal.SIGKILL)
            return original(*args, **options)
        return call
    pwrite = os.pwrite
    for name in ("pwrite", "fsync", "replace", "ftruncate", "open", "unlink", "rename"):
        setattr(os, name, counted(getattr(os, name)))
"""

# Killed by the clock and at calls to the system, half way through a write too. Every run has
# windows of its own, and commits in other places.
PROGRAM = (
    KILL_AT
    + """
import random, time
from packrank.jobs import documents, pace
from packrank.stores import appender, segments
from packrank.commands.cli import main

documents._WINDOW_DOCUMENTS, segments._SEGMENT_TOKENS = 4, 60
seed, most, wanted, *arguments = sys.argv[1:]
random.seed(int(seed))
now = 0.0

def monotonic():  # of a machine that is fast and slow by turns: windows and commits end anywhere
    global now
    now += random.choice((0.01, 1.0, 30.0))
    return now

appender.monotonic = pace.monotonic = monotonic

kills = 0
while True:
    moment = random.randint(1, 80)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        if kills % 3 and kills < int(most):
            kill_at(moment)
        os._exit(main(arguments))
    if kills % 3 == 0 and kills < int(most):
        time.sleep(random.uniform(0, 0.5))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFEXITED(status):
        kills += 1
    elif kills == int(most) or os.WEXITSTATUS(status):
        sys.exit(os.WEXITSTATUS(status))
    else:  # too late to be killed: once more
        compare_and_remove(Path(arguments[3]), Path(wanted))
"""
)


def run_killed(kills: int, wanted: Path, *arguments: object) -> None:
    """Run COMMAND MODEL DOCUMENTS STORE, killed so many times on the way, to its end.

    Wherever it comes to its end, the store is as `wanted`.
    """
    assert run_program(PROGRAM, kills, wanted, *arguments, "--quiet") == (0, "")


def run_program(program: str, kills: int, wanted: Path, *arguments: object) -> tuple[int, str]:
    """Run one that kills a command so many times; its exit status and what it says of errors.

    99 where an output is not as `wanted`.
    """
    result = subprocess.run(
        [sys.executable, "-c", program, "7", str(kills), *map(str, (wanted, *arguments))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((f"{ROOT}/engine", f"{ROOT}/kernels"))},
        capture_output=True,
        text=True,
        cwd="/",
    )
    return result.returncode, result.stderr
