"""Whose turn it is: fair by tokens, by priority, and nobody is starved."""

from collections import Counter
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packrank.serving.order import STEP_TOKENS, Order


def served(order: Order[str], turns: int, tokens: int = 100) -> list[str]:
    found = []
    for _ in range(turns):
        first = order.first()
        assert first is not None
        flow, item = first
        found.append(item)
        order.served(flow, tokens, is_over=False)
    return found


def test_callers_take_turns() -> None:
    order: Order[str] = Order()
    for item in "abc":
        order.add(item, item, 0)
    assert served(order, 6) == list("abcabc")
    assert sorted(order) == list("abc")


def test_items_of_one_caller_are_one_flow() -> None:
    order: Order[str] = Order()
    for item in ("a1", "a2", "a3"):
        order.add(item, "a", 0)
    order.add("b", "b", 0)
    assert served(order, 4) == ["a1", "b", "a1", "b"]
    flow, _ = order.first() or ("", "")
    order.served(flow, 100, is_over=True)
    assert served(order, 2) == ["b", "a2"]


def test_turns_are_by_tokens_not_by_number() -> None:
    order: Order[str] = Order()
    order.add("long", "long", 0)
    order.add("short", "short", 0)
    tokens: Counter[str] = Counter()
    for _ in range(1100):
        flow, item = order.first() or ("", "")
        size = 1000 if item == "long" else 10
        tokens[item] += size
        order.served(flow, size, is_over=False)
    assert abs(tokens["long"] - tokens["short"]) <= 1000


def test_a_newcomer_is_next_and_saves_nothing_up() -> None:
    order: Order[str] = Order()
    order.add("old", "old", 0)
    served(order, 50)
    order.add("new", "new", 0)
    assert served(order, 4) == ["new", "old", "new", "old"]


def test_who_leaves_and_comes_back_has_not_forgotten_its_turns() -> None:
    order: Order[str] = Order()
    order.add("a", "a", 0)
    order.add("b", "b", 0)
    flow, item = order.first() or ("", "")
    assert item == "a"
    order.served(flow, 1000, is_over=True)
    order.add("a again", "a", 0)
    assert served(order, 10) == ["b"] * 10


def test_lower_priority_numbers_go_first_and_others_are_not_starved() -> None:
    order: Order[str] = Order()
    order.add("later", "later", 2)
    order.add("now", "now", 0)
    turns = served(order, 400)
    first = turns.index("later")
    assert first * 100 >= 2 * STEP_TOKENS  # others have had that many tokens by then
    counts = Counter(turns[first:])
    assert 2 < counts["now"] / counts["later"] < 4  # a third of the weight


def test_a_stream_of_newcomers_starves_nobody() -> None:
    order: Order[str] = Order()
    order.add("patient", "patient", 5)
    order.add("new", -1, 0)
    for n in range(200):
        order.add("new", n, 0)
        flow, item = order.first() or ("", "")
        if item == "patient":
            break
        order.served(flow, 1000, is_over=True)
    assert item == "patient"


def test_what_is_dropped_has_no_turn() -> None:
    order: Order[str] = Order()
    order.add("a", "a", 0)
    order.add("b", "b", 0)
    order.drop("a", "a", 0)
    order.drop("a", "a", 0)  # which is out
    order.drop("b", "other", 0)
    assert served(order, 2) == ["b", "b"]
    order.drop("b", "b", 0)
    assert order.first() is None and not [*order]
    order.add("a", "a", 0)
    assert served(order, 1) == ["a"]


def test_who_was_away_has_saved_nothing_up() -> None:
    order: Order[str] = Order()
    order.add("a", "a", 0)
    order.add("b", "b", 0)
    flow, _ = order.first() or ("", "")
    order.served(flow, 100, is_over=True)
    flow, item = order.first() or ("", "")
    assert item == "b"
    order.served(flow, 1_000_000, is_over=False)  # at once, while a is away
    order.add("a again", "a", 0)
    order.add("new", "new", 0)
    assert "new" in served(order, 2)


