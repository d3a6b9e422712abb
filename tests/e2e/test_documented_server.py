"""The lines of README and docs/server.md that start a server and ask it, run as they stand."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.request import urlopen

import pytest
from source_tree import ROOT

TEXTS = {name: (ROOT / name).read_text() for name in ("README.md", "docs/server.md")}
CURLS = sorted({line for text in TEXTS.values() for line in re.findall(r"^curl .*$", text, re.M)})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    assert "\npackrank serve default\n" in TEXTS["README.md"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "packrank", "serve", "default", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        for _ in range(600):
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("line", CURLS)
def test_curl_lines_are_answered(line: str, port: int) -> None:
    asked = line.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    found = subprocess.run(["sh", "-c", f"{asked} -s"], capture_output=True, text=True, timeout=30)
    assert found.returncode == 0
    if "/health" in line:
        assert found.stdout.startswith("HTTP/1.1 200")
        return
    body, asked_of = json.loads(found.stdout), json.loads(re.findall(r"'(\{.*\})'", line)[0])
    best = (body if isinstance(body, list) else body["results"])[0]
    documents = asked_of.get("documents") or asked_of["texts"]
    assert documents[best["index"]].startswith("Pit vipers")


def test_there_are_lines_to_run() -> None:
    assert len(CURLS) >= 4
