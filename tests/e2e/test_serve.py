"""`packrank serve` as a process: clients of every kind of bad behaviour, and ends of every kind."""

import json
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from held_model import until
from serving_process import Process, answer, request

from packrank.commands.cli import main

SECRET = "words of nobody's business"
SOUND = {"query": SECRET, "documents": ["red fox", f"blue owl {SECRET}"]}
LIMIT, PATIENCE = 500_000, 1.0

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="of Unix")
Start = Callable[..., Process]


@pytest.fixture(scope="module")
def folder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("served") / "small"
    shutil.copytree(checkpoint("Bert", num_labels=1), path)
    save_tokenizer(path, "red blue fox owl")
    return path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    root = tmp_path_factory.mktemp("certificate")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -batch"
    command = ["openssl", *words.split(), "-subj", "/CN=localhost", "-keyout", "key", "-out", "it"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return root / "it", root / "key"


@pytest.fixture(scope="module")
def start(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[Start]:
    """start("main"): a process, which loads its model once it is let go; begun at the first call.

    It is another one each time that it has ended.
    """
    root = tmp_path_factory.mktemp("servers")
    tls = ["--ssl-certfile", certificate[0], "--ssl-keyfile", certificate[1]]
    nobody = "http://127.0.0.1:9"  # a collector of spans that is gone costs nothing
    words: dict[str, list[object]] = {
        "main": [
            "--port",
            0,
            "--payload-limit",
            LIMIT,
            "--cache-bytes",
            1_000_000,
            "--otlp-endpoint",
            nobody,
        ],
        "late": ["--uds", root / "socket", "--shutdown-timeout", 0.3, *tls],
    }
    every: list[Process] = []
    found: dict[str, Process] = {}

    def begin(name: str) -> Process:
        at = root / f"{name}{len(every)}"
        at.mkdir()
        (at / "loading").touch()
        of_main: dict[str, Any] = {"patience": PATIENCE}
        options = of_main if name == "main" else {"tls": True}
        found[name] = Process(at, folder, *words[name], **options)
        every.append(found[name])
        return found[name]

    def get(name: str) -> Process:
        if not found:  # what takes long is to import torch
            for one in words:
                begin(one)
        return begin(name) if found[name].process.poll() is not None else found[name]

    yield get
    for one in every:
        with one:
            assert SECRET not in json.dumps(one.lines)
            assert all(isinstance(line, dict) for line in one.lines), one.lines


@pytest.fixture
def server(start: Start) -> Iterator[Process]:
    """One that answers, and does so in the end, whatever a test has done to it."""
    one = start("main")
    if not one.is_ready:
        assert one.ask("/health").status == one.ask("/ping").status == 503
        refused = one.ask("/rerank", SOUND)
        assert refused.status == 503 and refused.getheader("retry-after") == "5"
        assert one.ask("/health/live").status == 200
        one.go("loading")
        one.ready()
    yield one
    if one.process.poll() is None:
        until(lambda: one.status() == (0, 0))
        assert one.ask("/rerank", SOUND).status == 200
    one.hang_up()


def reset(connection: socket.socket) -> None:
    """As a process that is killed leaves it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def has_ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1 << 16) == b""
    except ConnectionError:
        return True


def test_requests_of_clients_that_went_away_leave_the_queue(server: Process) -> None:
    server.hold()
    gone = [server.socket(request("/rerank", SOUND)) for _ in range(20)]
    stays = server.socket(request("/rerank", SOUND))
    until(lambda: server.status()[0] == 21)
    for place, one in enumerate(gone):
        reset(one) if place % 2 else one.close()
    until(lambda: server.status()[0] == 1)
    server.go()
    assert answer(stays).status == 200


def test_a_client_that_is_killed_in_the_middle_of_a_body(server: Process) -> None:
    for place in (5, 100, -1):
        reset(server.socket(request("/rerank", SOUND)[:place]))
    until(lambda: any(line.get("status") == 499 for line in server.lines))
    assert not [line for line in server.lines if line["level"] == "error"]


def test_a_body_that_comes_too_slowly(server: Process) -> None:
    connection = server.socket(request("/rerank", SOUND)[:-20])
    for letter in range(3):
        connection.sendall(b"%d" % letter)
        time.sleep(0.1)
    found = answer(connection)
    assert found.status == 408 and found.getheader("connection") == "close"
    assert has_ended(connection)


def test_connections_on_which_nothing_happens_are_ended(server: Process) -> None:
    begun = [server.socket(sent) for sent in (b"", b"POST /rer", b"GET / HTTP/1.1\r\n") * 100]
    assert server.ask("/rerank", SOUND).status == 200
    dripping = server.socket()
    with pytest.raises(OSError):
        for _ in range(200):
            dripping.sendall(b"a")
            time.sleep(0.05)
    assert all(map(has_ended, begun))


def test_a_client_that_never_reads_its_answer(server: Process) -> None:
    large = request("/rerank", {"query": "red", "documents": ["owl " * 50_000] * 2})
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(30)
        with pytest.raises(OSError):  # once its buffers, and those of the system, are full
            for _ in range(200):
                connection.sendall(large)


@pytest.mark.parametrize("sent", [LIMIT // 2, LIMIT, 3 * LIMIT])
def test_a_body_that_is_too_large(server: Process, sent: int) -> None:
    """The whole of it is sent, and the answer read after that, as simple clients do."""
    head = b"POST /rerank HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"
    announced = server.socket(head + b"content-length: %d\r\n\r\n" % (LIMIT + sent))
    announced.sendall(b" " * (LIMIT + sent))
    chunked = server.socket(head + b"transfer-encoding: chunked\r\n\r\n")
    for _ in range((LIMIT + sent) // 50_000):
        chunked.sendall(b"c350\r\n" + b" " * 50_000 + b"\r\n")
    chunked.sendall(b"0\r\n\r\n")
    for one in (announced, chunked):
        found = answer(one)
        assert found.status == 413 and f"more than {LIMIT} bytes" in found.found  # type: ignore[attr-defined]
        assert found.getheader("connection") == "close" and has_ended(one)


def test_a_client_that_asks_first_need_not_send_what_is_too_large(server: Process) -> None:
    headers = {"expect": "100-continue", "content-length": str(2 * LIMIT)}
    begun = time.monotonic()
    assert answer(server.socket(request("/rerank", b"", headers))).status == 413
    assert time.monotonic() - begun < PATIENCE


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nhost: here\r\ncontent-length: many\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nhost: here\r\ncontent-length: -5\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /rerank HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
def test_what_is_no_http(server: Process, raw: bytes) -> None:
    connection = server.socket(raw)
    assert answer(connection).status == 400 and has_ended(connection)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b"[" * 100_000),
        (400, b'{"query": "\xff\xfe", "documents": ["a"]}'),
        (400, b'{"query": "\\ud800", "documents": ["a"]}'),
        (400, b'{"query": "a", "documents": ["a"], "top_n": NaN}'),
        (400, b'{"query": "a", "documents": ["a"], "top_n": Infinity}'),
        (400, b'{"query": "a", "documents": ["a"], "top_n": 1e999}'),
        (422, b'{"query": "a", "documents": ["a"], "top_n": "' + b"9" * 5000 + b'"}'),
        (422, b"null"),
        (400, b""),
        (422, json.dumps({"query": "red", "documents": ["owl"] * 10_001}).encode()),
        (200, json.dumps({"query": "red", "documents": ["owl"] * 10_000}).encode()),
        (200, b'{"query": "\\u0000", "documents": ["\\u0000", ""]}'),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, bytes) else None,
)
def test_bodies_at_the_edge(server: Process, status: int, body: bytes) -> None:
    assert server.ask("/rerank", body).status == status


@pytest.mark.parametrize("given", ["x" * 10_000, "a\x01b", "\x85", 'a", "b": "c', "a\tb"])
def test_ids_of_requests_are_logged_as_one_line(server: Process, given: str) -> None:
    found = server.ask("/rerank", SOUND, {"x-request-id": given}).getheader("x-request-id")
    assert found and len(found) <= 200 and found.isprintable() and found.isascii()
    until(lambda: any(line.get("request_id") == found for line in server.lines))


def test_many_at_once(server: Process) -> None:
    found: Counter[int] = Counter()

    def ask() -> None:
        found[server.ask("/rerank", SOUND).status] += 1

    threads = [threading.Thread(target=ask) for _ in range(150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {200: 150}


def test_the_port_of_another_server(
    server: Process, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(folder), "--port", str(server.port)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"packrank: cannot listen on 127.0.0.1:{server.port}: ")


def test_an_hour_of_requests_in_short(server: Process, thorough: bool) -> None:
    """Memory does not grow, connections are not kept, and no request is lost, whatever comes."""
    found: Counter[Any] = Counter()
    documents = ["red fox", "owl", "blue", "fox owl red"]

    def run(seed: int, count: int) -> None:
        draw = Random(seed)
        for _ in range(count):
            texts = [" ".join(draw.choices(documents, k=9)) for _ in range(draw.choice([1, 4, 30]))]
            sent = request("/rerank", {"query": "red", "documents": texts})
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
                connection.sendall(sent)
                if draw.random() < 0.1:
                    reset(connection)
                    found["reset"] += 1
                else:
                    found[answer(connection).status] += 1

    def run_all(count: int) -> int:
        threads = [threading.Thread(target=run, args=(seed, count // 5)) for seed in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: server.status() == (0, 0))
        return server.resident

    first = run_all(5000 if thorough else 150)
    again = run_all(45_000 if thorough else 150)
    assert found.keys() <= {200, "reset"} and found[200] > 200
    assert server.descriptors < 40
    assert again - first < (16 << 20)


def test_requests_that_are_here_are_answered_before_it_ends(server: Process) -> None:
    """Health says so meanwhile, and who is new is told to go elsewhere."""
    server.hold()
    waiting = [server.socket(request("/rerank", SOUND)) for _ in range(8)]
    until(lambda: server.status()[0] == 8)
    slow, idle = server.socket(request("/rerank", SOUND)[:-5]), server.socket()
    server.signal(signal.SIGTERM)
    until(lambda: server.ask("/health").status == 503)
    refused = server.ask("/rerank", SOUND)
    assert refused.status == 503 and refused.getheader("retry-after") == "1"
    assert refused.getheader("connection") == "close"
    assert server.ask("/health/live").status == 200
    server.go()
    assert [answer(each).status for each in waiting] == [200] * 8
    assert server.ends(10) == 0 and has_ended(idle)
    assert answer(slow).status in (408, 503)


def test_a_model_that_hangs_is_left_at_last(
    start: Start, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who waits for it is told; here by TLS at a path, which no other server can take."""
    one = start("late")
    path = Path(one.address.removeprefix("unix:"))
    assert main(["serve", str(folder), "--uds", str(path)]) == 2
    assert capsys.readouterr().err == f"packrank: cannot listen at {path}: a server does already\n"
    one.go("loading")
    one.ready().hold()
    waiting = [one.socket(request("/rerank", SOUND)) for _ in range(3)]
    until(lambda: one.status()[0] == 3)
    one.signal(signal.SIGTERM)
    for each in waiting:
        found = answer(each)
        assert found.status == 503 and found.getheader("retry-after")
    assert one.ends(10) == 1 and not path.exists()


def test_ends_at_once(folder: Path, tmp_path: Path, thorough: bool) -> None:
    """While a model is loaded, which cannot be interrupted; at a second signal while one runs."""
    for moment in ("loading", "running") if thorough else ():
        (tmp_path / moment).mkdir()
        with Process(tmp_path / moment, folder, "--port", 0) as one:
            one.hold("loading")
            half = one.socket(b"POST /rerank HTTP/1.1\r\n")
            if moment == "running":
                one.go("loading")
                one.ready().hold()
                one.socket(request("/rerank", SOUND))
                until(lambda one=one: one.status()[0] == 1)
                one.signal(signal.SIGTERM)
                one.logged("shutting down")
            one.signal(signal.SIGTERM)
            assert one.ends(5) == (0 if moment == "loading" else 128 + signal.SIGTERM)
            assert has_ended(half)
