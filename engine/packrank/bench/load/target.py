"""What a workload is run on, and what became of each query that it sent."""

import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Protocol

from packrank.bench.load.clock import Clock

Request = tuple[str, Sequence[str]]


class Target(Protocol):
    """Whatever answers queries: a queue before a `Reranker`, a batching engine, an HTTP client.

    A workload calls `submit` from one thread, as often as it has queries and without waiting for
    answers. What the target does with them (one after the other, in batches, by a pool of
    connections) is its own business, and what is measured.
    """

    def submit(self, query: str, documents: Sequence[str]) -> Future[Any]:
        """Take a query and its candidates, and come back at once.

        A `submit` that waits delays every query after it. Their latencies hold the delay, since
        they count from when each was due, but a Server point is then refused: whoever sends was
        late, so the load was not the one that was asked for.

        Args:
            query: any text.
            documents: its candidates.

        Returns:
            A future that is set, by any thread, the moment the answer is there: to anything, which
            is not looked at, or to an exception, by which the query counts as failed. Where it can
            be cancelled while it waits, it is, at the end of a point: the target need not answer.

        Raises:
            Exception: the query is refused; it counts as failed.
        """


@dataclass
class Answer:
    """What became of a query.

    Attributes:
        due: when it should have been sent.
        sent: when it was.
        settled: when it was answered or failed; None: not yet.
        failure: why it failed; None: it did not.
    """

    due: float
    sent: float
    settled: float | None = None
    failure: str | None = None

    @property
    def latency(self) -> float | None:
        """From when it was due, so that no wait is left out; None where there is no answer."""
        if self.settled is None or self.failure is not None:
            return None
        return self.settled - self.due


class Tally:
    """Queries sent to a target, and their answers as they come in.

    Attributes:
        answers: one a query, in the order in which they were sent.
    """

    def __init__(self, target: Target, clock: Clock) -> None:
        self.answers: list[Answer] = []
        self._target, self._clock = target, clock
        self._lock = Lock()
        self._open: dict[int, Future[Any]] = {}
        self._all_settled: Future[None] | None = None

    def send(self, request: Request, due: float = math.nan) -> Answer:
        """Send a query.

        Args:
            request: query and candidates.
            due: when it should have been sent; now, if nothing else is said.
        """
        now = self._clock.now()
        answer = Answer(now if math.isnan(due) else due, now)
        place = len(self.answers)
        self.answers.append(answer)
        try:
            future = self._target.submit(*request)
        except Exception as error:
            future = Future()
            future.set_exception(error)
        with self._lock:
            self._open[place] = future
        future.add_done_callback(partial(self._settle, answer, place))
        return answer

    def settled(self) -> Future[None]:
        """A future that is done once none is open.

        Not the target's own: whoever waits for one of these is woken before its callbacks run, so
        an answer might not have its time yet.
        """
        with self._lock:
            if not self._open:
                done: Future[None] = Future()
                done.set_result(None)
                return done
            if self._all_settled is None:
                self._all_settled = Future()
            return self._all_settled

    def cancel(self) -> None:
        """Take back what the target has not begun; what it has settles all the same."""
        with self._lock:
            waiting = list(self._open.values())
        for future in waiting:  # outside of the lock, in which each settles
            future.cancel()

    def _settle(self, answer: Answer, place: int, future: Future[Any]) -> None:
        now = self._clock.now()
        if future.cancelled():
            answer.failure = "cancelled"
        elif (error := future.exception()) is not None:
            answer.failure = f"{type(error).__name__}: {error}"
        answer.settled = now
        with self._lock:
            del self._open[place]
            waited = None if self._open else self._all_settled
            if waited is not None:
                self._all_settled = None
        if waited is not None:
            waited.set_result(None)
