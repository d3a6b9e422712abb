"""What an engine tells of itself while it works."""

from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

from packrank.serving.request import Usage


class Watch(Protocol):
    """Told by an engine's threads; each call should be short."""

    def admitted(self, pairs: int) -> None:
        """A request was taken."""

    def rejected(self, reason: str) -> None:
        """A request was not: "overloaded" or "closed"; or was given up: "deadline", "cancelled"."""

    def has_read(self, pairs: int, seconds: float) -> None:
        """Texts were made tokens."""

    def has_run(self, pairs: int, tokens: int, budget: int, seconds: float) -> None:
        """A pack has run, in so many seconds of the device's."""

    def answered(self, usage: Usage, seconds: float, failed: bool) -> None:
        """A request is done, so many seconds after it came."""


@dataclass
class Totals:
    """All that has happened, in numbers; a `Watch`.

    Attributes:
        requests: that were answered; likewise failed, with an error.
        pairs: that ran; likewise tokens.
        packs: that ran; likewise pack_tokens, that would have fitted into them.
        tokenize_s: seconds in which texts were read.
        forward_s: in which the device ran.
        turned_away: requests by the reason that they were rejected or given up for.
    """

    requests: int = 0
    failed: int = 0
    pairs: int = 0
    tokens: int = 0
    packs: int = 0
    pack_tokens: int = 0
    tokenize_s: float = 0.0
    forward_s: float = 0.0
    turned_away: dict[str, int] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock, repr=False)

    @property
    def fill(self) -> float:
        """Share of packs that was tokens; 1 where none ran."""
        return self.tokens / self.pack_tokens if self.pack_tokens else 1.0

    def admitted(self, pairs: int) -> None:
        """Nothing is known of it yet."""

    def rejected(self, reason: str) -> None:
        """Count it."""
        with self._lock:
            self.turned_away[reason] = self.turned_away.get(reason, 0) + 1

    def has_read(self, pairs: int, seconds: float) -> None:
        """Add the seconds."""
        self.tokenize_s += seconds

    def has_run(self, pairs: int, tokens: int, budget: int, seconds: float) -> None:
        """Add all of it."""
        self.pairs += pairs
        self.tokens += tokens
        self.packs += 1
        self.pack_tokens += max(budget, tokens)
        self.forward_s += seconds

    def answered(self, usage: Usage, seconds: float, failed: bool) -> None:
        """Count it."""
        with self._lock:
            self.requests += 1
            self.failed += failed
