"""packrank rank --queries: what is ranked for each of many queries is what Python ranks for it."""

import gzip
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packrank import InputError, LateInteraction, Reranker
from packrank.commands.cli import main

OneSentence = Callable[..., None]
QUERIES = {"q1": "red owl", "q2": "blue", "q3": "fox by fox"}
DOCUMENTS = {"d1": "red fox", "d2": "blue owl", "d3": "owl owl fox", "d4": "red"}
SIZES = {"q1": 3, "q2": 1, "q3": 4}  # candidates of each query


@pytest.fixture
def encoder(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> Path:
    folder = tmp_path / "encoder"
    shutil.copytree(checkpoint("Bert", "Model"), folder)
    save_tokenizer(folder, "red blue fox owl")
    return folder


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Paths of queries, documents and, in no order, candidates."""
    candidates = [
        {"query": query, "id": id, "text": text}
        for place, (id, text) in enumerate(DOCUMENTS.items())
        for query, size in reversed(SIZES.items())
        if place < size
    ]
    return {
        "queries": write(tmp_path / "queries.jsonl", of(QUERIES)),
        "documents": write(tmp_path / "documents.jsonl", of(DOCUMENTS)),
        "candidates": write(tmp_path / "candidates.jsonl", candidates),
    }


def of(texts: dict[str, str]) -> list[dict[str, Any]]:
    return [{"_id": id, "text": text} for id, text in texts.items()]


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def rank(model: Path, *options: object) -> int:
    return main(["rank", str(model), *map(str, options), "--device", "cpu", "--quiet"])


def rows_of(text: str) -> list[tuple[str, int, str, float]]:
    rows = map(json.loads, text.splitlines())
    return [(row["query"], row["rank"], row["id"], row["score"]) for row in rows]


def expected(model: Any, sizes: dict[str, int], top_k: int | None = None) -> list[Any]:
    ids = list(DOCUMENTS)
    return [
        (query, rank, ids[found.index], found.score)
        for query, size in sizes.items()
        for rank, found in enumerate(
            model.rank(QUERIES[query], list(DOCUMENTS.values())[:size], top_k), start=1
        )
    ]


ALL = dict.fromkeys(QUERIES, len(DOCUMENTS))


@pytest.mark.parametrize("kind", ["reranker", "late"])
def test_every_query_has_the_same_documents_or_its_own(
    model: Path,
    encoder: Path,
    files: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    folder = model if kind == "reranker" else encoder
    opened = (Reranker if kind == "reranker" else LateInteraction)(folder, device="cpu")
    asked = ["--queries", files["queries"], "--output-format", "jsonl"]
    assert rank(folder, *asked, "--documents", files["documents"]) == 0
    assert rows_of(capsys.readouterr().out) == expected(opened, ALL)
    assert rank(folder, *asked, "--candidates", files["candidates"], "--top-k", 2) == 0
    assert rows_of(capsys.readouterr().out) == expected(opened, SIZES, top_k=2)


@pytest.mark.parametrize("form", ["c.json", "c.csv", "c.jsonl.gz"])
def test_candidates_of_every_format_are_read_twice(
    model: Path, files: dict[str, str], tmp_path: Path, form: str
) -> None:
    records = [json.loads(line) for line in Path(files["candidates"]).read_text().splitlines()]
    rows = ["query,id,text", *(",".join(record.values()) for record in records)]
    content = {
        "c.json": json.dumps(records).encode(),
        "c.csv": "\n".join(rows).encode(),
        "c.jsonl.gz": gzip.compress(Path(files["candidates"]).read_bytes()),
    }
    (tmp_path / form).write_bytes(content[form])
    out = tmp_path / "out"
    asked = ["--queries", files["queries"], "--candidates", tmp_path / form, "--output", out]
    assert rank(model, *asked, "--output-format", "jsonl") == 0
    assert rows_of(out.read_text()) == expected(Reranker(model), SIZES)


@pytest.mark.parametrize("option", ["queries", "documents", "candidates"])
def test_pipes_and_standard_input(
    model: Path,
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
) -> None:
    """Every FILE may be any of them, and standard output is where nothing else is said."""
    left_out = "documents" if option == "candidates" else "candidates"
    given = {name: path for name, path in files.items() if name != left_out}
    want = expected(Reranker(model), SIZES if option == "candidates" else ALL)
    content = Path(files[option]).read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    before = os.dup(0)
    try:
        for path in ("-", "/dev/stdin", str(pipe)):
            reading, writing = os.pipe()
            os.write(writing, content)
            os.close(writing)
            os.dup2(reading, 0)
            os.close(reading)
            writer = threading.Thread(target=lambda: pipe.write_bytes(content))
            if path == str(pipe):
                writer.start()
            with open(0, closefd=False) as stdin:
                monkeypatch.setattr(sys, "stdin", stdin)
                words = [f"--{name}={file}" for name, file in (given | {option: path}).items()]
                assert rank(model, *words, "--output", "/dev/stdout", "--json") == 0
            if path == str(pipe):
                writer.join()
            assert rows_of(capsys.readouterr().out) == want
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_a_summary_counts_all_queries(
    model: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--queries", files["queries"], "--candidates", files["candidates"], "--json"]
    assert rank(model, *asked, "--summary") == 0
    *rows, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert rows[0]["layers"] == 3
    summary = last["summary"]
    work = (
        Reranker(model)
        .rank_many(
            [(QUERIES[query], list(DOCUMENTS.values())[:size]) for query, size in SIZES.items()]
        )[0]
        .work
    )
    assert (summary["queries"], summary["documents"], summary["layers"]) == (3, 8, 24)
    assert work is not None
    assert summary["token_layers"]["total"] == work.total


def test_documents_of_a_store(
    encoder: Path,
    files: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = str(tmp_path / "store")
    assert main(["encode", str(encoder), files["documents"], store, "--quiet"]) == 0
    opened = LateInteraction(encoder, store=store)
    asked = ["--queries", files["queries"], "--store", store, "--json"]
    for options, sizes in (([], ALL), (["--candidates", files["candidates"]], SIZES)):
        assert rank(encoder, *asked, *options) == 0
        ids = list(DOCUMENTS)
        assert rows_of(capsys.readouterr().out) == [
            (query, place, found.id, found.score)
            for query, size in sizes.items()
            for place, found in enumerate(
                opened.rank(QUERIES[query], candidates=ids[:size]), start=1
            )
        ]
    some = tmp_path / "some.csv"
    some.write_text("query,id\nq2,d1\nq2,d9\nq1,d9\nq9,d1\nq2,d1\n")
    assert rank(encoder, *asked, "--candidates", some) == 1
    shown = capsys.readouterr()
    assert [row[:3] for row in rows_of(shown.out)] == [("q2", 1, "d1")]
    for words in (
        f"query 'q1', row 4 was left out: no document of {store} has the id 'd9'",
        f"query 'q3' was left out: {some} has no candidate for it",
        f"{some}, row 5 was left out: \"query\" is 'q9', which is the id of no query",
    ):
        assert words in shown.err


def test_what_is_bad_is_named_and_the_rest_is_ranked(
    model: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = tmp_path / "bad.jsonl"
    queries.write_text(
        '{"id": 1, "text": "red owl"}\n{"id": "1", "text": "x"}\n{"text": "x"}\n'
        '{"id": 4, "text": "\\ud800"}\n'
    )
    long = {"_id": "long", "text": "red " * 60}
    documents = write(tmp_path / "some.jsonl", [*of(DOCUMENTS), {"no": 1}, long])
    asked = ["--queries", queries, "--documents", documents, "--truncation", "off", "--json"]
    assert rank(model, *asked) == 1
    shown = capsys.readouterr()
    assert [row[2] for row in rows_of(shown.out)] == [
        row[2] for row in expected(Reranker(model), {"q1": 4})
    ]
    reasons = [
        (f"{queries}, line 2 was", "\"id\" is '1', as of a query before"),
        (f"{queries}, line 3 was", 'the object has no "id"'),
        (f"{queries}, line 4 was", "lone surrogate"),
        (f"{documents}, line 5 was", 'the object has no "text"'),
        (f"{documents}, line 6, for query '1', was", "more than max_length 40"),
    ]
    lines = shown.err.splitlines()
    for line, (place, reason) in zip(lines, reasons, strict=True):
        assert line.startswith(f"packrank: {place} left out: ")
        assert reason in line


def test_a_query_of_which_no_document_can_be_ranked(
    model: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates = [{"query": "q1", "text": "red"}, {"query": "q2", "text": "red " * 60}]
    path = write(tmp_path / "some.jsonl", [*candidates, {"query": "q3", "text": "fox"}])
    asked = ["--queries", files["queries"], "--candidates", path, "--truncation", "off"]
    assert rank(model, *asked, "--output-format", "trec") == 1
    shown = capsys.readouterr()
    assert [line.split()[:3] for line in shown.out.splitlines()] == [
        ["q1", "Q0", "1"],
        ["q3", "Q0", "3"],
    ]
    [line] = shown.err.splitlines()
    place = f"query 'q2' was left out: nothing can be ranked for it; {path}, line 2: "
    assert line.startswith(f"packrank: {place}")


def test_a_query_that_cannot_be_ranked_is_left_out(
    model: Path,
    files: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one of more candidates than margins hold for; whatever queries come with it."""
    original = Reranker.try_rank_many

    def refuse(self: Reranker, requests: Any, *args: Any, **options: Any) -> Any:
        if any(len(texts) > 3 for _, texts in requests):
            raise InputError("too many documents")
        return original(self, requests, *args, **options)

    monkeypatch.setattr(Reranker, "try_rank_many", refuse)
    asked = ["--queries", files["queries"], "--json"]
    assert rank(model, *asked, "--candidates", files["candidates"]) == 1
    shown = capsys.readouterr()
    some = {query: size for query, size in SIZES.items() if size <= 3}
    assert rows_of(shown.out) == expected(Reranker(model), some)
    assert shown.err == "packrank: query 'q3' was left out: too many documents\n"
    assert rank(model, *asked, "--documents", files["documents"]) == 2
    assert "nothing could be ranked; query 'q1': too many documents" in capsys.readouterr().err


def test_a_trec_run(
    model: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = tmp_path / "some.jsonl"
    mixed = [{"text": "red fox"}, {"id": "a b", "text": "blue"}, {"id": 7, "text": "owl"}]
    write(documents, [*mixed, {"id": "7", "text": "fox"}])
    out = tmp_path / "run"
    asked = ["--queries", files["queries"], "--documents", documents, "--output-format", "trec"]
    assert rank(model, *asked, "--output", out) == 1
    ranking = Reranker(model).rank("red owl", ["red fox", "owl"])
    first = [line.split(" ") for line in out.read_text().splitlines()[:2]]
    assert first == [
        ["q1", "Q0", ("1", "7")[found.index], str(place), repr(found.score), "packrank"]
        for place, found in enumerate(ranking, start=1)
    ]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "line 2 was left out: \"id\" is 'a b', and blanks divide" in shown.err
    assert "line 4 was left out: \"id\" is '7', as of line 3 before" in shown.err


def test_a_trec_run_of_a_store(
    encoder: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ids that it cannot hold take no place of the best, and are told once."""
    store = str(tmp_path / "store")
    named = dict(zip(["a b", "d2", "c d", "d4"], DOCUMENTS.values(), strict=True))
    documents = write(tmp_path / "named.jsonl", of(named))
    assert main(["encode", str(encoder), documents, store, "--quiet"]) == 0
    asked = ["--queries", files["queries"], "--store", store, "--output-format", "trec"]
    assert rank(encoder, *asked, "--top-k", 2) == 1
    shown = capsys.readouterr()
    found = [line.split()[:4] for line in shown.out.splitlines()]
    assert [(query, rank) for query, _, _, rank in found] == [
        (query, rank) for query in QUERIES for rank in "12"
    ]
    assert {id for _, _, id, _ in found} == {"d2", "d4"}
    assert sorted(shown.err.splitlines()) == [
        f"packrank: document '{id}' was left out: blanks divide the columns of a TREC run"
        for id in ("a b", "c d")
    ]
    some = tmp_path / "some.csv"
    some.write_text("query,id\nq1,d2\nq1,d2\nq1,a b\nq2,d4\nq3,d4\n")
    assert rank(encoder, *asked, "--candidates", some) == 1
    shown = capsys.readouterr()
    assert [line.split()[2] for line in shown.out.splitlines()] == ["d2", "d4", "d4"]
    [line] = shown.err.splitlines()
    assert line.startswith("packrank: query 'q1', row 4 was left out: \"id\" is 'a b', and blanks")


def test_a_table_has_a_heading_a_query(
    model: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--queries", files["queries"], "--documents", files["documents"], "--top-k", 1]
    assert rank(model, *asked) == 0
    lines = capsys.readouterr().out.splitlines()
    ((_, _, id, score), *_) = expected(Reranker(model), ALL, top_k=1)
    assert lines[:2] == ["query q1: red owl", "rank     score  id  text"]
    assert lines[2] == f"   1 {score:9.4f}  {id}  {DOCUMENTS[id]}"
    assert lines[3:5] == ["", "query q2: blue"]


def test_a_file_is_written_whole_or_not_at_all(
    model: Path, files: dict[str, str], tmp_path: Path, one_sentence: OneSentence
) -> None:
    out = tmp_path / "out"
    out.write_text("before")
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"query": "q9", "text": "x"}\n')
    asked = ["--queries", files["queries"], "--output", out, "--json"]
    assert rank(model, *asked, "--candidates", empty) == 2
    one_sentence("nothing could be ranked; query 'q1': ", "has no candidate for it")
    assert out.read_text() == "before"
    for source in ("queries", "documents"):
        given = {"--queries": files["queries"], "--documents": files["documents"]}
        words = [word for pair in given.items() for word in pair]
        assert rank(model, *words, "--output", files[source]) == 2
        one_sentence(f"{files[source]} is a file that is read")
    assert rank(model, *asked, "--documents", files["documents"]) == 0
    assert len(rows_of(out.read_text())) == 12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "nothing to rank; give --documents, --store, or --queries with --candidates"),
        (["--documents", "d", "--candidates", "c"], "leave --documents out"),
        (["--documents", "-", "--json"], "--queries and --documents cannot both come from"),
        (["--candidates", "/dev/stdin"], "--queries and --candidates cannot both come from"),
        (["--documents", "d", "--summary"], "--summary is a line of jsonl"),
        (["--documents", "d", "--exact"], "--exact is for documents of a store"),
    ],
)
def test_options_that_do_not_go_together(
    model: Path, one_sentence: OneSentence, options: list[str], words: str
) -> None:
    assert rank(model, "--queries", "-", *options) == 2
    one_sentence(words)


def test_a_run_of_one_query_has_no_id_for_it(model: Path, one_sentence: OneSentence) -> None:
    assert rank(model, "--query", "x", "--documents", "d", "--output-format", "trec") == 2
    one_sentence("a TREC run has ids of queries; give --queries")


def test_a_summary_is_of_rerankers(
    encoder: Path, files: dict[str, str], one_sentence: OneSentence
) -> None:
    asked = ["--query", "red", "--documents", files["documents"], "--json", "--summary"]
    assert rank(encoder, *asked) == 2
    one_sentence("--summary is for rerankers")
