"""What the commands make of files as they come: of every format, by every way, with every fault."""

import gzip
import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from packrank import InputError, LateInteraction, Reranker
from packrank.commands.cli import main
from packrank.stores.appender import Appender
from packrank.stores.store import Store

OneSentence = Callable[..., None]
RECORDS: list[dict[str, Any]] = [
    {"_id": f"d{n}", "title": ("red", "")[n % 2], "text": f"{color} {animal}"}
    for n, (color, animal) in enumerate(
        (color, animal) for color in ("red", "blue") for animal in ("fox", "owl", "fox owl")
    )
]
TEXTS = [f"{record['title']} {record['text']}".strip() for record in RECORDS]


def as_lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def as_table(records: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    rows = [list(records[0]), *([f'"{cell}"' for cell in record.values()] for record in records)]
    return "".join(delimiter.join(row) + "\r\n" for row in rows).encode()


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "d.jsonl": as_lines,
    "d.txt": as_lines,
    "d.json": lambda records: json.dumps(records, indent=2).encode(),
    "d.csv": as_table,
    "d.tsv": lambda records: as_table(records, "\t"),
    "d.jsonl.gz": lambda records: gzip.compress(as_lines(records), mtime=0),
    "d.csv.gz": lambda records: gzip.compress(as_table(records), mtime=0),
}


@pytest.fixture
def encoder(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> Path:
    folder = tmp_path / "encoder"
    shutil.copytree(checkpoint("Bert", "Model"), folder)
    save_tokenizer(folder, "red blue fox owl")
    return folder


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


def rank(model: Path, documents: Path | str, *options: str) -> int:
    given = ["--query", "red owl", "--documents", str(documents), *options]
    return main(["rank", str(model), *given, "--device", "cpu"])


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# Formats, titles and ids


@pytest.mark.parametrize("form", FORMS)
def test_rank_reads_titles_and_ids_of_every_format(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    content = FORMS[form](RECORDS)
    (tmp_path / form).write_bytes(content)
    expected = [
        (RECORDS[index]["_id"], text, score)
        for index, score, text in Reranker(model, device="cpu").rank("red owl", TEXTS)
    ]
    for documents in (tmp_path / form, "-"):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Pipe(content)))
        assert rank(model, documents, "--json") == 0
        rows = rows_of(capsys.readouterr().out)
        assert [(row["id"], row["text"], row["score"]) for row in rows] == expected


@pytest.mark.parametrize("form", FORMS)
def test_score_reads_pairs_of_every_format(model: Path, tmp_path: Path, form: str) -> None:
    pairs = [{"query": "red", "document": r["text"], **r} for r in RECORDS]
    (tmp_path / form).write_bytes(FORMS[form](pairs))
    out = tmp_path / "out.jsonl"
    assert main(["score", str(model), str(tmp_path / form), "--output", str(out)]) == 0
    rows = rows_of(out.read_text())
    assert [row["_id"] for row in rows] == [record["_id"] for record in RECORDS]
    expected = Reranker(model).score([("red", text) for text in TEXTS]).tolist()
    assert [row["score"] for row in rows] == expected


