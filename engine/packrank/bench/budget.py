"""How much of a run's time is left, and who may have how much of it."""

import math
import time
from collections.abc import Callable


class Budget:
    """The time of a run.

    Args:
        seconds: all of it; None: no end.
        now: the clock.
    """

    def __init__(self, seconds: float | None, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._begun = now, now()
        self._whole = math.inf if seconds is None else seconds

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return self._now() - self._begun

    @property
    def left(self) -> float:
        """Seconds to the end; never less than 0."""
        return max(self._whole - self.spent, 0.0)

    def share(self, of_what_is_left: float, most: float) -> float:
        """Seconds for something: a share of what is left, and no more than is good for it."""
        return min(self.left * of_what_is_left, most)

    def part(self, count: int) -> "Budget":
        """One of so many parts of what is left, from now on."""
        return Budget(self.left / count, self._now)
