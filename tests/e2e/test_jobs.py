"""A job: it goes on, names what has changed, and refuses what it cannot do."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from packrank import InputError, Job, JobError, Reranker
from packrank.jobs.settings import Silent
from packrank.stores import disk

QUERIES = {"q1": "red fox", "q2": "blue owl"}
DOCUMENTS = {f"d{n}": text for n, text in enumerate(["fox", "owl red", "blue", "owl", "red red"])}


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def job(model: Path, tmp_path: Path) -> Callable[..., Job]:
    """A job on pairs, stopped after the first batch if asked."""
    reranker = Reranker(model, device="cpu")

    def make(**changes: Any) -> Job:
        given = {"model": reranker, "input": tmp_path / "in.jsonl", "output": tmp_path / "o.jsonl"}
        return Job(**{**given, **changes})

    rows = [{"query": q, "document": d} for q in QUERIES.values() for d in DOCUMENTS.values()]
    lines(tmp_path / "in.jsonl", rows)
    return make


def stopped(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a job until some rows are safe."""

    class Stop(Exception):
        pass

    class Watch(Silent):
        def advance(self, summary: Any, rows: int) -> None:
            if summary.rows >= 4:
                raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("packrank.jobs.score._FIRST_BATCH_PAIRS", 2)
        patch.setattr("packrank.jobs.score._BATCH_PAIRS", 2)
        with pytest.raises(Stop):
            job.run(Watch())


def test_a_job_goes_on_from_python(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = job(output=tmp_path / "whole.jsonl").run()
    assert (whole.rows, whole.before, whole.pairs, whole.failed) == (10, 0, 10, {})
    stopped(job(), monkeypatch)
    assert (tmp_path / "o.jsonl.job").is_dir() and not (tmp_path / "o.jsonl").exists()
    rest = job().run()
    assert (rest.rows, rest.before, rest.pairs) == (10, 4, 6)
    assert (tmp_path / "o.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "o.jsonl.job").exists()


def test_what_has_changed_is_named(
    job: Callable[..., Job], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(job(), monkeypatch)
    content = (tmp_path / "in.jsonl").read_text()
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (other / "config.json").write_text((model / "config.json").read_text() + " ")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"model": Reranker(model, device="cpu", dtype="bfloat16")}, ": dtype was"),
        ({"model": Reranker(model, device="cpu", max_length=20)}, ": max_length was"),
        ({"model": Reranker(other, device="cpu")}, ": model was"),
        ({"query_column": "document", "document_column": "query"}, ": shape was"),
    ]
    for changes, words in refused:
        with pytest.raises(JobError, match=words):
            job(**changes).run()
    for changed, words in (
        (content.replace("owl red", "owl"), "does not begin with the 4 rows"),
        ("".join(content.splitlines(True)[:3]), "has fewer rows than the 4"),
    ):
        (tmp_path / "in.jsonl").write_text(changed)
        with pytest.raises(JobError, match=words):
            job().run()
    (tmp_path / "in.jsonl").write_text(content)
    assert job().run().rows == 10


def test_what_logits_do_not_hang_on_may_change_until_something_is_written(
    job: Callable[..., Job], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(job(), monkeypatch)
    logits = Reranker(model, device="cpu", activation="identity")
    changes = {"model": logits, "top_k": 2, "columns": ["document"], "score_column": "logit"}
    assert job(**changes).run().before == 4
    rows = rows_of(tmp_path / "o.jsonl")
    want = logits.rank(QUERIES["q1"], [*DOCUMENTS.values()], top_k=2)
    assert [(row["document"], row["logit"]) for row in rows[:2]] == [
        (one.document, one.score) for one in want
    ]
    stopped(job(output=f"{tmp_path / 'out'}/"), monkeypatch)
    for name, other in {"top_k": 2, "columns": ["query"], "output_format": "parquet"}.items():
        with pytest.raises(JobError, match=f"{name.replace('_', '.')} was"):
            job(output=tmp_path / "out", **{name: other}).run()


def test_other_batches_threads_and_row_groups_are_no_change(
    job: Callable[..., Job], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.Table.from_pylist(rows_of(tmp_path / "in.jsonl"))
    path, out = tmp_path / "in.parquet", tmp_path / "o.parquet"
    pq.write_table(table, path, row_group_size=3)
    job(input=path, output=tmp_path / "whole.parquet").run()
    stopped(job(input=path, output=out), monkeypatch)
    pq.write_table(table, path, row_group_size=5, compression="zstd")
    again = Reranker(model, device=["cpu", "cpu"], budget_tokens=16)
    assert job(model=again, input=path, output=out).run().before == 4
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_folder_that_is_finished_stays_and_new_rows_are_refused(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = job(output=f"{out}/").run()
    before = (out / "part-00000.jsonl").stat()
    again = job(output=out).run()
    assert (again.rows, again.before, again.pairs, again.files) == (10, 10, 0, first.files)
    assert (out / "part-00000.jsonl").stat() == before
    with open(tmp_path / "in.jsonl", "a") as source:
        source.write('{"query": "red", "document": "fox"}\n')
    with pytest.raises(JobError, match="has more rows now"):
        job(output=out).run()


def test_a_job_has_one_process_at_a_time(job: Callable[..., Job], tmp_path: Path) -> None:
    folder = tmp_path / "o.jsonl.job"
    folder.mkdir()
    lock = disk.open_own(folder / "lock")
    assert disk.lock(lock)
    with pytest.raises(JobError, match="another process is at work on"):
        job().run()
    os.close(lock)
    assert job().run().rows == 10


@pytest.mark.parametrize("name", ["journal.json", "logits.bin", "problems.jsonl"])
def test_a_damaged_journal_is_refused(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with open(tmp_path / "in.jsonl", "r+") as source:
        rest = source.read()
        source.seek(0)
        source.write('{"query": "red", "document": ""}\n' + rest)
    stopped(job(), monkeypatch)
    path = tmp_path / "o.jsonl.job" / name
    content = path.read_bytes()
    path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(JobError, match=f"{name} is damaged; remove"):
        job().run()


def test_outputs_that_cannot_be(job: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    with pytest.raises(JobError, match=r"absent/o\.job cannot be written"):
        job(output=tmp_path / "absent" / "o").run()
    for output, words in (
        (tmp_path / "full", "holds no job, and holds 'a'"),
        (tmp_path / "in.jsonl", "is a file that is read"),
        (tmp_path, "lies in"),
    ):
        with pytest.raises(InputError, match=words):
            job(output=output).run()
    for changes, words in (
        ({"output_format": "trec"}, "a TREC run has ids"),
        ({"query_column": "nope"}, "there is no column 'nope'"),
        ({"documents": tmp_path / "in.jsonl"}, "no column of their ids"),
        ({"label": "nope"}, "there is no label 'nope'"),
        ({"output": tmp_path / "o.csv"}, "ends in .csv, which is not written"),
        ({"columns": ["quary"]}, "there is no column 'quary' to keep"),
        ({"top_k": 0}, "top_k"),
        ({"tag": "two words"}, "a word without blanks"),
        ({"output_format": "csv"}, "output_format"),
        ({"input": []}, "no file is named"),
        ({"score_column": "error"}, "choose another name"),
        ({"cutoff_layer": 9}, "cutoff_layer"),
    ):
        with pytest.raises(InputError, match=words):
            job(**changes).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "in.jsonl", "model"]
