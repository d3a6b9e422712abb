"""Connections on which nothing happens, let go of: nobody can keep a server's for nothing."""

import time
from collections.abc import Iterable
from typing import Any

# Longer than load balancers keep one that they may use again, usually 60: else they would send a
# request just when it is closed.
IDLE_SECONDS = 75.0


class Connections:
    """What became of connections since one looked before; one that stands still is ended.

    What is sent must be read by its client, at least some of it in the meantime; and if nothing is
    to be read, a whole request must have come. While one is answered, or its body read, it may
    take what it takes: that has limits of its own.

    Args:
        seconds: that one may stand still.
    """

    def __init__(self, seconds: float = IDLE_SECONDS) -> None:
        self._seconds = seconds
        self._stands: dict[Any, tuple[tuple[Any, int], float]] = {}

    def look(self, connections: Iterable[Any]) -> None:
        """Look at all that there are, uvicorn's protocols."""
        now = time.monotonic()
        stands = {}
        for one in list(connections):
            cycle, unread = one.cycle, one.transport.get_write_buffer_size()
            if not unread and cycle is not None and not cycle.response_complete:
                continue
            state = cycle, unread  # itself: an `id` may come again
            before = self._stands.get(one)
            since = before[1] if before is not None and before[0] == state else now
            if now - since >= self._seconds:
                one.transport.abort()
            else:
                stands[one] = state, since
        self._stands = stands
