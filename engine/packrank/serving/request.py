"""A caller's request on its way through an engine."""

from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.request import Int32
from packrank.serving.source import Costs, Source


@dataclass
class Usage:
    """What a request took.

    Attributes:
        pairs: of it.
        tokens: of their sequences.
        tokenize_s: seconds in which its texts were read.
        forward_s: in which packs ran that held some of it.
        queue_s: in which it waited for any of that, all in all.
    """

    pairs: int = 0
    tokens: int = 0
    tokenize_s: float = 0.0
    forward_s: float = 0.0
    queue_s: float = 0.0


class Answer(Future[Any]):
    """What a caller waits for.

    Attributes:
        usage: what it took, once it is there.
        on_cancel: called where it is cancelled before it is there; None after that.
    """

    def __init__(self, usage: Usage, on_cancel: Callable[[], None]) -> None:
        super().__init__()
        self.usage = usage
        self.on_cancel: Callable[[], None] | None = on_cancel

    def cancel(self) -> bool:
        """Take the request out of the queue; False: it has been answered."""
        if not super().cancel():
            return False
        with self._condition:
            on_cancel, self.on_cancel = self.on_cancel, None
            if on_cancel is not None:  # else another thread has done so
                self.set_running_or_notify_cancel()  # or `wait` and `as_completed` would wait on
        if on_cancel is not None:
            on_cancel()
        return True


@dataclass
class Part:
    """Some sequences of a request, ready to run.

    Attributes:
        what: as its source has them.
        indices: which pair of the request each is of; ascending, and repeated where a pair has
            several.
        lengths: [n] int32, tokens of each.
        next: how many have run.
        is_long: it has more tokens than are read ahead, as a long document in windows may.
        spared: [n] int32, with how many tokens each begins as the one before it, which run once
            where both are in a pack; None: with none.
    """

    what: Any
    indices: list[int]
    lengths: Int32
    next: int = 0
    is_long: bool = False
    spared: Int32 | None = None

    @property
    def ready_tokens(self) -> int:
        """Tokens that could run."""
        return int(self.lengths[self.next :].sum())

    def sizes(self) -> Int32:
        """Of those that are next, what each adds to a pack that they are in together."""
        found = self.lengths[self.next :]
        if self.spared is None:
            return found
        spared = self.spared[self.next :].copy()
        spared[:1] = 0  # the first comes after none of them
        return found - spared


@dataclass(frozen=True)
class Taken:
    """Sequences of one request that run together.

    Attributes:
        request: whose they are.
        part: of which.
        start: the first of them in the part; likewise stop, after the last.
        tokens: of their sequences.
        size: of a pack that they fill, what they have in common counted once.
    """

    request: "Request"
    part: Part
    start: int
    stop: int
    tokens: int
    size: int

    @property
    def num_pairs(self) -> int:
        """Pairs whose first sequence is here."""
        before = self.part.indices[self.start - 1] if self.start else -1
        return len({*self.part.indices[self.start : self.stop]} - {before})


@dataclass(eq=False)
class Request:
    """Pairs that a caller waits for.

    Attributes:
        pairs: (query, document) each.
        source: what reads and runs them.
        finish: what the caller gets, of logits [N, columns] and index -> reason of failures.
        caller: whose turn it takes; None: one of its own, which stands for no other's later.
        priority: lower first.
        deadline: by the engine's clock; None: none.
        begun: likewise.
        logits: [N, columns] float32, the highest of the sequences of each pair that have run; -inf
            where none has.
        failures: index -> reason.
        usage: what it has taken so far.
        answer: what the caller waits for; None before it is admitted, and once it is settled, so
            that whoever keeps that keeps nothing of the request.
        costs: of each pair, by estimate.
        cost: tokens that it keeps in the queue, first by estimate.
        num_read: pairs that have been taken to be read.
        num_arrived: pairs that reading is done with.
        left: pairs that are not read, and sequences that have not run.
        parts: ready to run.
        is_over: whether nobody waits for it any more.
    """

    pairs: list[Any]
    source: Source
    finish: Callable[[NDArray[np.float32], dict[int, str]], Any]
    caller: Hashable
    priority: int
    deadline: float | None
    begun: float
    logits: NDArray[np.float32]
    costs: Costs
    failures: dict[int, str] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    answer: Answer | None = None
    cost: int = 0
    num_read: int = 0
    num_arrived: int = 0
    left: int = 0
    parts: "deque[Part]" = field(default_factory=deque)
    is_over: bool = False

    def __post_init__(self) -> None:
        self.left, self.cost = len(self.pairs), sum(self.costs.kept)
        if self.caller is None:
            self.caller = object()

    def to_read(self, tokens: int) -> range:
        """The next pairs of which about so many tokens are made; at least one."""
        stop, room = self.num_read, tokens
        while stop < len(self.pairs) and (room > 0 or stop == self.num_read):
            room -= self.costs.read[stop]
            stop += 1
        return range(self.num_read, stop)

    def take(self, tokens: int, least: int) -> Taken | None:
        """The next sequences that are ready, filling so many tokens of a pack at most.

        Args:
            tokens: that should do.
            least: that may be taken by a first sequence that is longer.
        """
        part = self.parts[0]
        sizes = part.sizes()
        count = int(np.searchsorted(np.cumsum(sizes), tokens, side="right"))
        if not count:
            if sizes[0] > least:
                return None
            count = 1
        size = int(sizes[:count].sum())
        tokens = size if part.spared is None else int(part.lengths[part.next :][:count].sum())
        start, part.next = part.next, part.next + count
        if part.next == len(part.indices):
            self.parts.popleft()
        return Taken(self, part, start, part.next, tokens, size)

    @property
    def is_read(self) -> bool:
        """Whether all of it has been read."""
        return self.num_arrived == len(self.pairs)

    @property
    def ready_tokens(self) -> int:
        """Tokens that could run."""
        return sum(part.ready_tokens for part in self.parts)

    @property
    def ready_size(self) -> int:
        """The same, where of each part what sequences have in common counts once."""
        return sum(int(part.sizes().sum()) for part in self.parts)

    @property
    def is_ready(self) -> bool:
        """Whether some of it could run."""
        return bool(self.parts)