def test_what_one_had_while_nobody_else_waited_is_not_held_against_it() -> None:
    order: Order[str] = Order()
    order.add("old", "old", 9)
    served(order, 1000)
    order.add("new", "new", 0)
    turns = served(order, 200)
    assert turns[0] == "new" and 8 <= turns.count("new") / turns.count("old") <= 12


def test_to_drop_an_item_is_not_to_forget_what_its_flow_has_had() -> None:
    order: Order[str] = Order()
    for item in ("a", "b"):
        order.add(item, item, 0)
    flow, item = order.first() or ("", "")
    order.served(flow, 1000, is_over=False)
    order.drop(item, item, 0)
    order.add("a again", "a", 0)
    assert served(order, 10) == ["b"] * 10


def test_a_flow_is_forgotten_once_everyone_has_had_as_much() -> None:
    for more, turns in ((1080, ["b", "a again"]), (1110, ["a again"])):
        order: Order[str] = Order()
        for item in ("a", "b"):
            order.add(item, item, 0)
        flow, _ = order.first() or ("", "")
        order.served(flow, 1100, is_over=True)
        served(order, 1, more)
        order.add("a again", "a", 0)
        assert served(order, len(turns)) == turns


def test_a_caller_that_comes_again_and_again_waits_for_one_turn_of_another() -> None:
    """As if it were always a new one: what it had while the other waited is made up for.

    The other has the device for itself between two of its requests.
    """
    order: Order[str] = Order()
    order.add("bulk", "bulk", 0)
    served(order, 3, 4096)
    for n in range(50):
        order.add(f"few {n}", n, 0)
        flow, item = order.first() or ("", "")
        assert item == f"few {n}"
        order.served(flow, 2600, is_over=True)
        assert served(order, 1, 4096) == ["bulk"]


def test_of_two_weights_the_virtual_time_goes_by_both() -> None:
    order: Order[str] = Order()
    order.add("a", "a", 0)
    served(order, 1, STEP_TOKENS)
    order.add("b", "b", 1)
    served(order, 1, STEP_TOKENS)
    tokens = Counter(served(order, 300, 1000))
    assert abs(tokens["a"] - 2 * tokens["b"]) <= 4
    order.add("new", "new", 0)
    assert served(order, 2, 10)[0] in ("new", "b")
    assert abs(order._now - order._flows["a", 0].tag) <= 2000


@pytest.mark.parametrize("priorities", [[0] * 10, range(10), [0, 9], [3, 5, 7]])
def test_more_priorities_are_no_more_turns(priorities: list[int]) -> None:
    """All flows of one caller get what the best of them would alone, each of them something."""
    order: Order[str] = Order()
    for place, priority in enumerate(priorities):
        order.add(f"many {place}", "many", priority)
    order.add("one", "one", min(priorities))
    order.add("other", "other", min(priorities))
    served(order, 2000, 1000)  # until the last of them has its turns
    turns = Counter(served(order, 9000, 1000))
    many = sum(count for name, count in turns.items() if name.startswith("many"))
    assert turns["one"] == pytest.approx(turns["other"], abs=2)
    assert many == pytest.approx(turns["one"], rel=0.02)
    for priority in set(priorities):
        mine = turns[f"many {priorities.index(priority)}"]
        assert mine * (1 + priority) == pytest.approx(
            turns["many 0"] * (1 + priorities[0]), rel=0.05, abs=2 * (1 + priority)
        )


def test_what_nobody_waits_for_is_forgotten() -> None:
    order: Order[int] = Order()
    order.add(-1, "patient", 0)
    for n in range(1000):
        order.add(n, n, 999)
        order.drop(n, n, 999)
    assert len(order._flows) == 1 and len(order._turns) < 100 and len(order._events) < 100


