"""Readings side by side: what differs, by how much, and how it is said."""

import numpy as np
import pytest

from packrank.request import Int32
from packrank.verify.comparison import Allowed, order_row, same_tokens, token_row, value_row
from packrank.verify.reading import Float32, Reading
from packrank.verify.report import Report

PAIRS = [("q", "a"), ("q", "b"), ("q", "c")]
ALLOWED = Allowed(expected=0.01, margin=10.0)


def ids(*numbers: int) -> Int32:
    return np.array(numbers, dtype=np.int32)


def floats(*numbers: float) -> Float32:
    return np.array(numbers, dtype=np.float32)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ((ids(1, 2, 3),), (ids(1, 5, 3),), "token 2: 2 where X has 5"),
        ((ids(1, 2),), (ids(1, 2, 3),), "2 tokens where X has 3"),
        ((ids(1), ids(4, 5)), (ids(1), ids(4, 6)), "document token 2: 5 where X has 6"),
        ((ids(1), ids(4)), (ids(1, 1), ids(5)), "1 query tokens where X has 2"),
    ],
)
def test_where_ids_differ(ours: tuple[Int32, ...], theirs: tuple[Int32, ...], said: str) -> None:
    same = Reading((ids(7),) * len(ours))
    both = [(0, same, same), (1, Reading(ours), Reading(theirs))]
    row = token_row(both, PAIRS, "X")
    assert (row.count, row.differing, row.pair) == (2, 1, PAIRS[1])
    assert row.first == f"the first in pair 2, {said}"
    assert same_tokens(both) == both[:1]


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("ours", "theirs", "largest"),
    [
        (floats(1, -INF), floats(1, -INF), 0.0),
        (floats(NAN), floats(NAN), 0.0),
        (floats(1, 2), floats(1, 2.5), 0.5),
        (floats(NAN), floats(1), INF),
        (floats(1), floats(-INF), INF),
        (floats(1, 2), floats(1), INF),
        (floats(), floats(), 0.0),
    ],
)
def test_how_far_numbers_are_apart(ours: Float32, theirs: Float32, largest: float) -> None:
    row = value_row("logits", {0: ([ours], [theirs])}, ALLOWED, PAIRS)
    assert row.largest == largest
    assert row.differing == (largest > 0.1)
    assert row.pair == (PAIRS[0] if row.differing else None)


def test_an_order_counts_where_scores_are_further_apart_than_roundings() -> None:
    def row(*scores: float) -> int:
        theirs = (1.0, 0.5, 0.45)
        both = [
            (place, Reading((), (), floats(ours)), Reading((), (), floats(theirs[place])))
            for place, ours in enumerate(scores)
        ]
        found = order_row(both, PAIRS, ALLOWED)
        assert found.count == 1
        return found.differing

    assert row(1.0, 0.5, 0.45) == 0
    assert row(1.0, 0.44, 0.46) == 0, "too close to tell"
    assert row(0.3, 0.5, 0.45) == 1


def test_a_report_of_nothing_is_not_compared() -> None:
    report = Report("m", None, "float32", (), (), {}, "install it")
    assert (report.verdict, report.sentence) == ("not compared", "not compared: install it")
    row = token_row([], PAIRS, "X")
    assert Report("m", "X", "float32", (row,), (), {}).verdict == "not compared"
