"""What once gave a job wrong scores, lost rows or ended it, each by itself."""

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from packrank import InputError, Job, JobError, LateInteraction, Reranker
from packrank.commands.cli import main
from packrank.jobs.lookup import Texts
from packrank.jobs.mining import Mining
from packrank.jobs.negatives import Form, Rules
from packrank.jobs.settings import Silent

TEXTS = ["fox", "owl red", "blue", "owl", "red red", "fox owl", "blue fox", "red"]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def score(model: Path, *arguments: object) -> int:
    return main(["score", str(model), *map(str, arguments), "--quiet"])


def one(reranker: Reranker, query: str, document: str) -> float:
    found: float = reranker.score([(query, document)])[0].item()
    return found


def test_other_queries_of_late_interaction_are_another_job(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "late"
    shutil.copytree(checkpoint("Bert", "Model"), folder)
    save_tokenizer(folder, "red fox owl blue")
    source = lines(tmp_path / "in.jsonl", [{"query": "red", "document": text} for text in TEXTS])
    out = f"{tmp_path / 'o'}/"
    Job(LateInteraction(folder, query_length=8), source, out).run()
    with pytest.raises(JobError, match="settings of queries was"):
        Job(LateInteraction(folder, query_length=4), source, out).run()


@pytest.mark.parametrize("form", ["trec", "mined"])
def test_a_folder_has_all_rows_whatever_they_are(
    reranker: Reranker, tmp_path: Path, form: str
) -> None:
    """Of lists, where a row of the input is several of the output."""
    tables = {"q": "red", **{f"d{n}": text for n, text in enumerate(TEXTS)}}
    lines(tmp_path / "t.jsonl", [{"id": id, "text": text} for id, text in tables.items()])
    ids = [f"d{n}" for n in range(8)]
    rows = [{"query_id": "q", "document_ids": ids, "positive_ids": ["d4"]}]
    source, out = lines(tmp_path / "in.jsonl", rows), tmp_path / "o"
    given = {"queries": tmp_path / "t.jsonl", "documents": tmp_path / "t.jsonl"}
    if form == "trec":
        Job(reranker, source, f"{out}/", output_format="trec", **given).run()
        assert len((out / "part-00000.trec").read_text().splitlines()) == 8
        return
    mining = Mining(Rules(3), Form())
    Job(reranker, source, f"{out}/", output_format="jsonl", mining=mining, **given).run()
    assert len(rows_of(out / "part-00000.jsonl")) == 3


def test_a_file_that_is_written_to_meanwhile_is_found_out(
    reranker: Reranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also once the first part is there."""
    monkeypatch.setattr("packrank.jobs.parts._ROWS", 3)
    monkeypatch.setattr("packrank.jobs.journal._COMMIT_SECONDS", 0.0)
    monkeypatch.setattr("packrank.jobs.score._FIRST_BATCH_PAIRS", 1)
    monkeypatch.setattr("packrank.jobs.score._BATCH_PAIRS", 1)
    source = lines(tmp_path / "in.jsonl", [{"query": "red", "document": text} for text in TEXTS])
    out = tmp_path / "o"

    class Watch(Silent):
        def advance(self, summary: Any, rows: int) -> None:
            if summary.rows == 7:
                lines(source, [{"query": "red", "document": "x" + text} for text in TEXTS])

    with pytest.raises(JobError, match=r"was written to"):
        Job(reranker, source, f"{out}/").run(Watch())


def test_a_file_that_is_replaced_while_tables_are_read_is_found_out(
    reranker: Reranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its scores would go to the rows of the new one."""
    ids = [f"d{n}" for n in range(8)]
    table = [{"id": id, "text": text} for id, text in zip(ids, TEXTS, strict=True)]
    lines(tmp_path / "t.jsonl", table)
    source = lines(tmp_path / "in.jsonl", [{"query": "red", "document_id": id} for id in ids])
    rows = [{"query": "red", "document_id": id} for id in reversed(ids)]
    new = lines(tmp_path / "new.jsonl", rows)
    read = Texts._read

    def replaced(self: Texts, path: str) -> None:
        read(self, path)
        os.replace(new, source)

    monkeypatch.setattr(Texts, "_read", replaced)
    with pytest.raises(JobError, match=r"was written to"):
        Job(reranker, source, tmp_path / "o.jsonl", documents=tmp_path / "t.jsonl").run()


def test_the_best_of_standard_input(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is a file, read twice; a pipe is refused."""
    content = "".join(json.dumps({"query": "red", "document": t}) + "\n" for t in TEXTS)
    raw = io.BytesIO(content.encode())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=raw))
    assert score(model, "-", "--output", "-", "--top-k", 2) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    want = Reranker(model).rank("red", TEXTS, top_k=2)
    assert [(row["document"], row["rank"]) for row in found] == [
        (one.document, rank) for rank, one in enumerate(want, start=1)
    ]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(content.encode()))
    writer.start()
    assert score(model, pipe, "--output", "-", "--top-k", 2) == 2
    writer.join()
    assert "is read once" in capsys.readouterr().err


def test_a_header_counts_as_what_it_is(reranker: Reranker, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "o"
    rest = "".join(f"red,{text}\n" for text in TEXTS)
    source.write_text("query,document\n" + rest)
    Job(reranker, source, f"{out}/", output_format="jsonl").run()
    source.write_text("document,query\n" + rest)
    with pytest.raises(JobError, match="does not begin with"):
        Job(reranker, source, out, output_format="jsonl").run()


def test_negatives_come_alone(model: Path, tmp_path: Path) -> None:
    rows = [{"query": "red", "pos": ["fox"], "neg": ["owl"]}]
    source, out = lines(tmp_path / "in.jsonl", rows), tmp_path / "o.jsonl"
    for more in (["--top-k", 2], ["--output-format", "trec"]):
        assert score(model, source, "--output", out, "--negatives", 1, *more) == 2
        assert not Path(f"{out}.job").exists()


def test_what_is_positive_is_never_a_negative(reranker: Reranker, tmp_path: Path) -> None:
    """Nor are negatives told from a part of the positives."""
    mining, out = Mining(Rules(1), Form()), tmp_path / "o.jsonl"
    for rows in (
        [{"query": "red", "document": text, "label": "yes"} for text in TEXTS],
        [{"query": "red", "pos": ["fox", None], "neg": ["owl"]}],
        [{"query": "red", "pos": ["fox"], "neg": "xyz"}],
    ):
        summary = Job(reranker, lines(tmp_path / "in.jsonl", rows), out, mining=mining).run()
        assert out.read_text() == "" and summary.num_unfit + summary.num_few == 1


def test_positives_beside_a_list_are_scored_too(reranker: Reranker, tmp_path: Path) -> None:
    rows = [{"query": "red", "documents": ["owl", "fox", "blue"], "positives": ["red red", "fox"]}]
    mining, out = Mining(Rules(2), Form("labeled-pair")), tmp_path / "o.jsonl"
    Job(reranker, lines(tmp_path / "in.jsonl", rows), out, mining=mining).run()
    found = [(row["positive"], row["label"]) for row in rows_of(out)]
    assert found[:2] == [("red red", 1), ("fox", 1)]
    assert {document for document, label in found if not label} == {"owl", "blue"}


def test_a_title_that_is_scored_itself_goes_before_nothing(
    reranker: Reranker, tmp_path: Path
) -> None:
    out = tmp_path / "o.jsonl"
    source = lines(tmp_path / "in.jsonl", [{"query": "red", "title": "fox", "abstract": "owl"}])
    Job(reranker, source, out, document_column="title").run()
    assert rows_of(out)[0]["score"] == one(reranker, "red", "fox")
    Job(reranker, source, out, query_column="title", document_column="abstract").run()
    assert rows_of(out)[0]["score"] == one(reranker, "fox", "owl")


def test_a_title_that_is_no_text_is_named(reranker: Reranker, tmp_path: Path) -> None:
    rows = [{"query": "red", "document": "fox", "title": 5}]
    out = tmp_path / "o.jsonl"
    Job(reranker, lines(tmp_path / "in.jsonl", rows), out).run()
    assert rows_of(out)[0]["error"] == '"title" is 5, expected a text'


def test_queries_are_told_apart_as_they_are_scored(reranker: Reranker, tmp_path: Path) -> None:
    lines(tmp_path / "t.jsonl", [{"id": "1", "text": "red"}, {"id": "d", "text": "fox"}])
    out, table = tmp_path / "o.jsonl", tmp_path / "t.jsonl"
    rows: list[dict[str, Any]] = [{"query_id": id, "document_id": "d"} for id in (1, "1", 1)]
    source = lines(tmp_path / "in.jsonl", rows)
    Job(reranker, source, out, queries=table, documents=table, top_k=1).run()
    assert len(rows_of(out)) == 1
    rows = [{"query": {"text": q}, "document": "fox"} for q in ("red", "blue")]
    Job(reranker, lines(tmp_path / "in.jsonl", rows), out, top_k=1).run()
    assert len(rows_of(out)) == 2
    lists = [{"query_id": 1, "document_ids": ["d"]}] * 2
    source, run = lines(tmp_path / "in.jsonl", lists), tmp_path / "o.trec"
    summary = Job(reranker, source, run, queries=table, documents=table).run()
    assert summary.num_unfit == 1 and len(run.read_text().splitlines()) == 1


def test_one_odd_row_does_not_make_the_shape(reranker: Reranker, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"query": "red", "document": text} for text in TEXTS]
    rows.insert(1, {"query": "red", "document": ["x"]})
    rows.insert(3, {"query": "red", "document": "fox", "pos": ["a"], "neg": ["b"]})
    out = tmp_path / "o.jsonl"
    summary = Job(reranker, lines(tmp_path / "in.jsonl", rows), out).run()
    assert summary.failed == {"wrong type": 1}


def test_an_output_that_is_a_table_of_texts_is_refused(reranker: Reranker, tmp_path: Path) -> None:
    table = lines(tmp_path / "t.jsonl", [{"id": "d", "text": "fox"}])
    source = lines(tmp_path / "in.jsonl", [{"query": "red", "document_id": "d"}])
    with pytest.raises(InputError, match="is a file that is read"):
        Job(reranker, source, table, documents=table).run()
    corpus = table.rename(tmp_path / "corpus.jsonl")
    with pytest.raises(InputError, match="is a file that is read"):
        Job(reranker, source, corpus, documents=tmp_path).run()


def test_a_journal_that_cannot_be_let_go_of_says_so(
    reranker: Reranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its files are closed, and before they are open, nothing is cut off."""
    source = lines(tmp_path / "in.jsonl", [{"query": "red", "document": text} for text in TEXTS])
    out, unlink = f"{tmp_path / 'o'}/", Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.name == "logits.bin":
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        with pytest.raises(JobError, match="cannot be written: Operation not permitted"):
            Job(reranker, source, out).run()
    assert Job(reranker, source, out).run().before == len(TEXTS)


def test_a_field_that_comes_late_is_scored(reranker: Reranker, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"query": "red", "pos": ["fox"]}] * 70
    rows = [*rows, {"query": "red", "pos": ["fox"], "neg": ["owl"]}]
    out = tmp_path / "o.jsonl"
    assert not Job(reranker, lines(tmp_path / "in.jsonl", rows), out).run().failed
    assert rows_of(out)[-1]["neg_scores"] == [one(reranker, "red", "owl")]
    assert rows_of(out)[0]["neg_scores"] is None


def test_elements_that_fail_are_named_in_later_batches_of_a_pipe(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("packrank.jobs.rows.WINDOW_PAIRS", 2)
    rows = [{"query": "red", "documents": ["fox", "owl"]}] * 4
    rows = [*rows, {"query": "red", "documents": ["fox", ""]}]
    source = lines(tmp_path / "in.jsonl", rows)
    assert score(model, source, "--output", "-") == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["error"] == 'documents 2: "documents" is empty'


def test_a_table_from_a_pipe(model: Path, tmp_path: Path) -> None:
    pipe, out = tmp_path / "pipe", tmp_path / "o.parquet"
    os.mkfifo(pipe)
    content = "".join(json.dumps({"query": "red", "document": t}) + "\n" for t in TEXTS)
    writer = threading.Thread(target=lambda: pipe.write_bytes(content.encode()))
    writer.start()
    assert score(model, pipe, "--output", out) == 0
    writer.join()
    assert pq.read_table(out)["document"].to_pylist() == TEXTS


def test_rows_without_pairs_are_written_as_they_come(
    reranker: Reranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packrank.jobs.rows.WINDOW_PAIRS", 2)
    rows = [{"query": "red", "document": ""}] * 9
    seen: list[int] = []

    class Watch(Silent):
        def advance(self, summary: Any, rows: int) -> None:
            seen.append(summary.rows)

    Job(reranker, lines(tmp_path / "in.jsonl", rows), tmp_path / "o.jsonl").run(Watch())
    assert seen == [2, 4, 6, 8, 9]


def test_nothing_but_errors_at_the_beginning(reranker: Reranker, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "o.jsonl"
    source.write_text("no json\n" * 100 + '{"query": "red", "document": "fox"}\n')
    assert Job(reranker, source, out, input_format="jsonl").run().failed == {"unreadable": 100}
    assert rows_of(out)[-1]["score"] == one(reranker, "red", "fox")


def test_strict_stays_strict(reranker: Reranker, tmp_path: Path) -> None:
    rows = [{"query": "red", "document": text} for text in ["fox", "", "owl"]]
    job = Job(reranker, lines(tmp_path / "in.jsonl", rows), tmp_path / "o.jsonl", strict=True)
    with pytest.raises(InputError, match="line 2: "):
        job.run()
    with pytest.raises(InputError, match="the job is strict"):
        job.run()


def test_an_output_in_what_is_read_is_refused(reranker: Reranker, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    lines(tmp_path / "in" / "a.jsonl", [{"query": "red", "document": "fox"}])
    for output in ("o.jsonl", "o/", "sub/"):
        with pytest.raises(InputError, match="which is read; name another place"):
            Job(reranker, tmp_path / "in", f"{tmp_path / 'in'}/{output}").run()


def test_parts_without_their_journal_are_nobodys(reranker: Reranker, tmp_path: Path) -> None:
    """They would pass for those of the next job."""
    source, out = (
        lines(tmp_path / "in.jsonl", [{"query": "red", "document": "fox"}]),
        tmp_path / "o",
    )
    Job(reranker, source, f"{out}/").run()
    (out / "_job" / "journal.json").unlink()
    with pytest.raises(InputError, match=r"holds 'part-00000.jsonl'"):
        Job(reranker, source, f"{out}/").run()


def test_a_folder_that_has_lost_a_part_says_so(reranker: Reranker, tmp_path: Path) -> None:
    source = lines(tmp_path / "in.jsonl", [{"query": "red", "document": text} for text in TEXTS])
    Job(reranker, source, f"{tmp_path / 'o'}/").run()
    (tmp_path / "o" / "part-00000.jsonl").unlink()
    with pytest.raises(JobError, match="has 0 of its 1 parts"):
        Job(reranker, source, tmp_path / "o").run()


def test_an_id_that_is_no_text_is_left_out(reranker: Reranker, tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text('{"id": "\\ud800", "text": "a"}\n{"id": "d", "text": "fox"}\n')
    rows = [{"query": "red", "document_id": "d"}]
    out = tmp_path / "o.jsonl"
    assert Job(reranker, lines(tmp_path / "in.jsonl", rows), out, documents=table).run().pairs == 1


def test_judgements_are_refused_with_tables_too(reranker: Reranker, tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    table = lines(tmp_path / "t.jsonl", [{"id": "d", "text": "fox"}])
    with pytest.raises(InputError, match="judgements"):
        Job(reranker, tmp_path / "qrels.tsv", tmp_path / "o.jsonl", documents=table).run()
