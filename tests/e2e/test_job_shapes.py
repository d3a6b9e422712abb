"""`packrank score`: every shape of rows, what comes out of each, and every kind of error."""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from packrank import Reranker
from packrank.commands.cli import main

QUERIES = {"q1": "red fox", "q2": "blue owl"}
DOCUMENTS = {f"d{n}": text for n, text in enumerate(["fox", "owl red", "blue", "owl", "red red"])}
PAIRS = [(q, d) for q in QUERIES for d in DOCUMENTS]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A folder as BEIR has them."""
    folder = tmp_path / "beir"
    folder.mkdir()
    lines(folder / "queries.jsonl", [{"_id": id, "text": text} for id, text in QUERIES.items()])
    corpus = [{"_id": id, "title": "", "text": text} for id, text in DOCUMENTS.items()]
    lines(folder / "corpus.jsonl", corpus)
    return folder


@pytest.fixture
def scores(model: Path) -> dict[tuple[str, str], float]:
    found = Reranker(model).score([(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS])
    return dict(zip(PAIRS, found.tolist(), strict=True))


def score(model: Path, *arguments: object) -> int:
    return main(["score", str(model), *map(str, arguments), "--quiet"])


def tables(beir: Path) -> list[object]:
    return ["--queries", beir, "--documents", beir]


def test_pairs_by_ids(
    model: Path, tmp_path: Path, beir: Path, scores: dict[tuple[str, str], float]
) -> None:
    """With types of columns that only a table has, and the columns that are wanted."""
    day = datetime.date(2026, 1, 2)
    table = pa.table(
        {
            "query_id": [q for q, _ in PAIRS],
            "document_id": pa.array([d for _, d in PAIRS]).dictionary_encode(),
            "day": [day] * 10,
            "raw": [b"\xff"] * 10,
            "notes": [[{"a": n}] for n in range(10)],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=3)
    asked = [tmp_path / "in.parquet", *tables(beir), "--output"]
    assert score(model, *asked, f"{tmp_path / 'o'}/", "--output-format", "parquet") == 0
    found = pq.read_table(tmp_path / "o")
    assert found.column_names == [*table.column_names, "score", "error"]
    assert found.drop_columns(["score", "error"]).to_pylist() == table.to_pylist()
    assert found.schema.field("day").type == pa.date32()
    assert found.schema.field("score").type == pa.float32()
    assert found["score"].to_pylist() == [scores[pair] for pair in PAIRS]
    assert found["error"].null_count == 10
    assert score(model, *asked, tmp_path / "o.jsonl") == 0
    first = rows_of(tmp_path / "o.jsonl")[0]
    assert first["day"] == "2026-01-02" and first["raw"] == "/w==" and first["notes"] == [{"a": 0}]
    assert score(model, *asked, tmp_path / "p.jsonl", "--columns", "document_id") == 0
    assert rows_of(tmp_path / "p.jsonl")[0] == {"document_id": "d0", "score": scores["q1", "d0"]}


def test_lists_by_ids_and_by_texts(
    model: Path, tmp_path: Path, beir: Path, scores: dict[tuple[str, str], float]
) -> None:
    """The first as PyLate's distillation sets are, whose own scores are replaced."""
    ids = [["d0", "d1", "d4"], [], ["d2"]]
    table = {"query_id": ["q1", "q1", "q2"], "document_ids": ids, "scores": [[1.0, 2, 3], [], [4]]}
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    want = [[scores[q, d] for d in of] for q, of in zip(table["query_id"], ids, strict=True)]
    out = tmp_path / "o.parquet"
    assert score(model, tmp_path / "in.parquet", *tables(beir), "--output", out) == 0
    found = pq.read_table(out)
    assert found["scores"].to_pylist() == want
    assert found.schema.field("scores").type == pa.list_(pa.float32())
    texts = [
        {"query": QUERIES[q], "documents": [DOCUMENTS[d] for d in of], "ids": of}
        for q, of in zip(table["query_id"], ids, strict=True)
    ]
    source, out = lines(tmp_path / "in.jsonl", texts), tmp_path / "o.jsonl"
    assert score(model, source, "--output", out) == 0
    assert [row["scores"] for row in rows_of(out)] == want
    assert score(model, source, "--output", out, "--top-k", "2") == 0
    best = np.argsort(np.negative(want[0]), kind="stable")[:2]
    assert rows_of(out)[0]["scores"] == [want[0][n] for n in best]
    assert rows_of(out)[0]["documents"] == [texts[0]["documents"][n] for n in best]


