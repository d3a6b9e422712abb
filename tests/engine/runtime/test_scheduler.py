import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from packrank.errors import InputError
from packrank.runtime.scheduler import plan

LENGTHS = st.lists(st.integers(0, 40), max_size=60)
BUDGET = st.integers(1, 100)


@given(LENGTHS, BUDGET)
def test_every_index_is_in_exactly_one_pack(lengths: list[int], budget: int) -> None:
    packs = plan(lengths, budget)
    assert sorted(i for pack in packs for i in pack) == list(range(len(lengths)))
    assert all(len(pack) for pack in packs)


@given(LENGTHS, BUDGET)
def test_only_a_sequence_that_is_alone_exceeds_the_budget(lengths: list[int], budget: int) -> None:
    for pack in plan(lengths, budget):
        assert len(pack) == 1 or sum(lengths[i] for i in pack) <= budget


@given(LENGTHS, BUDGET)
def test_longest_first_and_equal_lengths_in_their_order(lengths: list[int], budget: int) -> None:
    packs = plan(lengths, budget)
    for falling in (*packs, [pack[0] for pack in packs]):
        found = [lengths[i] for i in falling]
        assert found == sorted(found, reverse=True)
    order = [int(i) for pack in packs for i in pack]
    assert sorted(order, key=lambda i: -lengths[i]) == sorted(
        range(len(lengths)), key=lambda i: -lengths[i]
    )


@given(LENGTHS, BUDGET)
def test_nothing_that_comes_later_would_have_fitted(lengths: list[int], budget: int) -> None:
    packs = plan(lengths, budget)
    for number, pack in enumerate(packs):
        left = budget - sum(lengths[i] for i in pack)
        assert all(lengths[i] > left for later in packs[number + 1 :] for i in later)


@given(LENGTHS, BUDGET)
def test_a_pack_is_closed_only_when_the_next_sequence_does_not_fit(
    lengths: list[int], budget: int
) -> None:
    packs = plan(lengths, budget)
    for pack, following in itertools.pairwise(packs):
        assert sum(lengths[i] for i in pack) + lengths[following[0]] > budget


def test_packs_of_a_worked_example() -> None:
    packs = plan([3, 9, 4, 4, 12], 10)
    assert [pack.tolist() for pack in packs] == [[4], [1], [2, 3], [0]]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_lengths_may_be_an_array(dtype: type) -> None:
    packs = plan(np.array([1, 2, 3], dtype=dtype), 3)
    assert [pack.tolist() for pack in packs] == [[2], [1, 0]]
    assert all(pack.dtype == np.int64 for pack in packs)


def test_sums_past_32_bits_are_exact() -> None:
    longest = np.iinfo(np.int32).max
    packs = plan(np.full(5, longest, dtype=np.int32), 2 * longest)
    assert [len(pack) for pack in packs] == [2, 2, 1]


def test_nothing_gives_no_packs() -> None:
    assert plan([], 8) == []


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_below_one_is_refused(budget: int) -> None:
    with pytest.raises(InputError, match=f"budget_tokens is {budget}, expected at least 1"):
        plan([1], budget)


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(InputError, match="a sequence has length -2"):
        plan([1, -2], 8)
