"""Which candidates go on past an exit layer."""

import math

import numpy as np
import pytest

from packrank.exits.rule import kept


def array(*scores: float) -> np.ndarray:
    return np.array(scores, dtype=np.float32)


@pytest.mark.parametrize(
    ("scores", "top_k", "margin", "expected"),
    [
        ([3.0, 1.0, 2.0], 1, 1.0, [1, 0, 1]),  # 2 + 1 is not below 3
        ([3.0, 1.0, 2.0], 2, 0.0, [1, 0, 1]),
        ([3.0, 1.0, 2.0], 3, 0.0, [1, 1, 1]),
        ([3.0, 1.0], 5, 0.0, [1, 1]),
        ([2.0, 2.0, 2.0, 1.0], 1, 0.0, [1, 1, 1, 0]),
        ([3.0, math.nan, 1.0], 1, 0.5, [1, 1, 0]),
        ([3.0, math.nan, 1.0], 2, 0.0, [1, 1, 1]),  # two are no more than two
        ([math.nan, math.nan], 1, 0.0, [1, 1]),
        ([math.inf, 3.0, -math.inf], 2, 1.0, [1, 1, 0]),
        ([3.0, -math.inf], 1, math.inf, [1, 1]),
        ([], 1, 0.0, []),
    ],
)
def test_the_rule(scores: list[float], top_k: int, margin: float, expected: list[int]) -> None:
    assert kept(array(*scores), top_k, margin).tolist() == [bool(one) for one in expected]


def test_the_rule_is_what_it_says_on_any_scores(thorough: bool) -> None:
    rng = np.random.default_rng(3)
    for _ in range(100_000 if thorough else 300):
        n, top_k = rng.integers(1, 12, 2).tolist()
        scores = rng.integers(-3, 4, n).astype(np.float32)
        scores[rng.random(n) < 0.2] = np.nan
        margin = float(rng.choice([0.0, 0.5, 1.0, 3.0, math.inf]))
        alive = sorted((s for s in scores.tolist() if s == s), reverse=True)
        want = [
            not (s == s and len(alive) > top_k and s + margin < alive[top_k - 1])
            for s in scores.tolist()
        ]
        assert kept(scores, top_k, margin).tolist() == want


def test_a_margin_is_not_rounded_to_the_scores() -> None:
    """In float32 the second and the margin add up to the first."""
    scores = array(1.0 + 2**-22, 1.0 + 2**-23)
    assert kept(scores, 1, 2.0**-24).tolist() == [True, False]
    assert kept(scores, 1, 2.0**-23).tolist() == [True, True]
