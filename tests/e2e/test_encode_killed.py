"""`packrank encode`, killed: seconds of work are lost, and the finished bytes are the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import run_killed

from packrank import InputError, LateInteraction
from packrank.commands.cli import main
from packrank.jobs import pace as pace_file
from packrank.stores import appender as appender_file
from packrank.stores.store import Store

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


@pytest.mark.parametrize("format", ["int8", "4bit"])
def test_killed_at_random_moments_the_store_is_the_same(
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    thorough: bool,
) -> None:
    if format == "4bit" and not thorough:
        pytest.skip("its long form alone: make proofs")
    monkeypatch.setattr("packrank.stores.segments._SEGMENT_TOKENS", 60)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS.split(), n)) for n in rng.integers(1, 20, 90)]
    documents = tmp_path / "d.jsonl"
    documents.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    options = [documents, tmp_path / "undisturbed", "--format", format]
    assert encode(encoder, *options) == 0
    options[1] = tmp_path / "killed"
    run_killed(
        200 if thorough else 3,
        tmp_path / "undisturbed",
        "encode",
        encoder,
        *options,
        "--device",
        "cpu",
    )
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
