"""`packrank encode`, killed: seconds of work are lost, and the finished bytes are the same."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packrank import InputError, LateInteraction
from packrank.commands.cli import main
from packrank.jobs import pace as pace_file
from packrank.stores import appender as appender_file
from packrank.stores.store import Store

ROOT = Path(__file__).parents[2]
WORDS = "red blue fox dog owl snake runs sleeps hunts at night by day in the sun"


@pytest.fixture(scope="module")
def encoder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "bert"
    shutil.copytree(checkpoint("Bert", "Model"), folder)
    save_tokenizer(folder, WORDS)
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def encode(*arguments: object) -> int:
    return main(["encode", *map(str, arguments), "--device", "cpu", "--quiet"])


PROGRAM = """
import os, random, shutil, signal, sys, time
from packrank.jobs import documents, pace
from packrank.stores import appender, segments
from packrank.commands.cli import main

documents._WINDOW_DOCUMENTS, segments._SEGMENT_TOKENS = 4, 60
seed, most, *arguments = sys.argv[1:]
random.seed(int(seed))
now = 0.0

def monotonic():  # of a machine that is fast and slow by turns: windows and commits end anywhere
    global now
    now += random.choice((0.01, 1.0, 30.0))
    return now

appender.monotonic = pace.monotonic = monotonic

def kill_at(moment):
    left = moment
    def counted(original):
        def call(*args, **options):
            nonlocal left
            left -= 1
            if left == 0:
                if original is pwrite:
                    pwrite(args[0], memoryview(args[1])[: len(args[1]) // 2], args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)
        return call
    pwrite = os.pwrite
    for name in ("pwrite", "fsync", "replace", "ftruncate", "open"):
        setattr(os, name, counted(getattr(os, name)))

kills = 0
while True:
    moment = random.randint(1, 80)
    child = os.fork()
    if child == 0:
        if kills % 3 and kills < int(most):
            kill_at(moment)
        os._exit(main(["encode", *arguments]))
    if kills % 3 == 0 and kills < int(most):
        time.sleep(random.uniform(0, 0.5))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFEXITED(status):
        kills += 1
    elif kills == int(most) or os.WEXITSTATUS(status):
        sys.exit(os.WEXITSTATUS(status))
    else:  # too late to be killed: once more
        shutil.rmtree(arguments[2])
"""


@pytest.mark.parametrize("format", ["int8", "4bit"])
def test_killed_at_random_moments_the_store_is_the_same(
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    thorough: bool,
) -> None:
    """Killed by the clock and at calls to the system, half way through a write too.

    Every run has windows of its own, and commits in other places.
    """
    if format == "4bit" and not thorough:
        pytest.skip("its long form alone: make proofs")
    monkeypatch.setattr("packrank.stores.segments._SEGMENT_TOKENS", 60)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS.split(), n)) for n in rng.integers(1, 20, 90)]
    documents = tmp_path / "d.jsonl"
    documents.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    options = [documents, tmp_path / "undisturbed", "--format", format]
    assert encode(encoder, *options) == 0
    options[1], kills = tmp_path / "killed", 200 if thorough else 3
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        7,
        kills,
        encoder,
        *options,
        "--device",
        "cpu",
        "--quiet",
    ]
    result = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join((f"{ROOT}/engine", f"{ROOT}/kernels"))},
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "undisturbed")
    assert len(Store.open(tmp_path / "killed")) == 90


def test_who_is_killed_loses_seconds_on_a_slow_machine(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a second a document, and killed after each number of them."""
    documents = tmp_path / "d.txt"
    documents.write_text("".join(f"{'red fox runs ' * 8}{number}\n" for number in range(60)))
    assert encode(encoder, documents, tmp_path / "undisturbed") == 0
    original, now, killed_at = LateInteraction.try_encode_documents, 0.0, 0.0

    def slow(self: LateInteraction, texts: list[str], cut: set[str]) -> Any:
        nonlocal now
        now += len(texts)
        if now >= killed_at:
            now = killed_at
            raise InputError("killed")
        return original(self, texts, cut)

    for module in (appender_file, pace_file):
        monkeypatch.setattr(module, "monotonic", lambda: now)
    monkeypatch.setattr(LateInteraction, "try_encode_documents", slow)
    for killed_at in (20.0, 33.0, 45.0):
        store, now = tmp_path / str(killed_at), 0.0
        assert encode(encoder, documents, store) == 2
        assert killed_at - 10 - 2 - 1 <= len(Store.open(store)) < killed_at
        with monkeypatch.context() as patch:
            patch.setattr(LateInteraction, "try_encode_documents", original)
            assert encode(encoder, documents, store) == 0
        assert bytes_of(store) == bytes_of(tmp_path / "undisturbed")
