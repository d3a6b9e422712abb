"""A file of pairs is scored a window at a time."""

import io
import json
from typing import Any

import numpy as np
import pytest
from tqdm import tqdm

from packrank.jobs import score as score_file
from packrank.records.record import Record


class Sized:
    """Gives every pair the score 0 and notes how many come at once."""

    num_tokens = 0

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def try_score(self, pairs: list[tuple[str, str]]) -> tuple[np.ndarray, dict[int, str]]:
        self.sizes.append(len(pairs))
        return np.zeros(len(pairs), dtype=np.float32), {}


@pytest.mark.parametrize(
    ("seconds", "characters", "sizes"),
    [
        (1e9, 10**9, [2, 4, 8, 8, 8]),
        (0.0, 10**9, [2] * 15),
        (1e9, 5, [2, *[3] * 9, 1]),
    ],
)
def test_windows_grow_while_they_are_quick(
    monkeypatch: pytest.MonkeyPatch, seconds: float, characters: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(score_file, "_FIRST_WINDOW_PAIRS", 2)
    monkeypatch.setattr(score_file, "_WINDOW_PAIRS", 8)
    monkeypatch.setattr("packrank.jobs.pace._SECONDS", seconds)
    monkeypatch.setattr(score_file, "_WINDOW_CHARACTERS", characters)
    model: Any = Sized()
    records = [Record(i, {"query": "a", "document": chr(98 + i)}) for i in range(30)]
    sink = io.StringIO()
    with tqdm(total=30, disable=True) as bar:
        totals = score_file.score_records(model, records, sink, bar, lambda *_: pytest.fail())
    assert model.sizes == sizes
    assert totals.pairs == 30
    assert [row["line"] for row in map(json.loads, sink.getvalue().splitlines())] == list(range(30))


class Lengths(Sized):
    """Scores a pair by its document's length; one that is empty fails."""

    def try_score(self, pairs: list[tuple[str, str]]) -> tuple[np.ndarray, dict[int, str]]:
        super().try_score(pairs)
        lengths = [len(document) for _, document in pairs]
        reasons = {place: "is empty" for place, length in enumerate(lengths) if not length}
        return np.array(lengths, dtype=np.float32), reasons


def test_a_pair_that_repeats_is_scored_once() -> None:
    model: Any = Lengths()
    pairs = [("q", "aa"), ("q", ""), ("r", "aa"), ("q", "aa"), ("q", ""), ("q", "b")]
    records = [Record(n, {"query": q, "document": d}) for n, (q, d) in enumerate(pairs)]
    records.insert(2, Record(9, {}, "is no pair"))
    sink, failed = io.StringIO(), []
    with tqdm(total=7, disable=True) as bar:
        totals = score_file.score_records(
            model, records, sink, bar, lambda record, reason: failed.append((record.number, reason))
        )
    assert model.sizes == [4]
    rows = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert [row.get("score") for row in rows] == [2, None, None, 2, 2, None, 1]
    assert failed == [(1, "is empty"), (9, "is no pair"), (4, "is empty")]
    assert (totals.pairs, totals.readable) == (4, 6)
