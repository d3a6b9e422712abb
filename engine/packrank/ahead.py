"""Items of an iterator, made by a thread of its own while whoever takes them is busy."""

from collections import deque
from collections.abc import Iterable, Iterator
from threading import Condition, Thread
from time import perf_counter
from typing import Generic, TypeVar

from packrank.closing import Closing

_Item = TypeVar("_Item")
# A thread may wait for a pipe into which nobody writes.
_PATIENCE_SECONDS = 1.0


class Ahead(Closing, Generic[_Item]):
    """An iterator that is run ahead; close it, or use it as a context manager, to end the thread.

    Attributes:
        busy: seconds that the iterator has taken for its items.
        waited: seconds that whoever takes has waited for them.
    """

    def __init__(self, items: Iterable[_Item], depth: int, name: str) -> None:
        """Begin.

        Args:
            items: run in the thread, and closed there if it has a `close`.
            depth: how many are made, or being made, before they are taken.
            name: of the thread.
        """
        self.busy = self.waited = 0.0
        self._items, self._depth = items, depth
        self._ready: deque[_Item] = deque()
        self._error: BaseException | None = None
        self._is_over = self._is_closed = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[_Item]:
        return self

    def __next__(self) -> _Item:
        start = perf_counter()
        with self._changed:
            while not (self._ready or self._is_over or self._is_closed):
                self._changed.wait()
            self.waited += perf_counter() - start
            if self._ready:
                item = self._ready.popleft()
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """End the thread, after the item that it is making; one that takes long is not waited for.

        Whoever waits for an item is told that there are no more.
        """
        with self._changed:
            self._is_closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join(_PATIENCE_SECONDS)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            coming = iter(self._items)
            try:
                while self._has_room():
                    start = perf_counter()
                    try:
                        item = next(coming)
                    except StopIteration:
                        break
                    finally:
                        self.busy += perf_counter() - start
                    with self._changed:
                        if not self._is_closed:
                            self._ready.append(item)
                        self._changed.notify_all()
            finally:
                getattr(coming, "close", lambda: None)()
        except BaseException as raised:
            error = raised
        with self._changed:
            self._error, self._is_over = error, True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        """Wait until there is; False if nobody takes any more."""
        with self._changed:
            while len(self._ready) >= self._depth and not self._is_closed:
                self._changed.wait()
            return not self._is_closed
