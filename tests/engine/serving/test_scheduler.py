"""What is read next and what runs next, by requests whose tokens are counted by hand."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from packrank.serving.request import Part, Request
from packrank.serving.scheduler import Scheduler
from packrank.serving.source import Costs

AHEAD = 300


@dataclass(frozen=True)
class Source:
    """A pair is a number, of tokens."""

    key: Hashable = "all"
    budget_tokens: int = 100


def request(*pairs: int, **options: Any) -> Request:
    given = {"caller": None, "priority": 0, "deadline": None} | options
    source: Any = given.pop("source", Source())
    return Request(
        list(pairs), source, lambda *_: None, begun=0.0, logits=np.zeros((len(pairs), 1)),
        costs=Costs(list(pairs), list(pairs)), **given,
    )  # fmt: skip


def read(scheduler: Scheduler, tokens: int = 100) -> Request | None:
    """Read what is to be read; whose it was."""
    found = scheduler.to_read(tokens)
    if found is None:
        return None
    scheduler.has_read(*found, part_of(*found))
    return found[0]


def part_of(one: Request, places: range) -> Part:
    """What reading makes of these pairs."""
    lengths = np.array(one.pairs[places.start : places.stop], dtype=np.int32)
    return Part(None, list(places), lengths)


def filled(scheduler: Scheduler) -> Scheduler:
    while read(scheduler) is not None:
        pass
    return scheduler


def test_reading_is_so_far_ahead_of_a_large_request_but_not_of_who_comes_anew() -> None:
    scheduler = Scheduler(AHEAD, 10_000)
    large = request(*[10] * 1000)
    scheduler.add(large)
    assert filled(scheduler).ready == AHEAD
    small = [request(10, 10) for _ in range(40)]
    for one in small:
        scheduler.add(one)
    assert filled(scheduler).ready == 2 * AHEAD  # of those, not of all
    assert [one.num_read for one in small[:16]] == [2] * 15 + [0]
    assert large.num_read == AHEAD // 10


def in_windows(scheduler: Scheduler, tokens: int, count: int) -> Request:
    """Read a request of one pair, which is so many sequences of so many tokens."""
    one = request(tokens * count)
    scheduler.add(one)
    found = scheduler.to_read(100)
    assert found == (one, range(1))
    lengths = np.full(count, tokens, dtype=np.int32)
    scheduler.has_read(*found, Part(None, [0] * count, lengths))
    return one


def test_a_long_document_keeps_nobody_from_being_read() -> None:
    """However many there are; each has its turns, and reading stops as soon as there is much."""
    scheduler = Scheduler(AHEAD, 10_000)
    long = [in_windows(scheduler, 20, 500) for _ in range(3)]
    bulk = request(*[10] * 1000)
    scheduler.add(bulk)
    assert read(scheduler) is bulk and read(scheduler) is None
    assert bulk.num_read == 10
    small = [request(10, 10) for _ in range(5)]
    for one in small:
        scheduler.add(one)
    filled(scheduler)
    assert [one.num_read for one in small] == [2] * 5 and bulk.num_read == 10
    seen: list[set[int]] = []
    while not all(one.num_arrived and not one.parts for one in small):
        seen.append({id(one.request) for one in scheduler.compose()})
    assert len(seen) < 8
    assert scheduler.ready == sum(one.ready_tokens for one in [*long, bulk])
    for one in long:
        assert scheduler.drop(one)
    assert scheduler.ready == bulk.ready_tokens and scheduler._long == 0
    assert read(scheduler) is bulk
    last = in_windows(scheduler, 20, 40)
    while last.parts:
        scheduler.compose()
    assert scheduler._long == 0


def test_who_comes_anew_runs_next_and_no_bulk_with_it() -> None:
    scheduler = Scheduler(AHEAD, 10_000)
    large, small = request(*[10] * 1000), request(10, 10)
    scheduler.add(large)
    filled(scheduler)
    assert {one.request for one in scheduler.compose()} == {large}
    scheduler.add(small)
    filled(scheduler)
    assert [(one.request, one.tokens) for one in scheduler.compose()] == [(small, 20)]
    assert {one.request for one in scheduler.compose()} == {large}


def test_a_turn_that_a_pack_cuts_short_goes_on_in_the_next() -> None:
    """Else of many requests all would be half done, and each wait for all."""
    scheduler = Scheduler(10_000, 10_000)
    every = [request(*[10] * 6) for _ in range(5)]
    for one in every:
        scheduler.add(one)
    filled(scheduler)
    ran = []
    while pack := scheduler.compose():
        assert sum(one.tokens for one in pack) <= 100
        ran += [(every.index(one.request), one.tokens) for one in pack]
        for one in pack:
            scheduler.has_run(one)
    assert ran == [(0, 60), (1, 40), (1, 20), (2, 60), (3, 20), (3, 40), (4, 60)]
    assert (scheduler.tokens, scheduler.ready) == (0, 0)


def test_a_turn_goes_on_in_smaller_packs_and_ends_where_its_request_does() -> None:
    source = Source()
    for is_dropped in (False, True):
        scheduler = Scheduler(10_000, 10_000)
        first, second, third = (request(*[10] * 9, source=source) for _ in range(3))
        for one in (first, second, third):
            scheduler.add(one)
        filled(scheduler)
        assert [(one.request, one.tokens) for one in scheduler.compose()] == [
            (first, 90), (second, 10)
        ]  # fmt: skip
        object.__setattr__(source, "budget_tokens", 50)
        if is_dropped:
            scheduler.drop(second)
        ran = [[(one.request, one.tokens) for one in scheduler.compose()] for _ in range(2)]
        assert ran == ([[(third, 50)], [(third, 40)]] if is_dropped else
                       [[(second, 50)], [(second, 30), (third, 20)]])  # fmt: skip
        object.__setattr__(source, "budget_tokens", 100)


def test_a_turn_takes_what_was_read_in_parts() -> None:
    scheduler = Scheduler(10_000, 10_000)
    first, second = request(*[10] * 6), request(*[10] * 6)
    for one in (first, second):
        scheduler.add(one)
    while read(scheduler, 20) is not None:
        pass
    found = [one.request for one in scheduler.compose()]
    assert found == [first] * 3 + [second] * 2


def test_what_sequences_begin_with_alike_fills_a_pack_once() -> None:
    scheduler = Scheduler(10_000, 10_000)
    one, other = request(*[30] * 12), request(*[30] * 2)
    for each in (one, other):
        scheduler.add(each)
    for shared in (20, 0):
        found = scheduler.to_read(1000)
        assert found is not None
        part = part_of(*found)
        if shared:
            part.spared = np.array([0, *[shared] * 5] * 2, dtype=np.int32)
        scheduler.has_read(*found, part)
    ran = []
    while pack := scheduler.compose():
        assert sum(taken.size for taken in pack) <= 100
        ran.append([(taken.request, taken.stop - taken.start, taken.size) for taken in pack])
        for taken in pack:
            scheduler.has_run(taken)
    # Six of one query are 30 + 5 * 10; begun in the middle of one, the first is whole again.
    assert ran == [[(one, 6, 80)], [(other, 2, 60), (one, 2, 40)], [(one, 4, 60)]]
    assert (scheduler.tokens, scheduler.load, scheduler.ready) == (0, 0, 0)


def test_what_was_read_later_of_a_request_is_no_newcomer() -> None:
    """Nor is a request read before the last part of it has come."""
    scheduler = Scheduler(10_000, 10_000)
    large, small = request(*[10] * 30), request(10)
    scheduler.add(large)
    assert read(scheduler, 100) is large
    assert [one.request for one in scheduler.compose()] == [large]  # all that there is of it
    assert not large.is_ready
    found = scheduler.to_read(100)
    assert found is not None
    assert not large.is_read
    scheduler.has_read(*found, part_of(*found))
    scheduler.add(small)
    while read(scheduler, 100) is not None:
        pass
    assert large.is_read
    assert [one.request for one in scheduler.compose()] == [small]
    assert {one.request for one in scheduler.compose()} == {large}


def test_what_has_run_waits_no_more() -> None:
    scheduler = Scheduler(AHEAD, 10_000)
    one = request(*[10] * 50)
    scheduler.add(one)
    assert scheduler.tokens == scheduler.load == 500
    ran = 0
    while pack := filled(scheduler).compose():
        for taken in pack:
            scheduler.has_run(taken)
            ran += taken.tokens
        assert scheduler.tokens == scheduler.load == 500 - ran
    assert ran == 500 and scheduler.ready == 0


def test_a_large_request_counts_for_so_much_until_less_is_left() -> None:
    scheduler = Scheduler(AHEAD, 800)
    large, small = request(*[10] * 50), request(10)
    for one in (large, small):
        scheduler.add(one)
    assert (scheduler.tokens, scheduler.load) == (510, 210)
    while pack := filled(scheduler).compose():
        for taken in pack:
            scheduler.has_run(taken)
        assert scheduler.load == min(large.cost, 200) + small.cost
    assert (scheduler.tokens, scheduler.load, scheduler.ready) == (0, 0, 0)


def test_one_caller_leaves_a_quarter_to_those_who_have_nothing() -> None:
    scheduler = Scheduler(AHEAD, 400)
    for _ in range(30):
        one = request(10, caller="many")
        assert scheduler.lacking(one) == 0
        scheduler.add(one)
    assert scheduler.load == 300
    assert scheduler.lacking(request(10, caller="many")) == 10
    other = request(60, caller="few")
    assert scheduler.lacking(other) == 0
    scheduler.add(other)
    assert scheduler.lacking(request(20, caller="few")) == 80
    assert scheduler.lacking(request(40)) == 0  # who has no name has nothing there
    assert scheduler.lacking(request(50)) == 10
    for gone in [one for one in scheduler if one.caller == "many"]:
        scheduler.drop(gone)
    assert scheduler.lacking(request(100, caller="few")) == 0
    assert not scheduler.has_of("many") and scheduler.has_of("few")


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 1000])
def test_where_nothing_is_there_is_room_for_anything(limit: int) -> None:
    scheduler = Scheduler(AHEAD, limit)
    for cost in (1, limit, 10**9):
        one = request(cost, caller="one")
        assert scheduler.lacking(one) == 0
        scheduler.add(one)
        assert scheduler.lacking(request(10**9, caller="one")) > 0 or limit > 3
        scheduler.drop(one)


def test_what_is_dropped_is_nowhere() -> None:
    scheduler = Scheduler(AHEAD, 10_000)
    every = [request(*[10] * 50, caller="one", deadline=5.0) for _ in range(5)]
    for one in every:
        scheduler.add(one)
    filled(scheduler)
    taken = scheduler.compose()
    for one in every:
        assert scheduler.drop(one) and not scheduler.drop(one)
    for one in taken:
        scheduler.has_run(one)
    assert (scheduler.tokens, scheduler.load, scheduler.ready, len(scheduler)) == (0, 0, 0, 0)
    assert scheduler.compose() == [] and read(scheduler) is None
    assert scheduler.next_deadline is None and scheduler.overdue(9.0) == []


def test_what_was_dropped_while_it_was_read_is_not_ready() -> None:
    scheduler = Scheduler(AHEAD, 10_000)
    one = request(10, 10)
    scheduler.add(one)
    found = scheduler.to_read(100)
    assert found is not None
    scheduler.drop(one)
    scheduler.has_read(one, found[1], Part(None, [0, 1], np.array([10, 10], dtype=np.int32)))
    assert scheduler.ready == scheduler.tokens == 0 and scheduler.compose() == []


def test_deadlines_come_in_their_order_whoever_is_gone() -> None:
    scheduler = Scheduler(AHEAD, 10_000)
    late, soon, gone, never = (request(10, deadline=due) for due in (9.0, 5.0, 1.0, None))
    for one in (late, soon, gone, never):
        scheduler.add(one)
    scheduler.drop(gone)
    assert scheduler.next_deadline == 5.0
    assert scheduler.overdue(4.9) == []
    assert scheduler.overdue(9.0) == [soon, late]


def test_a_place_in_memory_that_is_taken_again_has_no_deadline_of_before() -> None:
    scheduler = Scheduler(AHEAD, 10_000)
    one = request(10, deadline=1.0)
    scheduler.add(one)
    scheduler.drop(one)
    one.is_over, one.deadline = False, 50.0  # as if it were another one there
    scheduler.add(one)
    assert scheduler.overdue(2.0) == [] and scheduler.next_deadline == 50.0


def test_who_has_no_name_shares_none() -> None:
    """Not with one that was where it is now, either."""
    callers = []
    for _ in range(50):
        one = request(10)
        callers.append(one.caller)
        del one
    assert len(set(callers)) == 50


def test_what_cannot_share_a_pack_runs_alone() -> None:
    scheduler = Scheduler(AHEAD, 10_000)
    alone = [request(10, source=Source(key=None)) for _ in range(2)]
    others = [request(10, source=Source(key=key)) for key in ("a", "b", "a")]
    for one in (*alone, *others):
        scheduler.add(one)
    filled(scheduler)
    packs = []
    while pack := scheduler.compose():
        packs.append([one.request for one in pack])
    keys = [{one.source.key for one in pack} for pack in packs]
    assert all(len(one) == 1 for one in keys)
    assert [pack for pack in packs if pack[0].source.key is None] == [[one] for one in alone]
    assert sum(map(len, packs)) == 5
