import math
from pathlib import Path

import pytest

from packrank.demo.metrics import ndcg, read_qrels
from packrank.errors import InputError

GRADES = {"a": 2, "b": 1, "c": 0, "d": 1}


def test_by_hand_with_linear_gain() -> None:
    # Gains 0, 2, 0, 1 at places 1 to 4; the best order has 2, 1, 1.
    dcg = 2 / math.log2(3) + 1 / math.log2(5)
    best = 2 + 1 / math.log2(3) + 1 / 2
    assert ndcg(["c", "a", "x", "b"], GRADES) == pytest.approx(dcg / best, rel=1e-12)


def test_only_the_first_k_places_count_on_both_sides() -> None:
    assert ndcg(["b", "a"], GRADES, k=1) == 0.5
    assert ndcg(["a"], GRADES, k=1) == 1.0
    assert ndcg(["a", "d", "b", "c"], GRADES, k=3) == 1.0


def test_nothing_relevant_is_zero() -> None:
    assert ndcg(["x", "c"], GRADES) == 0.0
    assert ndcg(["x"], {}) == 0.0
    assert ndcg([], GRADES) == 0.0
    assert ndcg(["a"], {"a": -1}) == 0.0


def test_a_negative_grade_is_no_loss() -> None:
    assert ndcg(["bad", "a"], {"a": 1, "bad": -2}) == ndcg(["x", "a"], {"a": 1})


def test_refuses_what_cannot_be_measured() -> None:
    with pytest.raises(InputError, match="k of at least 1, got 0"):
        ndcg(["a"], GRADES, k=0)
    with pytest.raises(InputError, match="twice"):
        ndcg(["a", "a"], GRADES)


def test_read_qrels(tmp_path: Path) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text("1\t10\t2\n1\t11\t0\ntwo\t10\t1\n")
    assert read_qrels(path) == {"1": {"10": 2, "11": 0}, "two": {"10": 1}}


@pytest.mark.parametrize("line", ["1\t10", "1\t10\tgood", "1\t10\t1\t1", "1 10 1"])
def test_read_qrels_names_the_bad_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text(f"1\t10\t2\n{line}\n")
    with pytest.raises(InputError, match="line 2: expected query, document and grade"):
        read_qrels(path)
