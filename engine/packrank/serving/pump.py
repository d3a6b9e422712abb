"""Requests pumped through a model by two threads: one reads texts, one runs packs.

Everything that the two share is in the scheduler, under one lock; a request is out of it before its
answer is settled, and that is done outside of the lock, since callbacks may come back to it.
"""

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError
from dataclasses import dataclass
from functools import partial
from threading import Condition, Thread, current_thread
from typing import Any, TypeVar

import numpy as np

from packrank.closing import Closing
from packrank.errors import DeadlineExceeded, EngineClosed, Overloaded
from packrank.request import keep_best
from packrank.serving.health import Health
from packrank.serving.request import Answer, Part, Request, Taken
from packrank.serving.scheduler import Scheduler
from packrank.serving.source import Started
from packrank.serving.watch import Watch

_AHEAD_PACKS = 3  # that are read before they run, a device
_STEADY = 0.2  # by which the last pack counts for the rate
_FIRST_RATE = 10_000.0  # tokens a second, before a pack has run
_MOST_SECONDS = 60.0  # that who is turned away is told to wait
_LONGEST_WAIT = 3600.0  # of a thread at a time: a lock takes no more seconds than fit in its clock
_LOG = logging.getLogger(__name__)

_Found = TypeVar("_Found")


@dataclass
class _Running:
    """A pack on a device."""

    pack: list[Taken]
    result: Started
    begun: float


