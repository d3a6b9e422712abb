"""Who may race: by numbers made by hand."""

import numpy as np
import pytest

from packrank.bench.peers.agreement import Scored, check, rank_correlation

FLOAT32 = np.array([1.0, -4.0, 2.0, 3.0], dtype=np.float32)
TORCH = "sentence-transformers (bfloat16, batch 32)"


def off(name: str, dtype: str, distance: float) -> Scored:
    """One that is so far away at one pair."""
    return Scored(name, dtype, FLOAT32 + np.float32([0, 0, distance, 0]))


def left_out(*scored: Scored) -> list[str]:
    return list(check(scored, FLOAT32).left_out)


def test_float32_may_be_a_ten_thousandth_of_the_largest_away() -> None:
    assert left_out(off("a", "float32", 3.9e-4), off("b", "float32", -4.1e-4)) == ["b"]


def test_narrower_ones_may_be_twice_as_far_as_torch_in_bfloat16() -> None:
    torch = off(TORCH, "bfloat16", 0.01)
    some = [off("a", "bfloat16", 0.0199), off("b", "bfloat16", 0.0201), off("c", "float16", 0.03)]
    assert left_out(torch, *some) == ["b", "c"]
    assert left_out(*some) == []  # nobody has shown that bfloat16 can do better
    assert left_out(off("d", "bfloat16", 0.13)) == ["d"]


def test_narrower_ones_may_be_as_far_as_float32_however_good_torch_is() -> None:
    assert left_out(off(TORCH, "bfloat16", 1e-6), off("a", "bfloat16", 3e-4)) == []


def test_the_sentence_has_both_distances() -> None:
    found = check([off("a", "float32", 0.5)], FLOAT32)
    assert found.left_out == {
        "a": "a does not race: its logits are up to 0.5 from float32's, where 0.0004 is allowed"
    }


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_what_is_not_finite_does_not_race(dtype: str, wrong: float) -> None:
    found = check([off("a", dtype, wrong)], FLOAT32)
    assert found.left_out == {"a": "a does not race: its logits are not finite"}


def test_a_logit_too_few_does_not_race() -> None:
    assert left_out(Scored("a", "int8", FLOAT32[:3])) == ["a"]


def test_integers_that_order_pairs_otherwise_are_remarked_on_and_race() -> None:
    swapped = FLOAT32[[0, 1, 3, 2]]  # ranks 2 1 4 3 for 2 1 3 4: 1 - 6 * 2 / (4 * 15) = 0.8
    found = check([Scored("a", "int8", swapped), Scored("b", "int8", FLOAT32 * 9)], FLOAT32)
    assert found.left_out == {}
    assert found.remarks == ["a orders pairs otherwise than float32: rank correlation 0.80"]


def test_rank_correlation() -> None:
    rising = np.arange(5, dtype=np.float32)
    assert rank_correlation(rising, np.exp(rising)) == pytest.approx(1.0)
    assert rank_correlation(rising, -rising) == pytest.approx(-1.0)
    # Ranks 1.5 1.5 3 against 1 2 3: 1.5 / sqrt(1.5 * 2).
    tied = np.float32([7, 7, 8])
    assert rank_correlation(tied, rising[:3]) == pytest.approx(1.5 / 3**0.5)
    assert rank_correlation(np.ones(3, dtype=np.float32), rising[:3]) == 0.0
