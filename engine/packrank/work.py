"""How much was computed: tokens, and token-layers (one token through one layer)."""

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Token-layers of a call.

    Attributes:
        total: what every token of every candidate through every layer would be.
        computed: what ran.
        recomputed: that ran once more, since there was no room to keep what it had come to.
        saved_by_prefix: what candidates of a query begin with, run once a pack instead of for each.
        saved_by_exits: of candidates that stopped before the last layer.
        saved_by_last_layer: of tokens that the last layer reads and does not answer for.
    """

    total: int = 0
    computed: int = 0
    recomputed: int = 0
    saved_by_prefix: int = 0
    saved_by_exits: int = 0
    saved_by_last_layer: int = 0

    @property
    def saved_by_compression(self) -> int:
        """Of document tokens that were joined."""
        saved = self.saved_by_prefix + self.saved_by_exits + self.saved_by_last_layer
        return self.total + self.recomputed - self.computed - saved

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.total + other.total,
            self.computed + other.computed,
            self.recomputed + other.recomputed,
            self.saved_by_prefix + other.saved_by_prefix,
            self.saved_by_exits + other.saved_by_exits,
            self.saved_by_last_layer + other.saved_by_last_layer,
        )


@dataclass(frozen=True)
class Calls:
    """What a model was asked for a ranking, where it judges several documents at a time.

    Attributes:
        prompts: that it read.
        prompt_tokens: of those.
        generated_tokens: that it wrote.
        repaired: answers that did not name each document once, and were put right.
    """

    prompts: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    repaired: int = 0

    def __add__(self, other: "Calls") -> "Calls":
        return Calls(
            self.prompts + other.prompts,
            self.prompt_tokens + other.prompt_tokens,
            self.generated_tokens + other.generated_tokens,
            self.repaired + other.repaired,
        )


class Tally:
    """A number that threads add to, without a lock: a forked child could find that one held."""

    def __init__(self) -> None:
        self._by_thread: dict[int, int] = {}

    def add(self, count: int) -> None:
        """Add to it."""
        thread = threading.get_ident()
        self._by_thread[thread] = self._by_thread.get(thread, 0) + count

    @property
    def total(self) -> int:
        """What all threads have added."""
        return sum(list(self._by_thread.values()))
