"""What a job makes of columns, whatever types they have and whatever they hold."""

import io
import json
import os
import threading
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from packrank import InputError, Job, Reranker
from packrank.commands.cli import main

TEXTS = ["fox", "owl red", "blue", "owl", "red red", "fox owl", "blue fox", "red"]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def one(reranker: Reranker, query: str, document: str) -> float:
    found: float = reranker.score([(query, document)])[0].item()
    return found


def test_a_column_that_is_not_scored_may_be_damaged(reranker: Reranker, tmp_path: Path) -> None:
    """Then its rows are errors, and no other row gets their scores."""
    lists = [[TEXTS[n], TEXTS[n + 1]] for n in range(6)]
    table = {"query": ["red"] * 6, "documents": lists, "other": [f"{n}" * 40 for n in range(6)]}
    path, out = tmp_path / "in.parquet", tmp_path / "o.jsonl"
    options = {"use_dictionary": False, "compression": "NONE"}
    pq.write_table(pa.table(table), path, row_group_size=2, **options)
    column = pq.read_metadata(path).row_group(1).column(2)
    raw = bytearray(path.read_bytes())
    raw[column.data_page_offset : column.data_page_offset + 12] = b"\xff" * 12
    path.write_bytes(raw)
    summary = Job(reranker, path, out).run()
    assert summary.failed == {"unreadable": 2}
    found = rows_of(out)
    for n in (0, 1, 4, 5):
        assert found[n]["scores"] == [one(reranker, "red", text) for text in lists[n]]
    assert all("row group 1" in row["error"] for row in found[2:4])


def test_columns_that_python_has_no_type_for(reranker: Reranker, tmp_path: Path) -> None:
    table = pa.table(
        {
            "query": ["red"] * 2,
            "document": ["fox", "owl"],
            "at": pa.array([1, 1001], pa.timestamp("ns")),
            "far": pa.array([2**45, 0], pa.timestamp("s")),
            "number": [float("nan"), 1.0],
        }
    )
    source, out = tmp_path / "in.parquet", tmp_path / "o.parquet"
    pq.write_table(table, source)
    assert not Job(reranker, source, out).run().failed
    found = pq.read_table(out)
    assert found["at"].cast(pa.int64()).to_pylist() == [1, 1001]
    assert found["document"].to_pylist() == ["fox", "owl"] and found["error"].null_count == 2
    assert not Job(reranker, source, tmp_path / "o.jsonl").run().failed
    assert rows_of(tmp_path / "o.jsonl")[0]["number"] is None


def test_what_json_has_no_type_for_is_text(reranker: Reranker, tmp_path: Path) -> None:
    source, out = tmp_path / "in.parquet", tmp_path / "o.jsonl"
    odd = {"price": [Decimal("1.50")], "took": [timedelta(hours=25)], "raw": [b"x"]}
    pq.write_table(pa.table({"query": ["red"], "document": ["fox"], **odd}), source)
    Job(reranker, source, out).run()
    [row] = rows_of(out)
    assert row["price"] == "1.50" and row["took"] == "1 day, 1:00:00" and row["raw"] == "eA=="


def test_a_field_of_few_rows_may_be_kept(reranker: Reranker, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"query": "red", "document": text} for text in TEXTS]
    rows[2]["note"] = "kept"
    out = tmp_path / "o.jsonl"
    Job(reranker, lines(tmp_path / "in.jsonl", rows), out, columns=["note"]).run()
    assert [row.get("note") for row in rows_of(out)] == [None] * 2 + ["kept"] + [None] * 5


def test_types_of_a_table_from_a_pipe_stay(model: Path, tmp_path: Path) -> None:
    table = pa.table({"query": ["red"], "document": ["fox"], "n": pa.array([1], pa.int8())})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    pipe, out = tmp_path / "pipe", tmp_path / "o.parquet"
    os.mkfifo(pipe)
    thread = threading.Thread(target=lambda: pipe.write_bytes(sink.getvalue()))
    thread.start()
    assert main(["score", str(model), str(pipe), "--output", str(out), "--quiet"]) == 0
    thread.join()
    assert pq.read_table(out).schema.field("n").type == pa.int8()


def test_what_an_earlier_run_left_out_counts_in_the_next(
    reranker: Reranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a part that is there already."""
    monkeypatch.setattr("packrank.jobs.parts._ROWS", 3)
    monkeypatch.setattr("packrank.jobs.results._ROWS_SEEN", 1)
    rows = [{"query": "red", "document": text, "n": 1} for text in TEXTS]
    rows[1]["n"] = "one"
    source, out = lines(tmp_path / "in.jsonl", rows), tmp_path / "o"
    again = Job(reranker, source, f"{out}/", output_format="parquet")

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("packrank.jobs.journal.Journal.finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            again.run()
    assert len(list(out.glob("part-*"))) == 3
    assert again.run().num_unfit == 1


def test_what_python_cannot_hold_ends_nothing(reranker: Reranker, tmp_path: Path) -> None:
    """Nanoseconds, and a time zone that nobody knows."""
    odd = {
        "took": pa.array([1, 2001], pa.duration("ns")),
        "at": pa.array([1, 2], pa.timestamp("us", "Mars/Phobos")),
        "nested": pa.array([[{"took": 1}], None], pa.list_(pa.struct({"took": pa.duration("ns")}))),
    }
    source, out = tmp_path / "in.parquet", tmp_path / "o.parquet"
    pq.write_table(pa.table({"query": ["red"] * 2, "document": ["fox", "owl"], **odd}), source)
    for path in (out, tmp_path / "o.jsonl"):
        assert not Job(reranker, source, path).run().failed
    assert pq.read_table(out).select(list(odd)).equals(pa.table(odd))
    first, _ = rows_of(tmp_path / "o.jsonl")
    assert (first["took"], first["at"], first["nested"]) == ("1", "1", [{"took": "1"}])


def test_an_element_that_is_no_utf8_fails_alone(reranker: Reranker, tmp_path: Path) -> None:
    texts = pa.array([b"fox", b"\xff", b"owl"]).view(pa.string())
    documents = pa.ListArray.from_arrays(pa.array([0, 3], pa.int32()), texts)
    source, out = tmp_path / "in.parquet", tmp_path / "o.jsonl"
    pq.write_table(pa.table({"query": ["red"], "documents": documents}), source)
    Job(reranker, source, out).run()
    [row] = rows_of(out)
    assert row["scores"] == [one(reranker, "red", "fox"), None, one(reranker, "red", "owl")]
    assert row["error"].startswith("documents 2: ")


def test_what_parquet_cannot_hold_is_a_sentence(reranker: Reranker, tmp_path: Path) -> None:
    source = tmp_path / "in.arrow"
    odd = pa.array([2**62], pa.timestamp("s"))
    table = pa.table({"query": ["red"], "document": ["fox"], "at": odd})
    with pa.ipc.new_file(str(source), table.schema) as sink:
        sink.write_table(table)
    with pytest.raises(InputError, match="none of Parquet's: Integer overflow"):
        Job(reranker, source, tmp_path / "o.parquet").run()
