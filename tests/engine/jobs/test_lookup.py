"""Texts by id."""

import json
from pathlib import Path
from typing import Any

import pytest

from packrank.errors import InputError
from packrank.jobs.lookup import Texts
from packrank.records.shapes import Problem


def table(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("id", ["id", "_id", "document_id"])
def test_texts_are_found_as_they_were(tmp_path: Path, id: str) -> None:
    texts = ["fox", "ünï\ud7ff", "x" * 100_000, "", "a"]
    rows = [{id: n, "text": text, "title": "t" if n == 4 else ""} for n, text in enumerate(texts)]
    with Texts(table(tmp_path / "t.jsonl", *rows), "document") as found:
        known = found.find(["4", "1", "1", "2", "0", "9"])
        assert [known[n] for n in "0124"] == ["fox", texts[1], texts[2], "t a"]
        problem = known["9"]
        assert isinstance(problem, Problem) and problem.kind == "unknown id"
        [empty] = found.find(["3"]).values()
        assert isinstance(empty, Problem) and empty.kind == "empty text"


def test_the_digest_is_of_ids_and_texts(tmp_path: Path) -> None:
    def digest(*rows: dict[str, Any]) -> str:
        with Texts(table(tmp_path / "t.jsonl", *rows), "query") as found:
            return found.digest

    first = digest({"id": "a", "text": "b"}, {"id": "c", "text": "d"})
    assert first == digest({"query_id": "a", "text": "b"}, {"query_id": "c", "text": "d"})
    assert first != digest({"id": "a", "text": "bc"}, {"id": "", "text": "d"})


def test_what_has_no_id_is_left_out_and_what_is_wrong_is_told_to_who_asks(tmp_path: Path) -> None:
    rows = [{"text": "x"}, {"id": True, "text": "x"}, {"id": "a", "text": 7}, {"id": "b"}]
    with Texts(table(tmp_path / "t.jsonl", {"id": "c", "text": "d"}, *rows), "document") as found:
        assert [place for place, _ in found.left_out] == ["line 2", "line 3"]
        for id in "ab":
            [problem] = found.find([id]).values()
            assert isinstance(problem, Problem) and problem.kind == "no text"


def test_columns_are_the_same_in_every_record(tmp_path: Path) -> None:
    """Fields of other names, which few records have, hide no id and no text."""
    rows = [{"id": str(n), "document": f"fox {n}"} for n in range(4)]
    rows[1] |= {"document_id": "2", "text": "owl"}
    with Texts(table(tmp_path / "t.jsonl", *rows), "document") as found:
        assert found.find(list("0123")) == {str(n): f"fox {n}" for n in range(4)}


def test_a_table_without_ids_or_texts_is_refused(tmp_path: Path) -> None:
    for row, words in (({"id": "a"}, "has no text"), ({"text": "a"}, "has no id")):
        with pytest.raises(InputError, match=words):
            Texts(table(tmp_path / "t.jsonl", row), "query")
