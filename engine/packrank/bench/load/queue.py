"""First in, first out: queries that wait their turn before a `Reranker`."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Condition, Thread, current_thread
from typing import Any, Protocol

from packrank.closing import Closing


class Ranks(Protocol):
    """What ranks, such as a `Reranker`."""

    def rank(self, query: str, documents: Sequence[str]) -> Any:
        """Order documents by relevance to a query."""


class Queue(Closing):
    """Ranks one query after the other, in a thread; close it, or use it as a context manager.

    Threads may share one. It is the plainest server there is: what batches queries should be
    compared with it.
    """

    def __init__(self, reranker: Ranks) -> None:
        """Begin."""
        self._reranker = reranker
        self._waiting: deque[tuple[Future[Any], str, Sequence[str]]] = deque()
        self._is_closed = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="packrank queue", daemon=True)
        self._thread.start()

    def submit(self, query: str, documents: Sequence[str]) -> Future[Any]:
        """Put a query at the end.

        Returns:
            What `rank` will return, or raise; it may be cancelled until its turn comes.

        Raises:
            RuntimeError: the queue is closed.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the queue is closed")
            self._waiting.append((future, query, documents))
            self._changed.notify()
        return future

    def close(self) -> None:
        """End the thread after the query that it is at, and fail those that wait."""
        with self._changed:
            self._is_closed = True
            left = list(self._waiting)
            self._waiting.clear()
            self._changed.notify()
        for future, _, _ in left:  # outside of the lock: callbacks may come back to it
            if future.set_running_or_notify_cancel():
                future.set_exception(RuntimeError("the queue was closed before its turn came"))
        if self._thread is not current_thread():
            self._thread.join()

    def _run(self) -> None:
        while self._answer_next():
            pass

    def _answer_next(self) -> bool:
        """Answer a query, as soon as there is one; False once the queue is closed."""
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return False
            future, query, documents = self._waiting.popleft()
        if future.set_running_or_notify_cancel():
            try:
                result = self._reranker.rank(query, documents)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
        return True
