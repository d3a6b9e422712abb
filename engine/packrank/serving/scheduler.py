"""An engine's requests between its threads: what is read next, what runs next, what is over.

No thread is started here and no model known; the engine calls under its lock.
"""

import heapq
from collections import Counter
from collections.abc import Hashable, Iterator

from packrank.serving.order import Order
from packrank.serving.request import Part, Request, Taken

# Tokens that a flow gets at a turn, or a pack if that is less: a page of results is done in one.
_TURN = 4096
# A request that has so many packs of tokens left does not join one in which another one ends.
_BULK_PACKS = 2
_PARTS = 4  # such a part of the limit is what a request counts for, and what is kept for others


class Scheduler:
    """Requests that were admitted.

    Args:
        ahead: most tokens that are read and have not run.
        limit: most tokens of `load`. A quarter of it is kept for callers who have nothing here, and
            one request counts for a quarter at most.

    Attributes:
        tokens: of all requests here, as far as they are known, else estimated.
        load: the same, where a large request counts for a quarter of the limit: others do not wait
            for all of it.
        ready: tokens that are read and have not run.
    """

    def __init__(self, ahead: int, limit: int) -> None:
        self.tokens = self.load = self.ready = 0
        self._long = 0  # of `ready`, those of parts that are long
        self._ahead, self._limit, self._most = ahead, limit, max(limit // _PARTS, 1)
        self._reading: Order[Request] = Order()
        self._running: Order[Request] = Order()
        self._queued: set[Request] = set()  # those in the order of what runs
        self._begun: Request | None = None  # whose turn goes on in the next pack
        self._open: dict[int, Request] = {}  # by their `id`
        self._callers: Counter[Hashable] = Counter()  # of those, how many each has
        # When, and whose: requests that are over are let go of before their deadlines have passed.
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Request]:
        return iter([*self._open.values()])

    def add(self, request: Request) -> None:
        """Let a request wait to be read."""
        self._reading.add(request, request.caller, request.priority)
        cost, request.cost = request.cost, 0
        self._cost(request, cost)
        self._open[id(request)] = request
        self._callers[request.caller] += 1
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, id(request)))

    def to_read(self, tokens: int) -> tuple[Request, range] | None:
        """What to read next, of about so many tokens; None: nothing now."""
        first = self._reading.first()
        if first is None:
            return None
        flow, request = first
        # Who comes anew is read all the same, or packs of others would run before it: as far as
        # there is room, of which a long document takes none, or all would wait for its end.
        is_full = (
            self.ready >= self._ahead
            if request.num_read
            else self.ready - self._long >= 2 * self._ahead
        )
        if is_full:
            return None
        places = request.to_read(tokens)
        request.num_read = places.stop
        cost = sum(request.costs.read[places.start : places.stop])
        self._reading.served(flow, cost, is_over=places.stop == len(request.pairs))
        return request, places

    def has_read(self, request: Request, places: range, part: Part | None) -> None:
        """Take a part that was read; None: nothing of those pairs can run."""
        estimated = sum(request.costs.kept[places.start : places.stop])
        request.num_arrived += len(places)
        if request.is_over:
            return
        tokens = 0 if part is None else int(part.lengths.sum())
        self._cost(request, request.cost + tokens - estimated)
        if part is not None:
            part.is_long = tokens > self._ahead
            self.ready += tokens
            self._long += tokens * part.is_long
            request.parts.append(part)
            self._queue(request, is_new=request.num_arrived == len(places))

    def compose(self) -> list[Taken]:
        """The next pack; empty: nothing is ready."""
        pack: list[Taken] = []
        filled = 0
        if self._begun is not None:
            filled = self._take(self._begun, pack, filled)
            if self._begun.is_ready:  # packs have become smaller
                return pack
            self._begun = None
        while (first := self._running.first()) is not None:
            flow, request = first
            if pack and not self._may_join(request, pack):
                break
            size = self._take(request, pack, filled)
            if not size:
                break
            filled += size
            rest = request.ready_size
            if rest and request.is_read and size + rest <= _turn(request):
                # The pack is full: its turn goes on in the next. Else it would wait for everyone
                # in between, and of many requests all would be half done.
                self._begun = request
                size, rest = size + rest, 0
            if not rest:
                self._queued.discard(request)
            self._running.served(flow, size, is_over=not rest)
            if self._begun is request:
                break
        return pack

    def has_run(self, taken: Taken) -> None:
        """Let go of sequences that have run."""
        if not taken.request.is_over:
            self._cost(taken.request, taken.request.cost - taken.tokens)

    def drop(self, request: Request) -> bool:
        """Take a request out, whatever is left of it; False: it was out."""
        if request.is_over:
            return False
        request.is_over = True
        del self._open[id(request)]
        self._callers[request.caller] -= 1
        if not self._callers[request.caller]:
            del self._callers[request.caller]
        self._cost(request, 0)
        self.ready -= request.ready_tokens
        self._long -= sum(part.ready_tokens for part in request.parts if part.is_long)
        request.parts.clear()
        self._queued.discard(request)
        if self._begun is request:
            self._begun = None
        for order in (self._reading, self._running):
            order.drop(request, request.caller, request.priority)
        return True

    def overdue(self, now: float) -> list[Request]:
        """Those whose deadline has passed."""
        found = []
        while (due := self.next_deadline) is not None and due <= now:
            found.append(self._open[heapq.heappop(self._deadlines)[1]])
        return found

    @property
    def next_deadline(self) -> float | None:
        """Of those that are here."""
        while self._deadlines:
            due, key = self._deadlines[0]
            request = self._open.get(key)
            if request is not None and request.deadline == due:
                return due
            heapq.heappop(self._deadlines)
        return None

    def lacking(self, request: Request) -> int:
        """How many tokens must go before there is room for a request; 0: it may be added.

        The largest leave as much as they take: few of them would lock out all that are small. Who
        has something here leaves a quarter: one caller would lock out all others. Where nothing is
        here, there is room for anything.
        """
        if not self._open:
            return 0
        needed = 2 * self._most if request.cost > self._most else request.cost
        kept = self._most if self.has_of(request.caller) else 0
        return max(self.load + min(needed + kept, self._limit) - self._limit, 0)

    def has_of(self, caller: Hashable) -> bool:
        """Whether a caller has something here."""
        return caller in self._callers

    def _take(self, request: Request, pack: list[Taken], filled: int) -> int:
        """Put into a pack what a request has at its turn; returns how much more that fills."""
        room = request.source.budget_tokens - filled
        size, turn = 0, _turn(request)
        while request.is_ready and size < turn and room > 0:
            taken = request.take(min(room, turn - size), room if pack else 1 << 60)
            if taken is None:
                break
            pack.append(taken)
            size += taken.size
            room -= taken.size
            self.ready -= taken.tokens
            self._long -= taken.tokens * taken.part.is_long
        return size

    def _may_join(self, request: Request, pack: list[Taken]) -> bool:
        """Whether it shares packs with these, and holds up none that ends here."""
        key = pack[0].request.source.key
        if key is None or request.source.key != key:
            return False
        return not (self._is_bulk(request) and any(self._ends(one) for one in pack))

    def _cost(self, request: Request, cost: int) -> None:
        self.tokens += cost - request.cost
        self.load += min(cost, self._most) - min(request.cost, self._most)
        request.cost = cost

    def _queue(self, request: Request, *, is_new: bool) -> None:
        if request not in self._queued:
            self._queued.add(request)
            self._running.add(request, request.caller, request.priority, is_new=is_new)

    def _is_bulk(self, request: Request) -> bool:
        return request.cost > _BULK_PACKS * request.source.budget_tokens

    def _ends(self, taken: Taken) -> bool:
        """Whether a request has nothing left but what was taken of it."""
        request = taken.request
        return request.is_read and not request.parts


def _turn(request: Request) -> int:
    return min(_TURN, request.source.budget_tokens)
