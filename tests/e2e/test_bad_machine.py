"""A machine that cannot: no memory, closed streams, a full disk; one sentence and status 2."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from packrank.commands.cli import main

OneSentence = Callable[..., None]


def rank(model: Path | str, documents: Path) -> int:
    return main(["rank", str(model), "--query", "red owl", "--documents", str(documents)])


def test_no_traceback_from_the_real_process(documents: Path) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "packrank", "rank", "no/such-model", "--query", "red"]
    done = subprocess.run(
        [*command, "--documents", str(documents)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("packrank: no/such-model ")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "there is not enough memory"),
        (RuntimeError("[enforce fail] cannot\nallocate"), "failed: [enforce fail] cannot"),
        (RuntimeError(), "the computation failed: RuntimeError"),
    ],
)
@pytest.mark.parametrize("command", ["rank", "score"])
def test_a_machine_that_cannot(
    model: Path,
    tmp_path: Path,
    documents: Path,
    one_sentence: OneSentence,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    words: str,
    command: str,
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("packrank.runtime.runner.Runner.submit", fail)
    if command == "rank":
        assert rank(model, documents) == 2
    else:
        pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
        pairs.write_text('{"query": "red", "document": "fox"}\n')
        assert main(["score", str(model), str(pairs), "--output", str(out)]) == 2
        assert not out.exists()
    one_sentence(words)


def test_closed_streams(
    model: Path,
    tmp_path: Path,
    documents: Path,
    capsys: pytest.CaptureFixture[str],
    one_sentence: OneSentence,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", None)
        assert main(["rank", str(model), "--query", "red", "--documents", "-"]) == 2
        one_sentence("standard input is closed")
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out.jsonl"
    pairs.write_text('{"query": "red", "document": "fox"}\n')
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert rank(model, documents) == 2
        one_sentence("standard output is closed")
        assert main(["info"]) == 2
        one_sentence("standard output is closed")
        assert main(["score", str(model), str(pairs), "--output", str(out), "--quiet"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        assert main(["score", str(model), str(pairs), "--output", str(out)]) == 0
        assert rank("no/such-model", documents) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_in_one_sentence() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "packrank", "info"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=120,
        )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("packrank: standard output, or a temporary file, cannot be written: No")
