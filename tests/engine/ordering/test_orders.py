"""Orders of documents, against whole orders, upstream's own loops and exhaustive comparison."""

import itertools
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sorting_oracles import upstream_bubble, upstream_heapsort

from packrank.ordering.orders import (
    Documents,
    Rounds,
    all_pairs,
    asked_once,
    bubbled,
    by_pairs,
    by_sets,
    heapsorted,
    sliding_windows,
)

Judge = Callable[[Documents], int]


def play(rounds: Rounds[Documents, float, list[int]], judge: Judge) -> tuple[list[int], list[int]]:
    """What an order returns, and how many questions each of its rounds asked."""
    sizes = []
    try:
        asked = next(rounds)
        while True:
            sizes.append(len(asked))
            asked = rounds.send([judge(question) for question in asked])
    except StopIteration as end:
        return end.value, sizes


def pairs_by(value: Sequence[float]) -> Judge:
    def judge(pair: Documents) -> int:
        first, second = (value[document] for document in pair)
        return (first > second) - (first < second)

    return judge


def sets_by(value: Sequence[float]) -> Judge:
    return lambda documents: max(range(len(documents)), key=lambda at: value[documents[at]])


def noisy(seed: int, judge: Judge, choices: Callable[[Documents], Sequence[int]]) -> Judge:
    """Another answer now and then, always the same to the same question."""

    def answer(documents: Documents) -> int:
        chance = random.Random(hash((seed, documents)))
        return chance.choice(choices(documents)) if chance.random() < 0.3 else judge(documents)

    return answer


def noisy_pairs(seed: int, value: Sequence[float]) -> Judge:
    return noisy(seed, pairs_by(value), lambda _: (-1, 0, 1))


def noisy_sets(seed: int, value: Sequence[float]) -> Judge:
    return noisy(seed, sets_by(value), lambda documents: range(len(documents)))


def beats(judge: Judge, first: int, second: int) -> bool:
    """Whether one document wins against another, whichever is named first."""
    if first < second:
        return judge((first, second)) > 0
    return judge((second, first)) < 0


values = st.lists(st.integers(0, 40), min_size=0, max_size=24)


@given(values, st.integers(1, 30))
def test_a_perfect_judge_of_pairs_sorts(value: list[int], most: int) -> None:
    best = sorted(value, reverse=True)[:most]
    for order in (
        heapsorted(len(value), most, 2, by_pairs),
        bubbled(len(value), most, 2, by_pairs),
    ):
        found, _ = play(order, pairs_by(value))
        assert [value[document] for document in found] == best
        assert len(set(found)) == len(found)


@given(values, st.integers(1, 30), st.integers(2, 6))
def test_a_perfect_judge_of_sets_sorts(value: list[int], most: int, children: int) -> None:
    best = sorted(value, reverse=True)[:most]
    for order in (
        heapsorted(len(value), most, children, by_sets),
        bubbled(len(value), most, children + 1, by_sets),
    ):
        found, _ = play(order, sets_by(value))
        assert [value[document] for document in found] == best
        assert len(set(found)) == len(found)


