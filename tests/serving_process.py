"""`packrank serve` as a process on this machine, whose packs and loading a test can hold up."""

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from held_model import until

# Packs wait while there is a file of that name, and so does the loading; patience is short.
_PROGRAM = """
import functools, os, sys, time
from packrank import Reranker
from packrank.commands.cli import main
from packrank.server import exchange, run
from packrank.serving.source import PairSource

def held(name, call):
    def wait(*arguments, **options):
        while os.path.exists(os.path.join(sys.argv[1], name)):
            time.sleep(0.005)
        return call(*arguments, **options)
    return wait

PairSource.start = held("forward", PairSource.start)
Reranker.__init__ = held("loading", Reranker.__init__)
exchange.BODY_SECONDS = float(sys.argv[2])
run.Connections = functools.partial(run.Connections, float(sys.argv[2]))
sys.exit(main(sys.argv[3:]))
"""


class Process:
    """A server, started.

    Args:
        folder: where files hold it up: "forward" or "loading".
        patience: seconds that a body may take, or a connection stand still.
        tls: whether the arguments say so.
        arguments: of the command, "serve" left out.

    Attributes:
        lines: what it has logged so far, each as JSON has it; and what was no JSON, as it was.
    """

    def __init__(
        self, folder: Path, *arguments: object, patience: float = 60.0, tls: bool = False
    ) -> None:
        self.folder, self.lines = folder, list[Any]()
        self._context = _trusting() if tls else None
        self._sockets: list[socket.socket] = []
        command = [sys.executable, "-c", _PROGRAM, folder, patience, "serve", *arguments]
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.lines.append(line)

    def logged(self, message: str) -> dict[str, Any]:
        """The first line of a message, which is waited for."""

        def found() -> list[dict[str, Any]]:
            some = [x for x in self.lines if isinstance(x, dict) and x["message"] == message]
            assert some or self._reader.is_alive(), self.lines
            return some

        until(found)
        return found()[0]

    def hold(self, name: str = "forward") -> None:
        (self.folder / name).touch()

    def go(self, name: str = "forward") -> None:
        (self.folder / name).unlink()

    @property
    def address(self) -> str:
        where: str = self.logged("listening")["address"]
        return where

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def is_ready(self) -> bool:
        return any(isinstance(x, dict) and x["message"] == "ready" for x in self.lines)

    def ready(self) -> "Process":
        self.logged("ready")
        return self

    def socket(self, sent: bytes = b"") -> socket.socket:
        """A connection, on which something has been sent."""
        if self.address.startswith("unix:"):
            found = socket.socket(socket.AF_UNIX)
            found.connect(self.address.removeprefix("unix:"))
        else:
            found = socket.create_connection(("127.0.0.1", self.port))
        found.settimeout(30)
        if self._context is not None:
            found = self._context.wrap_socket(found)
        self._sockets.append(found)
        found.sendall(sent)
        return found

    def hang_up(self) -> None:
        """End all connections."""
        while self._sockets:
            self._sockets.pop().close()

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """The answer to a request, read: its text is `.found`."""
        return answer(self.socket(request(path, body, headers)))

    def get(self, path: str) -> Any:
        return json.loads(self.ask(path).found)  # type: ignore[attr-defined]

    def status(self) -> tuple[int, int]:
        """Requests and tokens that wait."""
        [model] = self.get("/live")["models"]
        return model["queue_requests"], model["queue_tokens"]

    @property
    def resident(self) -> int:
        """Bytes of its memory."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def descriptors(self) -> int:
        """Files and connections that it holds open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self, seconds: float = 20.0) -> int:
        """Its exit status; nothing was printed on standard output."""
        assert self.process.stdout is not None
        status = self.process.wait(seconds)
        self._reader.join()  # what it has said last
        assert self.process.stdout.read() == ""
        return status

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *raised: object) -> None:
        self.hang_up()
        self.process.kill()
        with self.process:  # which closes its ends
            self._reader.join()


def _trusting() -> ssl.SSLContext:
    """TLS with whomever it is."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def request(path: str, body: Any = None, headers: dict[str, str] | None = None) -> bytes:
    """As it is sent: GET, or POST of what is no bytes as JSON."""
    every = {"host": "here"} | (headers or {})
    if body is None:
        data = b""
    else:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        every = {"content-type": "application/json", "content-length": str(len(data))} | every
    head = "".join(f"{name}: {value}\r\n" for name, value in every.items())
    method = "GET" if body is None else "POST"
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + data


def answer(connection: socket.socket) -> http.client.HTTPResponse:
    """What comes on a connection, read; `.found` is its text."""
    found = http.client.HTTPResponse(connection)
    try:
        found.begin()
        found.found = found.read().decode()  # type: ignore[attr-defined]
    finally:
        found.close()
    return found
