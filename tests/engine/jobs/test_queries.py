"""Queries and their candidates come in order, and no more of them is held than must be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packrank import InputError, LateInteraction, Ranked, Ranking, Reranker
from packrank.jobs import rank as rank_file
from packrank.jobs.queries import (
    Query,
    Request,
    fit_for_trec,
    is_fit_for_trec,
    read_queries,
    requests_of,
)
from packrank.jobs.rank import rank_texts
from packrank.records.file import RecordFile
from packrank.records.record import CANDIDATES, Record

QUERIES = [Query("a", "1"), Query("b", "2"), Query("c", "3")]


def file_of(path: Path, queries: str) -> Path:
    lines = [json.dumps({"query": id, "text": f"{id} {n}"}) for n, id in enumerate(queries)]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("order", "read"),
    [
        ("1122233", [2, 5, 7]),
        ("3322211", [7, 7, 7]),
        ("1212333", [3, 4, 7]),
    ],
)
def test_a_query_is_ranked_as_soon_as_its_candidates_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, read: list[int]
) -> None:
    with RecordFile(str(file_of(tmp_path / "c.jsonl", order)), CANDIDATES) as file:
        records, taken = list(file.records()), 0
        file.rewind()
        original = file.records

        def counted() -> object:
            nonlocal taken
            taken = 0
            for record in original():
                taken += 1
                yield record

        monkeypatch.setattr(file, "records", counted)
        wrong: list[tuple[str, str]] = []
        came = []
        for query, found in requests_of(QUERIES, file, lambda *what: wrong.append(what)):
            came.append(taken)
            assert found == [record for record in records if record.fields["query"] == query.id]
        assert came == read
        assert not wrong


class Fixed(Reranker):
    """Ranks as many queries as come at once, and notes how many."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def try_rank_many(self, requests: Any, *_: Any, **__: Any) -> Any:
        self.sizes.append(len(requests))
        return [
            (Ranking([], np.zeros(len(texts), dtype=np.int32), None), {}) for _, texts in requests
        ]


@pytest.mark.parametrize(("seconds", "sizes"), [(1e9, [1, 2, 4, 4, 4]), (0.0, [1] * 15)])
def test_windows_of_queries_grow_while_they_are_quick(
    monkeypatch: pytest.MonkeyPatch, seconds: float, sizes: list[int]
) -> None:
    monkeypatch.setattr("packrank.jobs.pace._SECONDS", seconds)
    monkeypatch.setattr(rank_file, "_WINDOW_QUERIES", 4)
    model = Fixed()
    documents = [Record(n, {"text": str(n)}) for n in range(3)]
    requests = (Request(Query(f"q{n}", str(n)), documents) for n in range(15))
    answers = list(rank_texts(model, requests, 2, {}))
    assert model.sizes == sizes
    assert [answer.query.id for answer in answers] == [str(n) for n in range(15)]


def test_a_window_ends_with_so_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packrank.jobs.pace._SECONDS", 1e9)
    monkeypatch.setattr(rank_file, "_WINDOW_PAIRS", 5)
    model = Fixed()
    documents = [Record(n, {"text": str(n)}) for n in range(3)]
    requests = [Request(Query(f"q{n}", str(n)), documents) for n in range(6)]
    list(rank_texts(model, requests, None, {}))
    assert model.sizes == [1, 2, 2, 1]


class Late(LateInteraction):
    """Notes the queries that come at once, and how many documents they have; refuses one query."""

    def __init__(self) -> None:
        self.sizes: list[tuple[str, int]] = []

    def try_rank_many(self, requests: Any, top_k: int | None = None) -> Any:
        queries = "".join(query for query, _ in requests)
        assert all(texts is requests[0][1] for _, texts in requests)
        self.sizes.append((queries, len(requests[0][1])))
        if "!" in queries:
            raise InputError("refused")
        return [([Ranked(0, 0.5, texts[0])], {}) for _, texts in requests]


@pytest.mark.parametrize(
    ("top_k", "limits", "sizes"),
    [
        (1, (1024, 1 << 21), [("abcdefg", 5)]),
        (1, (4, 1 << 21), [("abcd", 5), ("efg", 5)]),
        (1, (1024, 3), [("abc", 5), ("def", 5), ("g", 5)]),
        (None, (1024, 10), [("ab", 5), ("cd", 5), ("ef", 5), ("g", 5)]),
    ],
)
def test_queries_of_the_same_documents_are_ranked_together(
    monkeypatch: pytest.MonkeyPatch,
    top_k: int | None,
    limits: tuple[int, int],
    sizes: list[tuple[str, int]],
) -> None:
    """However many pairs they are, from the first query on."""
    monkeypatch.setattr(rank_file, "_WINDOW_PAIRS", 2)
    monkeypatch.setattr(rank_file, "_ALIKE_QUERIES", limits[0])
    monkeypatch.setattr(rank_file, "_ALIKE_ROWS", limits[1])
    same, other = ([Record(n, {"text": str(n)}) for n in range(size)] for size in (5, 2))
    model = Late()
    requests = [Request(Query(text, text), same) for text in "abcdefg"]
    answers = list(rank_texts(model, [*requests, Request(Query("h", "h"), other)], top_k, {}))
    assert model.sizes == [*sizes, ("h", 2)]
    assert [answer.query.id for answer in answers] == list("abcdefgh")


def test_a_query_that_is_refused_leaves_the_others_together() -> None:
    same, model = [Record(1, {"text": "x"})], Late()
    requests = [Request(Query(text, text), same) for text in "abcde!gh"]
    answers = list(rank_texts(model, requests, None, {}))
    assert [answer.error for answer in answers] == [None] * 5 + ["refused"] + [None] * 2
    assert [queries for queries, _ in model.sizes if "!" not in queries] == ["abcd", "e", "gh"]


@pytest.mark.parametrize(
    ("id", "fits"), [("d1", True), ("a b", False), ("", False), ("a\u00a0b", False), ("é", True)]
)
def test_ids_of_a_trec_run(id: str, fits: bool) -> None:
    assert is_fit_for_trec(id) == fits
    wrong: list[str] = []
    record = Record(1, {"id": id, "text": "x"})
    assert fit_for_trec([record], lambda _, reason: wrong.append(reason)) == [record] * fits
    assert len(wrong) == 1 - fits


def test_nothing_is_told_of_candidates_whose_query_cannot_be_used(tmp_path: Path) -> None:
    """That is told of the query, once."""
    path, told, unusable = tmp_path / "q.jsonl", list[tuple[str, str]](), set[str]()
    path.write_text('{"id": "1", "text": "a"}\n{"id": "2", "text": "\\ud800"}\n{"id": "3"}\n')
    queries = read_queries(str(path), None, lambda *what: told.append(what), unusable=unusable)
    assert queries == [Query("a", "1")] and unusable == {"2", "3"} and len(told) == 2
    with RecordFile(str(file_of(tmp_path / "c.jsonl", "12324")), CANDIDATES) as file:
        coming = requests_of(queries, file, lambda *what: told.append(what), unusable=unusable)
        assert [len(records or []) for _, records in coming] == [1]
    assert [reason for _, reason in told[2:]] == ["\"query\" is '4', which is the id of no query"]
