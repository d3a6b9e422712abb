"""Rows to scores: windows, batches, and that nothing is scored twice."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packrank.jobs import rows as rows_file
from packrank.jobs import score as score_file
from packrank.jobs.lookup import Texts
from packrank.jobs.rows import Read, windows
from packrank.jobs.score import Scored, Stages, score_windows
from packrank.records.file import Row
from packrank.records.shapes import shape_of

PAIRS = shape_of({"query": False, "document": False})
LISTS = shape_of({"query": False, "documents": True})


class Sized:
    """Scores a pair by its document's length; notes how many come at once. "x" fails."""

    num_tokens = 0

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def try_score(self, pairs: list[tuple[str, str]]) -> tuple[np.ndarray, dict[int, str]]:
        self.sizes.append(len(pairs))
        failures = {n: "it is x" for n, (_, document) in enumerate(pairs) if document == "x"}
        scores = [np.nan if d == "x" else len(d) for _, d in pairs]
        return np.array(scores, dtype=np.float32), failures


def scored(model: Any, values: list[Any], shape: Any = PAIRS, **options: Any) -> Iterator[Scored]:
    rows = [
        Read(Row(value, "is damaged" if value is None else None, f"line {n}"), b"%d" % n)
        for n, value in enumerate(values)
    ]
    made = windows(rows, shape, None, None, keep_rows=False)
    return score_windows(model, made, Stages(), **options)


def pair(query: Any, document: Any) -> dict[str, Any]:
    return {"query": query, "document": document}


@pytest.mark.parametrize(
    ("seconds", "characters", "sizes"),
    [
        (1e9, 10**9, [2, 4, 8, 8, 8]),
        (0.0, 10**9, [2, *[1] * 28]),
        (1e9, 5, [2, 1, *[3] * 9]),
    ],
)
def test_batches_grow_while_they_are_quick(
    monkeypatch: pytest.MonkeyPatch, seconds: float, characters: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(score_file, "_FIRST_BATCH_PAIRS", 2)
    monkeypatch.setattr(score_file, "_BATCH_PAIRS", 8)
    monkeypatch.setattr("packrank.jobs.pace._SECONDS", seconds)
    monkeypatch.setattr(rows_file, "WINDOW_CHARACTERS", characters)
    model = Sized()
    values = [pair("a", chr(98 + i)) for i in range(30)]
    found = list(scored(model, values))
    assert model.sizes == sizes
    assert sum(len(one.ends) for one in found) == 30
    assert found[-1].digest == b"29"


def test_a_pair_that_repeats_is_scored_once_and_fails_wherever_it_is() -> None:
    model = Sized()
    pairs = [("q", "aa"), ("q", "x"), ("r", "aa"), ("q", "aa"), ("q", "x"), ("q", "b")]
    values: list[Any] = [pair(q, d) for q, d in pairs]
    values.insert(2, None)
    [one] = scored(model, values)
    assert model.sizes == [4]
    wanted = [2, np.nan, np.nan, 2, 2, np.nan, 1]
    np.testing.assert_array_equal(one.logits[:, 0], wanted)
    assert [(f.row, f.slot, f.kind, f.place) for f in one.failures] == [
        (1, 1, "not scored", "line 1"),
        (2, None, "unreadable", "line 2"),
        (5, 5, "not scored", "line 5"),
    ]


def test_a_document_without_vectors_is_a_row_with_an_error() -> None:
    class Bare(Sized):
        def try_score(self, pairs: list[tuple[str, str]]) -> tuple[np.ndarray, dict[int, str]]:
            scores, failures = super().try_score(pairs)
            return np.where(scores == 2, -np.inf, scores).astype(np.float32), failures

    [one] = scored(Bare(), [pair("q", d) for d in ("a", "bb", "x", "ccc", "bb")])
    np.testing.assert_array_equal(one.logits[:, 0], [1, np.nan, np.nan, 3, np.nan])
    assert [(f.row, f.kind, "no token" in f.reason) for f in one.failures] == [
        (1, "not scored", True), (2, "not scored", False), (4, "not scored", True)
    ]  # fmt: skip


def test_windows_hold_so_much_of_texts_by_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may be long, and whose ids are not."""
    monkeypatch.setattr(rows_file, "WINDOW_CHARACTERS", 250)
    table = [{"id": n, "text": f"{n}" * 100} for n in range(9)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    rows = [Read(Row({"query": "a", "document_id": n}, None, ""), b"") for n in range(9)]
    shape = shape_of({"query": False, "document_id": False}, documents_by_id=True)
    with Texts(str(tmp_path / "t.jsonl"), "document") as texts:
        made = list(windows(rows, shape, None, texts, keep_rows=False))
    assert [len(window.pairs) for window in made] == [3, 3, 3]


def test_lists_have_a_slot_an_element_and_a_row_that_is_wrong_none() -> None:
    values = [
        {"query": "q", "documents": ["a", None, 7, {"text": "bb", "title": "c"}]},
        {"query": "q", "documents": "a"},
        {"query": None, "documents": ["a", "b"]},
        {"query": "q", "documents": []},
        ["q"],
        {"query": "q", "documents": ["a", " "]},
    ]
    found = list(scored(Sized(), values, LISTS, first_row=10, first_slot=100))
    logits = np.concatenate([one.logits for one in found])[:, 0]
    nan = np.nan
    np.testing.assert_array_equal(logits, [1, nan, nan, 4, nan, nan, 1, nan])
    failures = [failure for one in found for failure in one.failures]
    assert [(f.row, f.slot, f.kind) for f in failures] == [
        (10, 101, "no text"),
        (10, 102, "wrong type"),
        (11, None, "wrong type"),
        (12, None, "no text"),
        (14, None, "not an object"),
        (15, 107, "empty text"),
    ]
    assert [end for one in found for end in one.ends][-1] > 0


def test_rows_come_in_order_whatever_the_batches_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """And as soon as they are known: a row waits for its own pairs alone."""
    generator = np.random.default_rng(0)
    values: list[Any] = []
    for _ in range(300):
        documents = ["d" * int(n) for n in generator.integers(1, 60, generator.integers(0, 9))]
        values.append({"query": "q", "documents": [*documents, *([None] * (len(documents) % 2))]})
    wanted: list[float] = []
    for value in values:
        wanted += [np.nan if d is None else len(d) for d in value["documents"]]
    for pairs, window in ((1, 7), (3, 50), (64, 10**6)):
        monkeypatch.setattr(score_file, "_FIRST_BATCH_PAIRS", pairs)
        monkeypatch.setattr(score_file, "_BATCH_PAIRS", pairs)
        monkeypatch.setattr(rows_file, "WINDOW_PAIRS", window)
        found = list(scored(Sized(), values, LISTS))
        logits = np.concatenate([one.logits for one in found])[:, 0]
        np.testing.assert_array_equal(logits, wanted)
        assert sum(len(one.ends) for one in found) == 300
        slots = [failure.slot for one in found for failure in one.failures]
        assert slots == np.flatnonzero(np.isnan(wanted)).tolist()


def test_an_error_of_the_model_ends_it_and_its_threads() -> None:
    class Broken(Sized):
        def try_score(self, pairs: Any) -> Any:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(scored(Broken(), [pair("a", "b")] * 9))
