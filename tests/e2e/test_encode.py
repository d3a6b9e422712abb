"""`packrank encode`: what it writes is what the model says, however often it is stopped."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from packrank import InputError, LateInteraction
from packrank.commands.cli import main
from packrank.stores.appender import Appender
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


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a commit after every window."""
    monkeypatch.setattr("packrank.jobs.documents._WINDOW_DOCUMENTS", 4)
    monkeypatch.setattr("packrank.stores.segments._SEGMENT_TOKENS", 60)
    monkeypatch.setattr("packrank.stores.appender._COMMIT_SECONDS", 0.0)


def texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS.split(), n)) for n in rng.integers(1, 20, count)]


def write_jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def encode(*arguments: object) -> int:
    return main(["encode", *map(str, arguments), "--device", "cpu"])


@pytest.mark.parametrize("format", ["float32", "float16", "bfloat16", "int8", "4bit", "2bit"])
def test_a_store_holds_what_the_model_says(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    every = texts(70)
    documents = tmp_path / "documents.txt"
    documents.write_text("\n\n".join(every))
    assert encode(encoder, documents, tmp_path / "store", "--format", format) == 0
    summary = capsys.readouterr()
    store = Store.open(tmp_path / "store")
    assert summary.out == "" and "documents encoded: 70, " in summary.err
    assert f"tokens: {store.num_tokens}, " in summary.err
    assert f"{store.embeddings.bytes_per_token:g} bytes/token" in summary.err
    assert (store.format, store.size, len(store), store.complete) == (format, 60, 70, True)
    assert list(store.ids) == [str(number) for number in range(1, 140, 2)]
    assert store.model is not None and store.model["name"] == str(encoder)
    bound = {"float32": 0, "float16": 1e-3, "bfloat16": 8e-3, "int8": 8e-3, "4bit": 0.2}
    vectors = LateInteraction(encoder, device="cpu").encode_documents(every)
    for index, expected in enumerate(vectors):
        error = (store.embeddings.decode(index) - expected).norm(dim=1).amax()
        assert error <= bound.get(format, 0.5) * (1 + expected.norm(dim=1).amax())


@pytest.mark.usefixtures("small_segments")
def test_segments_follow_from_the_documents(encoder: Path, tmp_path: Path) -> None:
    """Each ends with the document that brings it to so many tokens."""
    documents = write_jsonl(tmp_path / "d.jsonl", [{"text": text} for text in texts(60)])
    assert encode(encoder, documents, tmp_path / "store") == 0
    segments = np.fromfile(tmp_path / "store/segments.bin", "<i8").reshape(-1, 9)
    tail = json.loads((tmp_path / "store/store.json").read_bytes())["tail"]
    assert segments[:, 0].sum() + sum(tail[:1]) == 60 and sum(tail[1:2]) < 60
    ends = Store.open(tmp_path / "store").embeddings.cu_seqlens.numpy()
    last = ends[segments[:, 0].cumsum()] - ends[segments[:, 0].cumsum() - 1]
    assert (segments[:, 1] >= 60).all() and (segments[:, 1] - last < 60).all()
    assert len(segments) > 5


# Lines


def test_lines_that_cannot_be_used_are_named(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = write_jsonl(
        tmp_path / "d.jsonl",
        [
            {"text": "red fox", "id": "a"},
            {"text": "blue owl", "id": "a"},
            {"text": "dog", "id": 7},
            {"text": "dog", "id": "7"},
            {"text": "dog", "id": ["b"]},
            {"text": "dog", "id": True},
            {"text": "dog", "id": "\ud800"},
            {"text": "\ud800"},
            {"title": "dog"},
            {"text": "", "id": None},
        ],
    )
    assert encode(encoder, documents, tmp_path / "store") == 1
    found = capsys.readouterr().err.splitlines()
    for number, reason in (
        (2, "the id 'a' already"),
        (4, "the id '7' already"),
        (5, "\"id\" is ['b'], expected a string"),
        (6, '"id" is True, expected a string'),
        (7, "the id holds a lone surrogate"),
        (8, "the document holds a lone surrogate"),
        (9, 'no "text"'),
    ):
        [line] = [line for line in found if line.startswith(f"packrank: line {number} was left")]
        assert reason in line
    assert "documents encoded: 3" in found[-1] and "lines failed: 7" in found[-1]
    store = Store.open(tmp_path / "store")
    assert list(store.ids) == ["a", "7", "10"]
    # Once more: nothing to do, and the status says that it was not all.
    assert encode(encoder, documents, tmp_path / "store", "--quiet") == 1
    assert "left out in all: 7" in capsys.readouterr().err


def test_many_bad_lines_are_counted(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = write_jsonl(tmp_path / "d.jsonl", [{"text": "dog"}, *[3] * 50])
    assert encode(encoder, documents, tmp_path / "store", "--quiet") == 1
    found = capsys.readouterr().err.splitlines()
    assert len(found) == 21 and found[-1] == "packrank: lines left out in all: 50"


@pytest.mark.parametrize("format", ["float32", "float16", "int8", "2bit"])
def test_vectors_that_are_not_finite_fail_alone(
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    format: str,
) -> None:
    original = LateInteraction.try_encode_documents

    def broken(self: LateInteraction, texts: list[str], cut: set[str]) -> Any:
        vectors, reasons = original(self, texts, cut)
        values = {"red": torch.nan, "blue": torch.inf, "dog": 1e5}
        return [
            torch.full_like(v, values[text]) if v is not None and text in values else v
            for text, v in zip(texts, vectors, strict=True)
        ], reasons

    monkeypatch.setattr(LateInteraction, "try_encode_documents", broken)
    documents = tmp_path / "d.txt"
    documents.write_text("owl\nred\nblue\ndog\nfox\n")
    assert encode(encoder, documents, tmp_path / "store", "--format", format, "--quiet") == 1
    lost = ["2", "3", "4"] if format == "float16" else ["2", "3"]
    found = capsys.readouterr().err
    assert found.count(f"a value of its vectors is not finite in {format}") == len(lost)
    kept = [id for id in "12345" if id not in lost]
    store = Store.open(tmp_path / "store")
    assert list(store.ids) == kept
    assert store.embeddings.decode(len(kept) - 1).isfinite().all()


# Going on


@pytest.mark.usefixtures("small_segments")
def test_a_store_grows(encoder: Path, tmp_path: Path) -> None:
    """By lines that a file has gained, then by another file; ids are those of one long file."""
    one, two = texts(20), texts(9, seed=1)
    documents, others = tmp_path / "d.txt", tmp_path / "e.txt"
    documents.write_text("\n".join(one[:13]))
    assert encode(encoder, documents, tmp_path / "store", "--format", "4bit") == 0
    codec = (tmp_path / "store/codec.safetensors").read_bytes()
    documents.write_text("\n".join(one))
    others.write_text("\n".join(two))
    for path, *options in ((documents,), (documents,), (others, "--append"), (others,)):
        assert encode(encoder, path, tmp_path / "store", *options) == 0
    assert (tmp_path / "store/codec.safetensors").read_bytes() == codec
    store = Store.open(tmp_path / "store")
    assert list(store.ids) == [str(number) for number in range(1, 30)]
    lengths = [len(x) for x in LateInteraction(encoder, device="cpu").encode_documents(one + two)]
    assert store.embeddings.cu_seqlens.diff().tolist() == lengths


def test_documents_without_ids_join_those_of_a_program(encoder: Path, tmp_path: Path) -> None:
    model = LateInteraction(encoder, device="cpu")
    identity = {**model.identity, "name": "by another name"}
    with Appender(tmp_path / "store") as writer:
        writer.create("float16", model.size, identity)
        writer.append(["0", "1", "2"], model.encode_documents(["red", "fox", "owl"]))
        writer.commit()
    documents = tmp_path / "d.txt"
    documents.write_text("dog\nsnake\n")
    assert encode(encoder, documents, tmp_path / "store") == 0
    assert list(Store.open(tmp_path / "store").ids) == ["0", "1", "2", "4", "5"]


def stop_after(monkeypatch: pytest.MonkeyPatch, segments: int) -> None:
    original, left = Appender.commit, segments

    def commit(self: Appender, *args: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise InputError("stopped")
        return original(self, *args)

    monkeypatch.setattr(Appender, "commit", commit)


@pytest.mark.usefixtures("small_segments")
def test_another_file_does_not_finish_a_store(
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_sentence: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    documents, others = tmp_path / "d.txt", tmp_path / "e.txt"
    documents.write_text("\n".join(texts(30)))
    others.write_text("\n".join(texts(5, seed=1)))
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert encode(encoder, documents, tmp_path / "store") == 2
    one_sentence("stopped")
    store = Store.open(tmp_path / "store")
    assert not store.complete and 0 < len(store) < 30
    before = (tmp_path / "store/store.json").read_bytes()
    assert encode(encoder, others, tmp_path / "store") == 2
    one_sentence("is unfinished", "e.txt does not begin with", "--append")
    assert (tmp_path / "store/store.json").read_bytes() == before
    assert encode(encoder, others, tmp_path / "store", "--append") == 0
    ids = list(Store.open(tmp_path / "store").ids)
    assert ids == [str(number) for number in range(1, len(store) + 6)]
    assert "documents encoded: 5" in capsys.readouterr().err


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


@pytest.mark.usefixtures("small_segments")
def test_standard_input_goes_on_too(
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_sentence: Callable[..., None],
) -> None:
    every = texts(30)
    documents, store = tmp_path / "d.txt", tmp_path / "store"
    documents.write_text("\n".join(every))
    assert encode(encoder, documents, tmp_path / "undisturbed", "--quiet") == 0

    def pipe(lines: list[str]) -> None:
        stdin = SimpleNamespace(buffer=Pipe("\n".join(lines).encode()))
        monkeypatch.setattr(sys, "stdin", stdin)

    pipe(every)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert encode(encoder, "-", store) == 2
    one_sentence("stopped")
    pipe(every)
    assert encode(encoder, "-", store, "--quiet") == 0
    assert bytes_of(store) == bytes_of(tmp_path / "undisturbed")
    pipe(["another"])
    assert encode(encoder, "-", store) == 2
    one_sentence("- does not begin with the 30 lines added last", "--append")
    pipe(["another"])
    assert encode(encoder, "-", store, "--append", "--quiet") == 0
    assert Store.open(store).ids[-1] == "31"
    pipe(["another"])
    assert encode(encoder, "-", tmp_path / "new", "--format", "4bit") == 2
    one_sentence("trained on documents", "- cannot be read twice")


def test_refusals(
    encoder: Path, model: Path, documents: Path, tmp_path: Path, one_sentence: Callable[..., None]
) -> None:
    store, empty = tmp_path / "store", tmp_path / "empty.txt"
    empty.write_text("\n \n")
    other = tmp_path / "other"
    shutil.copytree(encoder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-6}))
    assert encode(encoder, empty, tmp_path / "nothing") == 2
    one_sentence("empty.txt holds no document")
    assert not (tmp_path / "nothing").exists()
    assert encode(encoder, documents, tmp_path / "nothing", "--quiet") == 0
    assert encode(encoder, documents, store, "--quiet") == 0
    for arguments, words in (
        ((model, documents, store), ("holds a cross-encoder",)),
        ((other, documents, store), (f"encoded by {encoder}", "is another model")),
        ((encoder, documents, store, "--format", "4bit"), ("of format int8", "--format is 4bit")),
        ((encoder, documents, store, "--centroids", 4), ("--centroids is for",)),
        ((encoder, tmp_path / "no.txt", store), ("no.txt", "No such file")),
        ((encoder, documents, tmp_path / "a" / "b"), ("cannot be written", "No such file")),
        ((encoder, documents, encoder), ("is no store", "name a folder")),
    ):
        before = bytes_of(store)
        assert encode(*arguments) == 2
        one_sentence(*words)
        assert bytes_of(store) == before
    with Appender(store):
        assert encode(encoder, documents, store) == 2
        one_sentence("is being written by another process")


def test_few_documents_are_enough_for_a_codec(
    encoder: Path, documents: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--format", "2bit", "--centroids", "64", "--quiet"]
    assert encode(encoder, documents, tmp_path / "store", *options) == 0
    assert capfd.readouterr() == ("", "")
    codec = Store.open(tmp_path / "store").embeddings.codec
    assert codec is not None and len(codec.centroids) == 8
