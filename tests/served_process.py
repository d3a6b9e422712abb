"""`packrank serve` as a process, which clients of other packages ask over a socket."""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

READY_S = 120.0


@contextmanager
def serving(model: Path, *options: str) -> Iterator[str]:
    """The address of a server of a model, ended when the block ends; its exit status is 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "packrank", "serve", str(model), "--port", port, *options]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            _wait_for(f"{address}/health", process)
            yield address
        finally:
            process.terminate()
            status = process.wait(30)
            log.seek(0)
            said = log.read()
    assert status == 0 and '"status": 500' not in said, said


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < until:
        try:
            urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server is not ready")