def test_a_run_comes_back_as_a_run(
    model: Path, tmp_path: Path, beir: Path, scores: dict[tuple[str, str], float]
) -> None:
    """Queries that stand in pieces too; and a list is one as well."""
    run = tmp_path / "bm25.trec"
    order = np.random.default_rng(0).permutation(10)
    run.write_text("".join(f"{PAIRS[n][0]} Q0 {PAIRS[n][1]} 1 0.5 bm25\n" for n in order))
    out = tmp_path / "o.trec"
    assert score(model, run, *tables(beir), "--output", out, "--top-k", 3, "--tag", "mine") == 0
    found = [line.split() for line in out.read_text().splitlines()]
    assert {row[0] for row in found} == {"q1", "q2"} and {row[5] for row in found} == {"mine"}
    for query in QUERIES:
        best = sorted((-scores[query, d], n) for n, d in enumerate(DOCUMENTS))[:3]
        mine = [(float(row[4]), int(row[3])) for row in found if row[0] == query]
        assert mine == [(-value, rank) for rank, (value, _) in enumerate(best, start=1)]
    lists = [{"query_id": q, "document_ids": [*DOCUMENTS]} for q in QUERIES]
    source, again = lines(tmp_path / "l.jsonl", lists), tmp_path / "l.trec"
    asked = [source, *tables(beir), "--output", again, "--tag", "mine"]
    assert score(model, *asked, "--top-k", 3) == 0
    assert sorted(again.read_text().splitlines()) == sorted(out.read_text().splitlines())
    lines(source, [{"query_id": q, "document_ids": [*DOCUMENTS, "d0"]} for q in QUERIES])
    assert score(model, *asked) == 0  # a run has a document once, its best
    assert len(again.read_text().splitlines()) == 10


def test_training_lines_gain_two_lists(
    model: Path, tmp_path: Path, scores: dict[tuple[str, str], float]
) -> None:
    row = {"query": "red fox", "pos": ["fox"], "neg": ["blue", "owl"], "prompt": "kept"}
    source, out = lines(tmp_path / "in.jsonl", [row]), tmp_path / "o.jsonl"
    assert score(model, source, "--output", out) == 0
    gained = {
        "pos_scores": [scores["q1", "d0"]],
        "neg_scores": [scores["q1", "d2"], scores["q1", "d3"]],
    }
    assert rows_of(out) == [{**row, **gained}]


def test_columns_of_other_names(
    model: Path, tmp_path: Path, scores: dict[tuple[str, str], float]
) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "o.jsonl"
    source.write_text("frage,text,score\nred fox,blue,0.1\n")
    columns = ["--query-column", "frage", "--document-column", "text", "--score-column", "new"]
    assert score(model, source, "--output", out, *columns) == 0
    [row] = rows_of(out)
    assert row == {"frage": "red fox", "text": "blue", "score": "0.1", "new": scores["q1", "d2"]}