class Model:
    """Random flows, each with what it was served since the others have been there with it."""

    def __init__(self, draw: Random, callers: int) -> None:
        self.order: Order[list[str]] = Order()
        self.draw, self.callers = draw, callers
        self.waiting: dict[tuple[int, int], list[list[str]]] = {}

    def step(self, sizes: list[int]) -> tuple[tuple[int, int], int] | None:
        """Add, drop or serve one item; returns whom it served, and how much."""
        key = self.draw.randrange(self.callers), self.draw.choice([0, 0, 0, 1, 5])
        kind = self.draw.random()
        flow = self.waiting.get(key, [])
        if kind < 0.3:
            self.waiting.setdefault(key, []).append(item := ["item"])
            self.order.add(item, *key)
        elif kind < 0.4 and flow:
            self.order.drop(flow.pop(self.draw.randrange(len(flow))), *key)
        else:
            return self.serve(self.draw.choice(sizes), is_over=self.draw.random() < 0.5)
        return None

    def check(self) -> None:
        """Who counts is known, and what nobody waits for is forgotten in time."""
        order = self.order
        counting: dict[Any, list[int]] = {}
        for (caller, priority), flow in order._flows.items():
            if flow.counts:
                counting.setdefault(caller, []).append(1 + priority)
        assert {key: sorted(one.weights) for key, one in order._callers.items()} == {
            key: sorted(weights) for key, weights in counting.items()
        }
        assert +order._counting == Counter(map(min, counting.values()))
        for flow in order._flows.values():
            assert flow.items or (flow.counts and flow.tag > order._now and flow.event)
            assert flow.counts or flow.event

    def serve(self, tokens: int, *, is_over: bool) -> tuple[tuple[int, int], int] | None:
        first = self.order.first()
        self.waiting = {key: items for key, items in self.waiting.items() if items}
        assert (first is None) == (not self.waiting)  # it conserves work
        assert len([*self.order]) == sum(map(len, self.waiting.values()))
        self.check()
        if first is None:
            return None
        key, item = first
        assert self.waiting[key][0] is item  # in the order of its flow
        self.order.served(key, tokens, is_over=is_over)
        if is_over:
            self.waiting[key].pop(0)
        return key, tokens


@given(seed=st.integers(0, 1 << 32), largest=st.sampled_from([1, 1000, 100_000]))
def test_two_who_wait_all_the_time_get_as_much(seed: int, largest: int) -> None:
    """By their weights, up to a turn of each, whatever else comes and goes."""
    draw = Random(seed)
    model = Model(draw, callers=6)
    sizes = [1, max(largest // 7, 1), largest]
    for _ in range(draw.randrange(60)):
        model.step(sizes)
    mine = {(100, draw.choice([0, 2])): 0, (101, draw.choice([0, 2])): 0}
    (one, two), offset = mine, 0
    for key in mine:
        model.waiting[key] = [["mine"] for _ in range(400)]
        for item in model.waiting[key]:
            model.order.add(item, *key)
    offset = STEP_TOKENS * abs(one[1] - two[1])
    for _ in range(250):
        found = model.step(sizes)
        if found is not None and found[0] in mine:
            mine[found[0]] += found[1]
        tags = {key: served * (1 + key[1]) for key, served in mine.items()}
        bound = largest * (2 + one[1] + two[1]) + offset
        assert abs(tags[one] - tags[two]) <= bound


@given(seed=st.integers(0, 1 << 32), priority=st.integers(0, 9))
def test_nobody_is_starved(seed: int, priority: int) -> None:
    """However many come anew, at most so many at a time: all others' tokens are bounded."""
    draw = Random(seed)
    model = Model(draw, callers=4)
    for _ in range(draw.randrange(60)):
        model.step([10, 1000])
    patient = (100, priority)
    model.waiting[patient] = [["patient"]]
    tags = [flow.tag for flow in model.order._flows.values()]
    ahead = max([*tags, model.order._now]) - model.order._now + STEP_TOKENS * priority
    model.order.add(model.waiting[patient][0], *patient)
    others, most, callers = 0, 6, count(1000)
    while True:
        while sum(map(bool, model.waiting.values())) < most:
            key = next(callers), draw.choice([0, priority])
            model.waiting.setdefault(key, []).append(item := ["new"])
            model.order.add(item, *key)
        found = model.serve(1000, is_over=draw.random() < 0.7)
        assert found is not None
        if found[0] == patient:
            return
        others += found[1]
        assert others <= most * (ahead + 2 * 1000 * (1 + priority))
