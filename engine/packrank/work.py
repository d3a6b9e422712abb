"""How much was computed, and how much was not, in token-layers: one token through one layer."""

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
