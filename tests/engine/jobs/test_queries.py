"""Queries and their candidates come in order, and no more of them is held than must be."""

import json
from pathlib import Path

import pytest

from packrank.jobs import rank as rank_file
from packrank.jobs.queries import Query, Request, fit_for_trec, is_fit_for_trec, requests_of
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


class Fixed:
    """Ranks as many queries as come at once, and notes how many."""

    num_tokens = 0

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def try_score(self, pairs: list[tuple[str, str]]) -> object:
        import numpy as np

        self.sizes.append(len({query for query, _ in pairs}))
        return np.arange(len(pairs), dtype=np.float32), {}

    def try_rank(self, query: str, documents: list[str], top_k: int | None) -> object:
        self.sizes.append(1)
        return [], {}


@pytest.mark.parametrize(("seconds", "sizes"), [(1e9, [1, 2, 4, 4, 4]), (0.0, [1] * 15)])
def test_windows_of_queries_grow_while_they_are_quick(
    monkeypatch: pytest.MonkeyPatch, seconds: float, sizes: list[int]
) -> None:
    monkeypatch.setattr(rank_file, "_WINDOW_SECONDS", seconds)
    monkeypatch.setattr(rank_file, "_LATE_QUERIES", 4)
    model = Fixed()
    documents = [Record(n, {"text": str(n)}) for n in range(3)]
    requests = (Request(Query(f"q{n}", str(n)), documents) for n in range(15))
    answers = list(rank_texts(model, requests, 2, {}))  # type: ignore[arg-type]
    assert model.sizes == sizes
    assert [answer.query.id for answer in answers] == [str(n) for n in range(15)]


def test_a_window_ends_with_so_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_file, "_WINDOW_SECONDS", 1e9)
    monkeypatch.setattr(rank_file, "_WINDOW_PAIRS", 5)
    model = Fixed()
    documents = [Record(n, {"text": str(n)}) for n in range(3)]
    requests = [Request(Query(f"q{n}", str(n)), documents) for n in range(6)]
    list(rank_texts(model, requests, None, {}))  # type: ignore[arg-type]
    assert model.sizes == [1, 2, 2, 1]


@pytest.mark.parametrize(
    ("id", "fits"), [("d1", True), ("a b", False), ("", False), ("a\u00a0b", False), ("é", True)]
)
def test_ids_of_a_trec_run(id: str, fits: bool) -> None:
    assert is_fit_for_trec(id) == fits
    wrong: list[str] = []
    record = Record(1, {"id": id, "text": "x"})
    assert fit_for_trec([record], lambda _, reason: wrong.append(reason)) == [record] * fits
    assert len(wrong) == 1 - fits