class Pump(Closing):
    """Takes requests and answers them, until it is closed.

    Args:
        budget_tokens: of a pack.
        depth: packs that are started before the first has ended.
        max_queue_tokens: see `Engine`.
        watches: told of everything.

    Attributes:
        health: whether it still answers.
    """

    def __init__(
        self, budget_tokens: int, depth: int, max_queue_tokens: int, watches: Sequence[Watch]
    ) -> None:
        self.max_queue_tokens = max_queue_tokens
        self._read_tokens, self._depth, self._watches = budget_tokens, depth, watches
        self._scheduler = Scheduler(_AHEAD_PACKS * depth * budget_tokens, max_queue_tokens)
        self.health = Health()
        self._rate = _FIRST_RATE
        self._ended = 0.0  # when the last pack did
        self._changed = Condition()
        self._is_draining = self._is_closed = False
        self._process = os.getpid()
        self._threads = [
            Thread(target=self._guarded, args=(run,), name=f"packrank {name}", daemon=True)
            for name, run in (("reading", self._read_all), ("running", self._run_all))
        ]
        for thread in self._threads:
            thread.start()

    def admit(self, request: Request) -> Answer:
        """Take a request.

        Raises:
            Overloaded: the queue is full.
            EngineClosed: no more are taken.
        """
        if not self._is_here:
            raise EngineClosed(
                "the engine belongs to the process that this one was forked from; make one here"
            )
        with self._changed:
            if self._is_draining:
                self._tell("rejected", "closed")
                raise EngineClosed("the engine takes no more requests")
            over = self._scheduler.lacking(request)
            if over:
                self._tell("rejected", "overloaded")
                whose = " of who has some there" if self._scheduler.has_of(request.caller) else ""
                raise Overloaded(
                    f"of the queue's {self.max_queue_tokens} tokens {self._scheduler.load} are "
                    f"taken, and it has no room for {request.cost} more{whose}",
                    min(max(over / self._rate, 0.01), _MOST_SECONDS),
                )
            request.answer = answer = Answer(request.usage, partial(self._cancel, request))
            if request.pairs:
                self._scheduler.add(request)
                self._changed.notify_all()
        self._tell("admitted", request.usage.pairs)
        if not request.pairs:
            self._finish(request)
        return answer

    @property
    def queue_tokens(self) -> int:
        """Tokens that wait or run, as far as they are known, else estimated."""
        return self._scheduler.tokens

    @property
    def queue_requests(self) -> int:
        """Requests that are not answered."""
        return len(self._scheduler)

    @property
    def tokens_per_s(self) -> float:
        """What the device did lately, while it ran."""
        return self._rate

    def drain(self, seconds: float | None = None) -> bool:
        """Take no more requests, and wait for those that are here; True if all were answered.

        Args:
            seconds: that it waits at most; None: as long as it takes.
        """
        if not self._is_here:
            return True
        until = math.inf if seconds is None else time.monotonic() + seconds
        with self._changed:
            self._is_draining = True
            while len(self._scheduler) and not self._is_closed:
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, _LONGEST_WAIT))
            return not len(self._scheduler)

    def close(self) -> None:
        """End after the packs that run, and fail what waits.

        Called by one of its own threads, such as in a callback, it does not wait for them.
        """
        if not self._is_here:
            return
        self._end_all(EngineClosed("the engine was closed before it came to this"))
        if current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    def leave(self) -> None:
        """Answer what is here, and end; comes back at once, wherever it is called."""

        def end() -> None:
            self.drain()
            self.close()

        if self._is_here and not self._is_closed:
            Thread(target=end, name="packrank ending", daemon=True).start()

    @property
    def _is_here(self) -> bool:
        """Whether this process has its threads; a lock may be held for ever where it has not."""
        return os.getpid() == self._process

    def _cancel(self, request: Request) -> None:
        with self._changed:
            if self._scheduler.drop(request):
                self._tell("rejected", "cancelled")
            self._changed.notify_all()

    def _end_all(self, error: Exception) -> None:
        with self._changed:
            self._is_draining = self._is_closed = True
            left = [request for request in self._scheduler if self._scheduler.drop(request)]
            self._changed.notify_all()
        for request in left:
            self._fail(request, error)

    def _guarded(self, run: Callable[[], None]) -> None:
        """A thread that fails takes the engine with it, and nobody waits for ever."""
        try:
            run()
        except BaseException as error:
            self.health.is_over(error)
            self._end_all(EngineClosed(f"the engine has failed: {error!r}"))
            raise

    def _wait_for(self, find: Callable[[], _Found], *, can_wait: bool = True) -> _Found | None:
        """What a thread is to do next, by a call under the lock; None once the engine is closed.

        Both threads turn away what is late, so that one may hang.
        """
        while True:
            with self._changed:
                late = self._scheduler.overdue(time.monotonic())
                late = [request for request in late if self._scheduler.drop(request)]
                if late:
                    self._changed.notify_all()
                elif self._is_closed:
                    return None
                elif (found := find()) or not can_wait:
                    return found
                else:
                    due = self._scheduler.next_deadline
                    left = math.inf if due is None else due - time.monotonic()
                    self._changed.wait(min(max(left, 0.0), _LONGEST_WAIT))
            self._turn_away(late)

    def _turn_away(self, late: list[Request]) -> None:
        for request in late:
            self._tell("rejected", "deadline")
            waited = time.monotonic() - request.begun
            self._fail(request, DeadlineExceeded(f"no answer within {waited:.3g} s"))

    def _read_all(self) -> None:
        while self._read_next():  # a call each, so that nothing of a request is kept while it waits
            pass

    def _read_next(self) -> bool:
        found = self._wait_for(lambda: self._scheduler.to_read(self._read_tokens))
        if found is None:
            return False
        self._read(*found)
        return True

    def _read(self, request: Request, places: range) -> None:
        begun = time.monotonic()
        pairs = request.pairs[places.start : places.stop]
        try:
            read = request.source.read(pairs)
        except BaseException as error:  # a panic of a library's is no Exception
            self._give_up(request, error)
            return
        seconds = time.monotonic() - begun
        request.usage.tokenize_s += seconds
        self._tell("has_read", len(pairs), seconds)
        indices = [places.start + place for place in read.places]
        with self._changed:
            part = None
            if indices:
                part = Part(read.what, indices, read.lengths, spared=read.spared)
            request.failures |= {places.start + place: why for place, why in read.failures.items()}
            request.left += len(indices) - len(pairs)
            self._scheduler.has_read(request, places, part)
            is_done = not request.left and self._scheduler.drop(request)
            self._changed.notify_all()
        if is_done:
            self._finish(request)

    def _run_all(self) -> None:
        running: deque[_Running] = deque()
        while self._run_next(running):
            pass

    def _run_next(self, running: deque[_Running]) -> bool:
        pack = self._wait_for(self._compose, can_wait=not running)
        if pack and (started := self._start(pack)) is not None:
            running.append(started)
        if running and (len(running) >= self._depth or not pack):
            self._end(running.popleft())
        return pack is not None or bool(running)

    def _compose(self) -> list[Taken]:
        pack = self._scheduler.compose()
        if pack:
            self._changed.notify_all()  # there is room to read ahead
        return pack

    def _start(self, pack: list[Taken]) -> _Running | None:
        source = pack[0].request.source
        begun = time.monotonic()
        try:
            result = source.start([(one.part.what, one.start, one.stop) for one in pack])
        except BaseException as error:
            self._separate(pack, error)
            return None
        return _Running(pack, result, begun)

    def _separate(self, pack: list[Taken], error: BaseException) -> None:
        """Where a pack fails, run each request's part by itself: one is to blame, not all."""
        if len(pack) == 1:
            self.health.has_not_run(error)
            self._give_up(pack[0].request, error)
            return
        for one in pack:
            if not one.request.is_over and (started := self._start([one])) is not None:
                self._end(started)

    def _end(self, running: _Running) -> None:
        pack = running.pack
        try:
            ran = running.result()
        except BaseException as error:
            self._separate(pack, error)
            return
        self.health.has_run()
        now = time.monotonic()
        # One that was started beside others waited for them; time counts once.
        seconds, self._ended = now - max(running.begun, self._ended), now
        logits, failures = ran.logits, ran.failures
        counts = [one.tokens for one in pack] if ran.tokens is None else ran.tokens
        source, tokens = pack[0].request.source, sum(counts)
        self._rate += _STEADY * (tokens / max(seconds, 1e-9) - self._rate)
        if source.key is None:  # it fills no pack
            pairs, budget = pack[0].request.usage.pairs, tokens
        else:
            pairs = sum(one.num_pairs for one in pack)
            budget = source.budget_tokens
        self._tell("has_run", pairs, tokens, budget, seconds)
        done: list[Request] = []
        first = 0
        with self._changed:
            for request in {id(one.request): one.request for one in pack}.values():
                request.usage.forward_s += seconds
            for one, num_tokens in zip(pack, counts, strict=True):
                request, count = one.request, one.stop - one.start
                indices = one.part.indices[one.start : one.stop]
                keep_best(request.logits, indices, logits[first : first + count])
                for place, index in enumerate(indices, first):
                    if place in failures:
                        request.failures.setdefault(index, failures[place])
                first += count
                request.usage.tokens += num_tokens
                request.left -= count
                self._scheduler.has_run(one)
                if not request.left and self._scheduler.drop(request):
                    done.append(request)
            self._changed.notify_all()
        for request in done:
            self._finish(request)

    def _finish(self, request: Request) -> None:
        """Answer a request that is out of the queue."""
        request.logits[list(request.failures)] = np.nan
        try:
            found = request.finish(request.logits, request.failures)
        except BaseException as error:
            self._fail(request, error)
            return
        self._answered(request, failed=False)
        _settle(request, lambda answer: answer.set_result(found))

    def _give_up(self, request: Request, error: BaseException) -> None:
        with self._changed:
            is_first = self._scheduler.drop(request)
            self._changed.notify_all()
        if is_first:
            self._fail(request, error)

    def _fail(self, request: Request, error: BaseException) -> None:
        if not isinstance(error, Exception):  # which would end the event loop that awaits it
            error = RuntimeError(f"{type(error).__name__}: {error}")
        self._answered(request, failed=True)
        _settle(request, lambda answer: answer.set_exception(error))

    def _answered(self, request: Request, *, failed: bool) -> None:
        usage, seconds = request.usage, time.monotonic() - request.begun
        usage.queue_s = max(seconds - usage.tokenize_s - usage.forward_s, 0.0)
        self._tell("answered", usage, seconds, failed)

    def _tell(self, what: str, *facts: Any) -> None:
        for watch in self._watches:
            try:
                getattr(watch, what)(*facts)
            except Exception:
                _LOG.exception("a watch failed when it was told %r", what)


def _settle(request: Request, settle: Callable[[Answer], None]) -> None:
    answer, request.answer = request.answer, None
    assert answer is not None
    try:
        settle(answer)
    except InvalidStateError:  # cancelled meanwhile
        if not answer.cancelled():
            raise
        return  # who has cancelled it calls `on_cancel`
    except BaseException:  # Future lets what is no Exception through
        _LOG.exception("a callback failed")
    answer.on_cancel = None
