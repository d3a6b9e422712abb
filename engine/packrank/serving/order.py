"""Who has the next turn: fair queuing by start tags, with priorities as weights.

Every flow (a caller at one priority) has a tag: how many tokens it has been served, weighted. The
least tag goes next, and a flow that comes anew starts at the virtual time, which is what each flow
would have been served by then had all been served alike: nobody saves turns up, and a stream of
newcomers starves nobody. Source: Parekh and Gallager 1993 (the virtual time), Goyal, Vin and Cheng
1996 (start tags).
"""

import heapq
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_Item = TypeVar("_Item")
_Entry = tuple[float, bool, int, Hashable]  # tag, whether it is no newcomer's, when, whose
_SLACK = 64  # entries of the heap that may be out of date, beside as many as there are flows
# What a step of priority is worth: by so many tokens others are served first, however late they
# come, and of each token that is served it counts as one more.
STEP_TOKENS = 4096


@dataclass
class _Flow(Generic[_Item]):
    weight: int
    tag: float
    entry: _Entry | None = None  # in the heap; others that are there are out of date
    was_served: bool = False
    items: "OrderedDict[int, _Item]" = field(default_factory=OrderedDict)  # by their `id`


class Order(Generic[_Item]):
    """Items that wait, by flow; the caller takes from the one that is first. Not for threads."""

    def __init__(self) -> None:
        self._flows: dict[Hashable, _Flow[_Item]] = {}
        self._heap: list[_Entry] = []
        self._now = 0.0  # virtual time
        self._count = self._active = 0

    def __len__(self) -> int:
        return sum(len(flow.items) for flow in self._flows.values())

    def __iter__(self) -> Iterator[_Item]:
        return (item for flow in self._flows.values() for item in flow.items.values())

    def add(self, item: _Item, caller: Hashable, priority: int) -> None:
        """Put an item at the end of its flow.

        Args:
            item: that waits.
            caller: whose flow it is; items of one take their turns in their order.
            priority: from 0; lower goes first.
        """
        key = caller, priority
        flow = self._flows.get(key)
        if flow is None:
            start = self._now + STEP_TOKENS * priority
            flow = self._flows[key] = _Flow(1 + priority, start)
            self._push(key, flow, is_new=True)
        elif not flow.items and flow.tag < self._now:  # nobody saves turns up while away
            flow.tag = self._now
            self._push(key, flow)
        self._active += not flow.items
        flow.items[id(item)] = item

    def first(self) -> tuple[Hashable, _Item] | None:
        """Whose turn it is, and the item; None if nobody waits."""
        while self._heap:
            entry = self._heap[0]
            key = entry[-1]
            flow = self._flows.get(key)
            is_current = flow is not None and flow.entry is entry
            if flow is not None and is_current and flow.items:
                return key, next(iter(flow.items.values()))
            heapq.heappop(self._heap)
            if is_current:  # everyone who waits has been served as much
                del self._flows[key]
                self._now = max(self._now, entry[0])
        return None

    def served(self, key: Hashable, tokens: int, *, is_over: bool) -> None:
        """Note what the first item of a flow was served.

        Args:
            key: by `first`.
            tokens: that it was served.
            is_over: whether nothing is left of the item.
        """
        flow = self._flows[key]
        self._now = max(self._now + tokens / self._active, flow.tag)
        flow.tag += flow.weight * tokens
        flow.was_served = True
        if is_over:
            flow.items.popitem(last=False)
            self._active -= not flow.items
        # A flow without items is kept until its tag is reached: who comes back is no newcomer.
        self._push(key, flow)

    def drop(self, item: _Item, caller: Hashable, priority: int) -> None:
        """Take an item out, if it is here; the others are as they were added."""
        key = caller, priority
        flow = self._flows.get(key)
        if flow is None or flow.items.pop(id(item), None) is None or flow.items:
            return
        self._active -= 1
        if not flow.was_served:  # it has nothing to remember, and would begin at no earlier tag
            del self._flows[key]

    def _push(self, key: Hashable, flow: _Flow[_Item], *, is_new: bool = False) -> None:
        self._count += 1
        flow.entry = flow.tag, not is_new, self._count, key
        heapq.heappush(self._heap, flow.entry)
        if len(self._heap) > 2 * len(self._flows) + _SLACK:
            self._heap = [flow.entry for flow in self._flows.values() if flow.entry is not None]
            heapq.heapify(self._heap)