@given(values)
def test_all_pairs_order_by_wins(value: list[int]) -> None:
    """A tie keeps the given order; each of the n (n - 1) / 2 pairs is asked, in one round."""
    found, sizes = play(all_pairs(len(value), len(value)), pairs_by(value))
    assert found == sorted(range(len(value)), key=lambda document: -value[document])
    count = len(value)
    assert sizes == ([count * (count - 1) // 2] if count > 1 else [])


@given(values, st.integers(0, 1000))
def test_all_pairs_count_what_a_noisy_judge_says(value: list[int], seed: int) -> None:
    judge = noisy_pairs(seed, value)
    wins = dict.fromkeys(range(len(value)), 0.0)
    for first, second in itertools.combinations(range(len(value)), 2):
        answer = judge((first, second))
        wins[first] += {1: 1.0, 0: 0.5, -1: 0.0}[answer]
        wins[second] += {1: 0.0, 0: 0.5, -1: 1.0}[answer]
    found, _ = play(all_pairs(len(value), len(value)), judge)
    assert found == sorted(wins, key=lambda document: -wins[document])


def in_turn(judge: Judge) -> Callable[[list[int]], int]:
    """The best of some documents, each against the best so far."""

    def best_of(documents: list[int]) -> int:
        best = 0
        for place in range(1, len(documents)):
            if beats(judge, documents[place], documents[best]):
                best = place
        return best

    return best_of


def at_once(judge: Judge) -> Callable[[list[int]], int]:
    return lambda documents: judge(tuple(documents)) if len(documents) > 1 else 0


@given(values, st.integers(1, 30), st.integers(0, 1000))
def test_pairs_of_a_noisy_judge_sort_as_one_by_one(value: list[int], most: int, seed: int) -> None:
    judge = noisy_pairs(seed, value)
    best_of = in_turn(judge)
    found, _ = play(heapsorted(len(value), most, 2, by_pairs), judge)
    assert found == upstream_heapsort(len(value), most, 2, best_of)[0]
    found, _ = play(bubbled(len(value), most, 2, by_pairs), judge)
    assert found == upstream_bubble(len(value), most, 2, best_of)


@given(values, st.integers(1, 30), st.integers(2, 5), st.integers(0, 1000))
def test_sets_of_a_noisy_judge_sort_as_one_by_one(
    value: list[int], most: int, children: int, seed: int
) -> None:
    judge = noisy_sets(seed, value)
    best_of = at_once(judge)
    found, sizes = play(heapsorted(len(value), most, children, by_sets), judge)
    expected, asked = upstream_heapsort(len(value), most, children, best_of)
    assert found == expected
    assert sum(sizes) == asked
    found, _ = play(bubbled(len(value), most, children + 1, by_sets), judge)
    assert found == upstream_bubble(len(value), most, children + 1, best_of)


@given(values, st.integers(1, 30), st.integers(0, 1000))
def test_what_was_asked_is_not_asked_again(value: list[int], most: int, seed: int) -> None:
    judge = noisy_pairs(seed, value)
    asked: list[Documents] = []

    def counting(pair: Documents) -> int:
        asked.append(pair)
        return judge(pair)

    plain, _ = play(bubbled(len(value), most, 2, by_pairs), judge)
    found, _ = play(asked_once(bubbled(len(value), most, 2, by_pairs)), counting)
    assert found == plain
    assert len(set(asked)) == len(asked)


def test_passes_run_together() -> None:
    """Ten passes over 100 documents take the rounds of one pass and 18 more, not ten times 99."""
    _, sizes = play(bubbled(100, 10, 2, by_pairs), pairs_by(range(100)))
    assert len(sizes) == 99 - 9 + 18
    assert sum(sizes) == sum(99 - late for late in range(10))


def test_a_heap_is_built_a_depth_at_a_time() -> None:
    _, sizes = play(heapsorted(63, 1, 2, by_pairs), pairs_by([0.0] * 63))
    # Nobody wins, so that each of 31 nodes is held against its two children and stays.
    assert sizes == [16, 16, 8, 8, 4, 4, 2, 2, 1, 1]


def windows_of(count: int, size: int = 20, stride: int = 10) -> list[tuple[int, int]]:
    """(start, stop) of the windows that a judge sees who changes nothing."""
    rounds = sliding_windows(count, size, stride)
    found = []
    try:
        [window] = next(rounds)
        while True:
            found.append((window[0], window[-1] + 1))
            [window] = rounds.send([range(len(window))])
    except StopIteration as end:
        assert end.value == list(range(count))
    return found


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, []),
        (1, []),
        (19, [(0, 19)]),
        (20, [(0, 20)]),
        (21, [(1, 21), (0, 11)]),
        (35, [(15, 35), (5, 25), (0, 15)]),
        (100, [(start, start + 20) for start in range(80, -1, -10)]),
    ],
)
def test_windows_slide_to_the_first_document(count: int, expected: list[tuple[int, int]]) -> None:
    assert windows_of(count) == expected


@given(values.filter(bool), st.integers(2, 8), st.data())
def test_windows_bring_the_best_to_the_front(
    value: list[int], size: int, data: st.DataObject
) -> None:
    """As many as windows have in common come out in their order."""
    stride = data.draw(st.integers(1, size - 1))
    rounds, found = sliding_windows(len(value), size, stride), list[int]()
    try:
        [window] = next(rounds)
        while True:
            places = sorted(range(len(window)), key=lambda at: -value[window[at]])
            [window] = rounds.send([places])
    except StopIteration as end:
        found = [value[document] for document in end.value]
    best = sorted(value, reverse=True)
    assert found[: size - stride] == best[: size - stride]
    assert sorted(found, reverse=True) == best