def test_every_kind_of_error_has_its_row_and_the_rest_is_scored(
    model: Path,
    tmp_path: Path,
    beir: Path,
    scores: dict[tuple[str, str], float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open(beir / "corpus.jsonl", "a") as corpus:
        more = [{"_id": "two", "text": "a"}, {"_id": "two", "text": "b"}]
        more += [{"_id": "same", "text": "fox"}] * 2 + [{"_id": "blank", "text": " "}]
        more += [{"_id": "long", "text": "fox " * 50}, {"_id": "null", "text": None}, {"text": "x"}]
        corpus.write("".join(json.dumps(row) + "\n" for row in more))
    ids: list[Any] = ["d0", "two", "same", "blank", "long", "null", "none", None, "d0"]
    kinds = [None, "ambiguous id", None, "empty text", "too long", "no text", "unknown id"]
    kinds += ["no id", "unreadable"]
    path = tmp_path / "in.parquet"
    queries = ["q1"] * len(ids)
    table = pa.table({"query_id": queries, "document_id": ids})
    pq.write_table(table, path, row_group_size=8, use_dictionary=False, compression="NONE")
    column = pq.read_metadata(path).row_group(1).column(1)
    raw = bytearray(path.read_bytes())
    raw[column.data_page_offset : column.data_page_offset + 12] = b"\xff" * 12
    path.write_bytes(raw)
    out = tmp_path / "o.jsonl"
    asked = [path, *tables(beir), "--output", out, "--truncation", "off"]
    assert main(["score", str(model), *map(str, asked)]) == 1
    found = rows_of(out)
    assert [row["score"] is None for row in found] == [kind is not None for kind in kinds]
    assert [("error" in row) for row in found] == [kind is not None for kind in kinds]
    assert found[0]["score"] == found[2]["score"] == scores["q1", "d0"]
    said = capsys.readouterr().err.splitlines()
    assert any("corpus.jsonl, line 13 was not scored" in line for line in said)
    for kind in filter(None, kinds):
        assert f"{kind} 1" in said[-1]
    assert score(model, *asked, "--strict") == 2
    assert "row 2: " in capsys.readouterr().err.splitlines()[-1]


def test_hard_negatives_of_every_shape_are_the_same(
    model: Path, tmp_path: Path, beir: Path, scores: dict[tuple[str, str], float]
) -> None:
    """Positives by a label, by a list and in training lines; texts of ids."""
    positive = {"q1": "d4", "q2": "d2"}
    texts = {q: [DOCUMENTS[d] for d in DOCUMENTS if d != positive[q]] for q in QUERIES}
    pairs = [{"query_id": q, "document_id": d, "label": int(positive[q] == d)} for q, d in PAIRS]
    lists = [
        {"query_id": q, "document_ids": [*DOCUMENTS], "positive_ids": [positive[q]]}
        for q in QUERIES
    ]
    training = [
        {"query": QUERIES[q], "pos": [DOCUMENTS[positive[q]]], "neg": texts[q]} for q in QUERIES
    ]
    gap = 1e-4
    want = []
    for q in QUERIES:
        highest = scores[q, positive[q]] - gap
        behind = [d for d in DOCUMENTS if d != positive[q] and scores[q, d] <= highest]
        for d in sorted(behind, key=lambda d: -scores[q, d])[:2]:
            want.append((QUERIES[q], DOCUMENTS[positive[q]], DOCUMENTS[d]))
    assert want
    options = ["--negatives", 2, "--margin", gap]
    for name, rows, more in (
        ("pairs", pairs, tables(beir)),
        ("lists", lists, tables(beir)),
        ("training", training, []),
    ):
        source, out = lines(tmp_path / f"{name}.jsonl", rows), tmp_path / f"{name}.parquet"
        status = score(model, source, *more, "--output", out, *options)
        found = [tuple(row.values()) for row in pq.read_table(out).to_pylist()]
        assert found == want, name
        assert status == (len({query for query, *_ in want}) < 2)
    forms = {
        "n-tuple": ["anchor", "positive", "negative_1", "negative_2"],
        "labeled-pair": ["anchor", "positive", "label"],
        "labeled-list": ["anchor", "positive", "labels"],
        "n-tuple-scores": ["anchor", "positive", "negative_1", "negative_2", "scores"],
    }
    for form, columns in forms.items():
        out = tmp_path / f"{form}.parquet"
        score(model, source, "--output", out, "--negatives", 2, "--negatives-form", form)
        assert pq.read_table(out).column_names == columns
        assert pq.read_table(out).num_rows


def test_hard_negatives_need_positives(
    model: Path, tmp_path: Path, beir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = lines(tmp_path / "in.jsonl", [{"query": "red", "document": "fox"}]), "-"
    assert score(model, source, "--output", out, "--negatives", 1) == 2
    assert "name it by --positive-column" in capsys.readouterr().err
    assert score(model, source, "--output", out, "--margin", "0.1") == 2
    assert "give --negatives" in capsys.readouterr().err
    lines(source, [{"query": "red", "document": "fox", "label": 0}])
    assert score(model, source, "--output", out, "--negatives", 1) == 1
    assert "none of its positives has a score" in capsys.readouterr().err
