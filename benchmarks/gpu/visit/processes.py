"""Commands of a visit: each within its time and with a log of its own, all ended on a word."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[3]
HERE = ROOT / "benchmarks" / "gpu"
# How a process is asked to end, and seconds that it then has. SIGABRT has faulthandler say where
# Python stands in a call that hangs.
ORDERS = ((signal.SIGINT, 1.5), (signal.SIGABRT, 1.0), (signal.SIGKILL, 0.5))
GRACE_S = sum(seconds for _, seconds in ORDERS)
LOOK_S = 0.2  # between looks at whether all is to stop


@dataclass(frozen=True)
class Done:
    """How a step, or a part of one, ended.

    Attributes:
        status: "ok", "failed", "over time", "skipped", "left out" or "stopped".
        note: what there is to say.
        seconds: how long it took.
    """

    status: str = "ok"
    note: str = ""
    seconds: float = 0.0

    @property
    def is_wrong(self) -> bool:
        return self.status in ("failed", "over time", "stopped")


class Outcome(NamedTuple):
    """How a command ended.

    Attributes:
        status: its exit status, None where it was ended.
        output: what it said.
        stopped: whether it was ended because all is to stop, and not for its time.
    """

    status: int | None
    output: str
    stopped: bool = False

    def done(self) -> Done:
        """The same, in words."""
        if self.status == 0:
            return Done("ok")
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        last = lines[-1][:160] if lines else "no output"
        if self.stopped:
            return Done("stopped", "the visit was ended")
        if self.status is None:
            return Done("over time", f"the last it said: {last}")
        return Done("failed", f"exit status {self.status}: {last}")


class Commands:
    """Starts commands, in any thread; `stop` ends those that run and starts no other.

    Args:
        logs: where each has its log.
        environment: of each, beside this process's and what makes the package importable.
    """

    def __init__(self, logs: Path, environment: dict[str, str]) -> None:
        self._logs = logs
        self._stopping = threading.Event()
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths()),
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            "HF_HUB_OFFLINE": "1",
            **environment,
        }

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        self._stopping.set()

    def run(self, name: str, command: list[str], limit: float, **more: str) -> Outcome:
        """Run a command for `limit` seconds at most, and GRACE_S more if it must be ended."""
        if self.is_stopping:
            return Outcome(None, "", stopped=True)
        log = self._logs / f"{name}.log"
        deadline = time.monotonic() + max(limit, 1.0)
        with log.open("w") as stdout:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._environment | more,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                status = self._wait(process, deadline)
            except BaseException:
                end(process)
                raise
            if status is None:
                end(process)
        return Outcome(status, log.read_text(errors="replace"), status is None and self.is_stopping)

    def python(self, name: str, arguments: list[str], limit: float, **more: str) -> Outcome:
        return self.run(name, [sys.executable, *arguments], limit, **more)

    def _wait(self, process: "subprocess.Popen[bytes]", deadline: float) -> int | None:
        while not self.is_stopping and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(min(left, LOOK_S))
        return process.poll()


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process and those that it started to stop, then end whichever has not."""
    for order, seconds in ORDERS:
        try:
            os.killpg(process.pid, order)
        except ProcessLookupError:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def timed(job: Callable[[], Done]) -> Done:
    """What a job says, and how long it took; whatever it raises is a failure of its own."""
    start = time.monotonic()
    try:
        done = job()
    except Exception as error:
        done = Done("failed", f"{type(error).__name__}: {error}")
    return Done(done.status, done.note, time.monotonic() - start)


def paths() -> list[str]:
    """Where the package and the benchmarks are, unbuilt, before what the caller's names."""
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return [str(ROOT / "engine"), str(ROOT / "kernels"), str(HERE), *given]