@pytest.mark.parametrize("form", ["d.json", "d.tsv", "d.csv.gz"])
def test_encode_goes_on_in_every_format(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Stopped, run again, grown and appended to: the bytes of one undisturbed run."""
    monkeypatch.setattr("packrank.jobs.documents._WINDOW_DOCUMENTS", 2)
    monkeypatch.setattr("packrank.stores.appender._COMMIT_SECONDS", 0.0)
    path, whole, stopped = tmp_path / form, tmp_path / "whole", tmp_path / "stopped"

    def encode(store: Path, *options: str) -> int:
        return main(["encode", str(encoder), str(path), str(store), "--device", "cpu", *options])

    def bytes_of(store: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in store.iterdir()}

    path.write_bytes(FORMS[form](RECORDS))
    assert encode(whole) == 0
    store = Store.open(whole)
    assert list(store.ids) == [record["_id"] for record in RECORDS]
    lengths = [len(x) for x in LateInteraction(encoder, device="cpu").encode_documents(TEXTS)]
    assert store.embeddings.cu_seqlens.diff().tolist() == lengths
    original, left = Appender.commit, 2

    def commit(self: Appender, *args: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise InputError("stopped")
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Appender, "commit", commit)
        assert encode(stopped) == 2
    assert 0 < len(Store.open(stopped)) < len(RECORDS)
    assert encode(stopped) == 0
    assert bytes_of(stopped) == bytes_of(whole)
    assert encode(stopped) == 0
    assert bytes_of(stopped) == bytes_of(whole)
    more = [{"_id": f"e{n}", "title": "", "text": "blue"} for n in range(3)]
    path.write_bytes(FORMS[form](RECORDS + more))
    assert encode(stopped) == 0
    path.write_bytes(FORMS[form](more[::-1]))
    assert encode(stopped) == 2
    path.write_bytes(FORMS[form]([{"title": "", "text": "owl"}]))
    assert encode(stopped, "--append") == 0
    ids = list(Store.open(stopped).ids)
    assert ids[:-1] == [record["_id"] for record in RECORDS + more]
    before = len(RECORDS) + len(more)
    # Of a table headers have numbers too.
    assert ids[-1] == str(before + 3 if "csv" in form or "tsv" in form else before + 1)


@pytest.mark.parametrize("format", ["2bit"])
@pytest.mark.parametrize("form", ["d.csv", "d.json", "d.jsonl.gz"])
def test_a_codec_is_trained_on_every_format(
    encoder: Path, tmp_path: Path, form: str, format: str
) -> None:
    stores = []
    for name in ("d.jsonl", form):
        (tmp_path / name).write_bytes(FORMS[name](RECORDS))
        store = tmp_path / f"{name}.store"
        arguments = [str(tmp_path / name), str(store), "--format", format, "--quiet"]
        assert main(["encode", str(encoder), *arguments, "--device", "cpu"]) == 0
        stores.append((store / "values.bin").stat().st_size)
    assert stores[0] == stores[1]


def test_ids_of_a_store_are_read_from_records(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "d.jsonl").write_bytes(as_lines(RECORDS))
    store = str(tmp_path / "store")
    assert main(["encode", str(encoder), str(tmp_path / "d.jsonl"), store, "--quiet"]) == 0
    for form in FORMS:
        (tmp_path / form).write_bytes(FORMS[form](RECORDS[1:3]))
        candidates = ["--store", store, "--candidates", str(tmp_path / form), "--json"]
        assert main(["rank", str(encoder), "--query", "red", *candidates]) == 0
        assert {row["id"] for row in rows_of(capsys.readouterr().out)} == {"d1", "d2"}


# A file that is wholly wrong: one sentence, status 2, and nothing is left behind


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.jsonl", b'{"passage": "fox", "document": "x"}\n' * 30, ["line 1", 'no "text"']),
        ("d.json", b'[{"passage": "fox", "document": "x"}]', ["element 1", 'no "text"']),
        ("d.csv", b"passage,document\nfox,x\n", ["no column 'text'"]),
        ("d.parquet", b"PAR1\x15\x04" + bytes(40), ["Parquet", "damaged or cut off"]),
        ("d.txt", "fox\n".encode("utf-16"), ["UTF-16"]),
        ("d.gz", gzip.compress(b"fox\n" * 99, mtime=0)[:-9], ["damaged or cut off"]),
        ("d.json", b'[{"text": "fox", "query": "q", "document": "x"}, {"te', ["was cut off"]),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(
    model: Path,
    encoder: Path,
    tmp_path: Path,
    one_sentence: OneSentence,
    name: str,
    content: bytes,
    words: list[str],
) -> None:
    path, store, out = tmp_path / name, tmp_path / "store", tmp_path / "out.jsonl"
    path.write_bytes(content)
    assert rank(model, path) == 2
    one_sentence(str(path), *words)
    assert main(["encode", str(encoder), str(path), str(store), "--quiet"]) == 2
    one_sentence(str(path), *words)
    assert not (store / "store.json").exists() or not Store.open(store).complete
    # What is cut off on the way is an error in its place, and what comes before is scored.
    is_scored = words == ["was cut off"]
    assert main(["score", str(model), str(path), "--output", str(out), "--quiet"]) == 2 - is_scored
    if not is_scored:
        one_sentence(str(path))
    assert out.exists() == is_scored
    (tmp_path / "good").write_text('{"text": "fox"}\n')
    options = [str(store), "--append", "--quiet"]
    assert main(["encode", str(encoder), str(tmp_path / "good"), *options]) == 0


def test_pairs_are_not_scored_over_standard_input(
    model: Path, tmp_path: Path, one_sentence: OneSentence, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "red", "document": "fox"}\n')
    with pairs.open() as source:
        monkeypatch.setattr(sys, "stdin", source)
        assert main(["score", str(model), "-", "--output", str(pairs)]) == 2
    one_sentence("is a file that is read")
    assert pairs.read_text().startswith('{"query"')


def test_pipes_are_read_and_standard_output_is_written(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = b'{"query": "red", "document": "fox"}\n'
    for output in ("-", "/dev/stdout"):
        writer = threading.Thread(target=lambda: pipe.write_bytes(content))
        writer.start()
        assert main(["score", str(model), str(pipe), "--output", output]) == 0
        writer.join()
        captured = capsys.readouterr()
        assert [row["document"] for row in rows_of(captured.out)] == ["fox"]
        stream, summary = captured.err.splitlines()
        assert "begins anew" in stream and summary.startswith("pairs scored: 1")


# Texts from Python


class Frame:
    """As pandas, polars and datasets have tables: to go through one yields names of columns."""

    def __init__(self, names: str) -> None:
        setattr(self, names, ["text", "url"])

    def __iter__(self) -> Any:
        return iter(["text", "url"])


@pytest.mark.parametrize(
    "documents",
    [
        Frame("columns"),
        Frame("column_names"),
        {"text": "fox"},
        frozenset(["fox"]),
        b"fox",
        bytearray(b"fox"),
        np.array("fox"),
        3,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_sequence_of_texts(model: Path, encoder: Path, documents: Any) -> None:
    reranker, late = Reranker(model), LateInteraction(encoder)
    for call in (
        lambda: reranker.rank("red", documents),
        lambda: reranker.rank_many([("red", documents)]),
        lambda: reranker.score(documents),
        lambda: late.rank("red", documents),
        lambda: late.encode_documents(documents),
    ):
        with pytest.raises(InputError, match="expected a "):
            call()


def test_what_is_a_sequence_of_texts(model: Path) -> None:
    reranker, texts = Reranker(model), ["fox", "owl"]
    expected = reranker.rank("red", texts)
    for documents in (np.array(texts), np.array(texts, object), iter(texts), dict.fromkeys(texts)):
        given = documents.keys() if isinstance(documents, dict) else documents
        assert reranker.rank("red", given) == expected
