"""Lengths on the command line, and what is said of texts that were cut."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packrank import Store
from packrank.commands.cli import main

WORDS = "the sea red fox"


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
def documents(tmp_path: Path) -> Path:
    """Of 1, 3 and 7 tokens, the last of them twice."""
    path = tmp_path / "documents.txt"
    path.write_text("\n".join(["sea", "the red fox", *["the red fox " + "sea " * 4] * 2]))
    return path


def run(*arguments: object) -> int:
    return main([*map(str, arguments), "--device", "cpu"])


def test_encode_counts_what_it_cuts(
    encoder: Path, documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    options = ("--document-length", 5)
    assert run("encode", encoder, documents, store, *options, "--format", "2bit") == 0
    assert "documents cut to 5 tokens: 2\n" in capsys.readouterr().err
    assert Store.open(store).embeddings.cu_seqlens.tolist() == [0, 3, 8, 13, 18]
    assert run("encode", encoder, documents, store) == 2
    message = "with document_length 5, and this model cuts documents to 40 tokens"
    assert message in capsys.readouterr().err
    asked = ("rank", encoder, "--query", "red sea fox", "--store", store, "--json")
    assert run(*asked, *options, "--query-length", 4) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 4
    assert said.err == "packrank: queries cut to 4 tokens: 1\n"
    assert run("encode", encoder, documents, tmp_path / "whole") == 0
    assert "cut" not in capsys.readouterr().err


def test_rank_score_and_explain_say_what_they_cut(
    encoder: Path, documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = ("--query-length", 4, "--document-length", 5)
    assert run("rank", encoder, "--query", "sea sea sea", "--documents", documents, *lengths) == 0
    cut = "packrank: queries cut to 4 tokens: 1\npackrank: documents cut to 5 tokens: 2\n"
    assert capsys.readouterr().err == cut
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"query": "sea", "document": "red " * 9}) + "\n")
    assert run("score", encoder, pairs, "--output", tmp_path / "scores.jsonl", *lengths) == 0
    assert "packrank: documents cut to 5 tokens: 1\n" in capsys.readouterr().err
    texts = ("--query", "sea", "--document", "red " * 9)
    assert run("explain", encoder, *texts, *lengths, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["query_cut"], said["document_cut"]) == (0, 6)
    assert run("explain", encoder, *texts, *lengths) == 0
    assert "; 6 tokens of the document were left out\n" in capsys.readouterr().out


def test_quiet_says_nothing_of_what_is_cut(
    encoder: Path, documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = ("--document-length", 5, "--quiet")
    store, out, pairs = tmp_path / "store", tmp_path / "out", tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"query": "sea " * 9, "document": "red " * 9}) + "\n")
    queries = tmp_path / "queries.jsonl"
    queries.write_text(json.dumps({"id": 1, "text": "sea " * 9}) + "\n")
    assert run("encode", encoder, documents, store, *cut) == 0
    for words in (
        ("score", encoder, pairs, "--query-length", 4),
        ("rank", encoder, "--query", "sea " * 9, "--documents", documents, "--query-length", 4),
        ("rank", encoder, "--query", "sea " * 9, "--store", store, "--query-length", 4),
        ("rank", encoder, "--queries", queries, "--documents", documents, "--query-length", 4),
    ):
        assert run(*words, "--output", out, *cut) == 0
    assert capsys.readouterr().err == ""


def test_cut_texts_are_counted_once_for_many_queries(
    encoder: Path, documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries, out = tmp_path / "queries.jsonl", tmp_path / "out"
    rows = [{"id": n, "text": "sea " * (n + 3)} for n in range(5)]
    queries.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lengths = ("--query-length", 4, "--document-length", 5)
    asked = ("--queries", queries, "--documents", documents, "--output", out)
    assert run("rank", encoder, *asked, *lengths) == 0
    cut = "packrank: queries cut to 4 tokens: 5\npackrank: documents cut to 5 tokens: 2\n"
    assert capsys.readouterr().err == cut


def test_lengths_that_cannot_be(
    encoder: Path,
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    documents: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reranker = shutil.copytree(checkpoint("Bert"), tmp_path / "reranker")
    save_tokenizer(reranker, WORDS)
    asked = ("--query", "sea", "--documents", documents)
    for model, option, message in (
        (encoder, "41", "document_length is 41, and the model takes 40 tokens"),
        (encoder, "2", "document_length is 2, but 2 tokens are special ones"),
        (reranker, "9", "--document-length is for late interaction, and"),
    ):
        assert run("rank", model, *asked, "--document-length", option) == 2
        assert message in capsys.readouterr().err


def test_an_index_of_another_checkpoint_is_said(
    encoder: Path,
    documents: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = tmp_path / "store"
    assert run("encode", encoder, documents, store, "--quiet") == 0
    opened = Store.open(store)
    opened.model = {"name": "colbert-ir/colbertv2.0"}
    monkeypatch.setattr("packrank.late_interaction.Store.open", lambda path: opened)
    assert run("rank", encoder, "--query", "sea", "--store", store) == 0
    found = capsys.readouterr().err
    assert found.startswith(f"packrank: {store} names colbert-ir/colbertv2.0 as its model, and")
