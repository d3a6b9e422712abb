"""Who has the next turn: fair queuing by start tags, with priorities as weights.

Every flow (a caller at one priority) has a tag: how many tokens it has been served, weighted. The
least tag goes next, and a flow that comes anew starts at the virtual time, which is what each flow
would have been served by then had all been served alike, a token at a time: nobody saves turns up,
and a stream of newcomers starves nobody. Who has had all that it wanted still counts for the
virtual time until that has reached its tag: only then would it have been done, served alike.

The flows of a caller share what the one of them that weighs most would get alone: in proportion to
their weights, so that none of them starves, and more priorities are no more turns.
Source: Parekh and Gallager 1993 (the virtual time), Goyal, Vin and Cheng 1996 (start tags).
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_Key = tuple[Hashable, int]  # whose, at which priority
_Turn = tuple[float, bool, int, _Key]  # tag, whether it is no newcomer's, when, whose
_Event = tuple[float, int, _Key]  # virtual time, when, whose
_SLACK = 64  # entries of a heap that may be out of date, beside as many as there are flows
# What a step of priority is worth: by so many tokens others are served first, however late they
# come, and of each token that is served it counts as one more.
STEP_TOKENS = 4096


@dataclass
class _Flow(Generic[_Item]):
    """Items of a caller at a priority.

    Attributes:
        weight: by which a token counts, at least.
        tag: see above.
        counts: for the virtual time; one of a later priority does from its first tag on.
        turn: in the heap; others that are there are out of date. Likewise event: when it begins to
            count, or is forgotten.
        items: by their `id`.
    """

    weight: int
    tag: float
    counts: bool = False
    turn: _Turn | None = None
    event: _Event | None = None
    items: "OrderedDict[int, _Item]" = field(default_factory=OrderedDict)


@dataclass
class _Caller:
    """The flows of a caller that count.

    Attributes:
        weights: of each.
        least: of these, by which all of them together count.
        crowd: how many times its own weight a token of each counts, since there are others: so
            much less each gets, and all together what the first would alone.
    """

    weights: list[int] = field(default_factory=list)
    least: int = 1
    crowd: float = 1.0


class Order(Generic[_Item]):
    """Items that wait, by flow; the caller takes from the one that is first. Not for threads."""

    def __init__(self) -> None:
        self._flows: dict[_Key, _Flow[_Item]] = {}
        self._turns: list[_Turn] = []
        self._events: list[_Event] = []
        self._now = 0.0  # virtual time
        self._count = 0
        self._callers: dict[Hashable, _Caller] = {}  # who has flows that count
        self._counting: Counter[int] = Counter()  # callers of those, by the least of their weights

    def __iter__(self) -> Iterator[_Item]:
        return (item for flow in self._flows.values() for item in flow.items.values())

    def add(self, item: _Item, caller: Hashable, priority: int, *, is_new: bool = True) -> None:
        """Put an item at the end of its flow.

        Args:
            item: that waits.
            caller: whose flow it is; items of one take their turns in their order.
            priority: from 0; lower goes first.
            is_new: whether nothing of it was served before, so that it goes before its equals.
        """
        key = caller, priority
        flow = self._flows.get(key)
        if flow is None:
            flow = _Flow(1 + priority, self._now + STEP_TOKENS * priority)
            self._flows[key] = flow
            if priority:
                self._push_event(key, flow)
            else:
                self._begin(key, flow)
            self._push_turn(key, flow, is_new=is_new)
        elif not flow.items:  # who comes back is no newcomer
            flow.event = None
            self._push_turn(key, flow)
        flow.items[id(item)] = item

    def first(self) -> tuple[_Key, _Item] | None:
        """Whose turn it is, and the item; None if nobody waits."""
        while self._turns:
            turn = self._turns[0]
            key = turn[-1]
            flow = self._flows.get(key)
            if flow is not None and flow.turn is turn and flow.items:
                return key, next(iter(flow.items.values()))
            heapq.heappop(self._turns)
        # Served alike, all would be done by now.
        self._now = max([self._now, *(flow.tag for flow in self._flows.values())])
        self._flows.clear()
        self._events.clear()
        self._callers.clear()
        self._counting.clear()
        return None

    def served(self, key: _Key, tokens: int, *, is_over: bool) -> None:
        """Note what the first item of a flow was served.

        Args:
            key: by `first`.
            tokens: that it was served.
            is_over: whether nothing is left of the item.
        """
        flow = self._flows[key]
        self._begin(key, flow)
        flow.event = None
        self._pass_to(flow.tag)  # nobody who waits has had less
        flow.tag += flow.weight * self._callers[key[0]].crowd * tokens
        self._advance(tokens)
        if is_over:
            flow.items.popitem(last=False)
        if flow.items:
            self._push_turn(key, flow)
        else:
            self._leave(key, flow)

    def drop(self, item: _Item, caller: Hashable, priority: int) -> None:
        """Take an item out, if it is here; the others are as they were added."""
        key = caller, priority
        flow = self._flows.get(key)
        if flow is not None and flow.items.pop(id(item), None) is not None and not flow.items:
            self._leave(key, flow)

    def _begin(self, key: _Key, flow: _Flow[_Item]) -> None:
        """Let a flow count."""
        if not flow.counts:
            flow.counts = True
            self._weigh(key[0], lambda weights: weights.append(flow.weight))

    def _weigh(self, caller: Hashable, change: Callable[[list[int]], None]) -> None:
        """Change which flows of a caller count."""
        mine = self._callers.setdefault(caller, _Caller())
        if mine.weights:
            self._counting[mine.least] -= 1
        change(mine.weights)
        if not mine.weights:
            del self._callers[caller]
            return
        mine.least = min(mine.weights)
        mine.crowd = mine.least * sum(1 / weight for weight in mine.weights)
        self._counting[mine.least] += 1

    def _leave(self, key: _Key, flow: _Flow[_Item]) -> None:
        """Let a flow go that has no items, once the virtual time has reached its tag."""
        if flow.counts and flow.tag > self._now:
            self._push_event(key, flow)
            return
        if flow.counts:
            self._weigh(key[0], lambda weights: weights.remove(flow.weight))
        del self._flows[key]

    def _advance(self, tokens: float) -> None:
        """Move the virtual time by what each would get of so many tokens."""
        while self._events:
            at = self._events[0][0]
            needed = max(at - self._now, 0.0) * self._share
            if needed > tokens:
                break
            tokens -= needed
            self._pass_to(at)
        self._pass_to(self._now + tokens / (self._share or 1.0))

    def _pass_to(self, now: float) -> None:
        """Move the virtual time to here, if it is not past it: some begin to count, some go."""
        while self._events and self._events[0][0] <= now:
            event = heapq.heappop(self._events)
            flow = self._flows.get(event[-1])
            if flow is None or flow.event is not event:
                continue
            self._now, flow.event = max(event[0], self._now), None
            if flow.items:
                self._begin(event[-1], flow)
            else:
                self._leave(event[-1], flow)
        self._now = max(now, self._now)

    @property
    def _share(self) -> float:
        """Of callers who count, what all get while one of weight 1 gets a token."""
        return sum(count / weight for weight, count in self._counting.items())

    def _push_turn(self, key: _Key, flow: _Flow[_Item], *, is_new: bool = False) -> None:
        self._count += 1
        flow.turn = flow.tag, not is_new, self._count, key
        heapq.heappush(self._turns, flow.turn)
        if len(self._turns) > 2 * len(self._flows) + _SLACK:
            self._turns = [flow.turn for flow in self._flows.values() if flow.turn is not None]
            heapq.heapify(self._turns)

    def _push_event(self, key: _Key, flow: _Flow[_Item]) -> None:
        self._count += 1
        flow.event = flow.tag, self._count, key
        heapq.heappush(self._events, flow.event)
        if len(self._events) > 2 * len(self._flows) + _SLACK:
            self._events = [flow.event for flow in self._flows.values() if flow.event is not None]
            heapq.heapify(self._events)
