"""packrank explain, and packrank rank of a store: the commands do what they print."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from packrank import LateInteraction
from packrank.commands.cli import main

QUERY, DOCUMENT = "red owl", "an owl <b>red</b>, fox"
TEXTS = {"ü 1": DOCUMENT, "2": "fox owl", "3": "red"}
COLOR = "\x1b["


@pytest.fixture(scope="module")
def late(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("late") / "model"
    shutil.copytree(checkpoint("Bert", "Model"), folder)
    save_tokenizer(folder, "red fox owl an , 海")
    prefixes = {"query_prefix": "", "document_prefix": ""}
    config = {"model_type": "ColBERT", "query_length": 8, "skiplist_words": [","], **prefixes}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def store(late: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "store"
    LateInteraction(late, device="cpu").encode_documents([*TEXTS.values()], path, [*TEXTS])
    return path


def explain(folder: Path, *options: str, document: str = DOCUMENT) -> int:
    return main(["explain", str(folder), "--query", QUERY, "--document", document, *options])


def test_the_table_has_a_row_for_every_query_token(
    late: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = LateInteraction(late).explain(QUERY, DOCUMENT)
    assert explain(late) == 0
    first, blank, header, *rows = capsys.readouterr().out.splitlines()
    assert (first, blank) == (f"score {found.score:.4f}, the sum of 8 matches", "")
    assert header.split() == ["query", "token", "score", "document", "token"]
    shown = [(row[:28].strip(), row[28:37].strip(), row[39:]) for row in rows]
    names = ["[CLS]", "red", "owl", "[SEP]", *["[MASK] (expansion)"] * 4]
    assert [name for name, *_ in shown] == names
    assert [float(score) for _, score, _ in shown] == [round(m.score, 4) for m in found.matches]
    assert [matched.split(" (")[0] for *_, matched in shown] == [
        found.document_tokens[m.document_token or 0].text for m in found.matches
    ]


def test_columns_stay_in_line(late: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = "海 " + "x" * 60 + " red"
    arguments = ["explain", str(late), "--query", query, "--document", "海"]
    assert main(arguments) == 0
    rows = capsys.readouterr().out.splitlines()[3:]
    wide = next(row for row in rows if row.startswith("海"))
    assert re.fullmatch(r"海 {26} +-?[\d.]+  \S.*", wide)
    cut = next(row for row in rows if row.startswith("xxx"))
    assert re.fullmatch(r"x{27} +-?[\d.]+  \S.*", cut)


def test_json_is_the_explanation(late: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = LateInteraction(late).explain(QUERY, DOCUMENT)
    assert explain(late, "--json") == 0
    [line] = capsys.readouterr().out.splitlines()
    fields = json.loads(line)
    assert fields["score"] == found.score
    assert fields["matches"] == [match._asdict() for match in found.matches]
    comma = next(token for token in fields["document_tokens"] if token["text"] == ",")
    assert comma == {"text": ",", "kind": "text", "scored": False, "start": 17, "stop": 18}


def test_a_page_is_written_whole(
    late: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    one_sentence: Callable[..., None],
) -> None:
    path = tmp_path / "why.html"
    assert explain(late, "--html", str(path)) == 0
    assert "score" in capsys.readouterr().out
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n")
    assert "<b>" not in page and "&lt;" in page
    assert explain(late, "--html", str(tmp_path / "none" / "why.html")) == 2
    one_sentence("cannot be written")
    assert [entry.name for entry in tmp_path.iterdir()] == ["why.html"]


def test_colour_is_for_terminals(late: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, colored in (("auto", False), ("never", False), ("always", True)):
        assert explain(late, "--color", option) == 0
        assert (COLOR in capsys.readouterr().out) == colored
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "packrank", "explain", str(late), "--query", QUERY]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [*command, "--document", DOCUMENT], stdout=follower, env=os.environ | paths, check=True
    )
    os.close(follower)
    assert COLOR.encode() in os.read(leader, 1 << 16)
    os.close(leader)


def test_a_stored_document_is_explained_by_its_id(
    late: Path, store: Path, capsys: pytest.CaptureFixture[str], one_sentence: Callable[..., None]
) -> None:
    stored = ["--store", str(store), "--candidate", "ü 1"]
    assert explain(late, "--json", *stored) == 0
    fields = json.loads(capsys.readouterr().out)
    [ranked] = LateInteraction(late, store=store).rank(QUERY, candidates=["ü 1"])
    assert fields["score"] == ranked.score
    assert explain(late, *stored, document="fox") == 2
    one_sentence("'ü 1' of the store has", "give the text that was encoded")
    assert explain(late, "--store", str(store)) == 2
    one_sentence("--store and --candidate go together")
    assert explain(late, "--store", str(late), "--candidate", "x") == 2
    one_sentence(str(late), "no store")


def test_several_documents_are_ordered_by_their_scores(
    late: Path,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    one_sentence: Callable[..., None],
) -> None:
    best = LateInteraction(late).rank(QUERY, [*TEXTS.values()])
    more = [part for text in [*TEXTS.values()][1:] for part in ("--document", text)]
    path = tmp_path / "why.html"
    assert explain(late, "--json", "--html", str(path), *more) == 0
    fields = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["document"] for each in fields] == [ranked.document for ranked in best]
    head, *sections = path.read_text(encoding="utf-8").split("<section>")
    assert f"<p>Model: {late}</p>" in head
    for number, (ranked, section) in enumerate(zip(best, sections, strict=True), 1):
        assert section.strip().startswith(f"<h2>{number}. score {ranked.score:.4f}, ")
    assert explain(late, *more) == 0
    titles = re.findall(r"^\d\. (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert titles == [ranked.document for ranked in best]
    stored = ["--store", str(store), *(x for id in TEXTS for x in ("--candidate", id))]
    assert explain(late, "--json", *more, *stored) == 0
    fields = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    ranking = LateInteraction(late, store=store).rank(QUERY)
    assert [each["score"] for each in fields] == [ranked.score for ranked in ranking]
    assert explain(late, *more, *stored[:4]) == 2
    one_sentence("there are 3 --document and 1 --candidate; give the id of each document")


def test_a_cross_encoder_has_nothing_to_explain(
    model: Path, one_sentence: Callable[..., None]
) -> None:
    assert explain(model) == 2
    one_sentence(str(model), "holds a cross-encoder")


def test_rank_shows_a_store(
    late: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = LateInteraction(late, store=store).rank(QUERY)
    rank = ["rank", str(late), "--query", QUERY, "--store", str(store)]
    assert main([*rank, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        {"rank": i + 1, "score": found.score, "id": found.id} for i, found in enumerate(expected)
    ]
    ids = tmp_path / "ids.txt"
    ids.write_text("3\n\n2\n", encoding="utf-8")
    assert main([*rank, "--candidates", str(ids), "--top-k", "1"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    best = next(found for found in expected if found.id in ("2", "3"))
    assert header.split() == ["rank", "score", "id"]
    assert row.split() == ["1", f"{best.score:.4f}", best.id]
    exact = LateInteraction(late, store=store).rank(QUERY, top_k=2, exact=True)
    for options in (["--exact"], ["--exact", str(len(expected))]):
        assert main([*rank, "--json", "--top-k", "2", *options]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(row["score"], row["id"]) for row in rows] == [(r.score, r.id) for r in exact]


def test_rank_of_a_store_refuses_in_a_sentence(
    late: Path, store: Path, model: Path, tmp_path: Path, one_sentence: Callable[..., None]
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("7\n")
    rank = ["rank", str(late), "--query", QUERY, "--store", str(store)]
    assert main([*rank, "--candidates", str(ids)]) == 2
    one_sentence("no document", "has the id '7'")
    ids.write_bytes(b"2\n\xff\n")
    assert main([*rank, "--candidates", str(ids)]) == 2
    one_sentence("line 2: byte 1 is 0xff")
    ids.write_text("\n")
    assert main([*rank, "--candidates", str(ids)]) == 2
    one_sentence("no document to rank")
    assert main(["rank", str(model), *rank[2:]]) == 2
    one_sentence("--store is for late interaction")
    arguments = ["--query", QUERY, "--documents", str(ids), "--candidates", str(ids)]
    assert main(["rank", str(late), *arguments]) == 2
    one_sentence("--candidates", "give --store as well")
    assert main(["rank", str(late), *arguments[:4], "--exact"]) == 2
    one_sentence("--exact", "give --store as well")
    assert main([*rank, "--exact", "2"]) == 2
    one_sentence("exact is 2 and top_k None", "or exact=True")
