"""An engine: concurrent callers' pairs, coalesced into packs; see `Engine`."""

import asyncio
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch

from packrank.arguments import check_str, check_text, checked_count, listed, listed_texts
from packrank.closing import Closing
from packrank.documents import Document
from packrank.errors import InputError
from packrank.serving.guess import TokenGuess
from packrank.serving.kinds import Model, Task, kind_of, reading_of
from packrank.serving.pump import Pump
from packrank.serving.request import Answer, Request, Usage
from packrank.serving.token_cache import TokenCache
from packrank.serving.watch import Totals, Watch

CACHE_BYTES = 64 << 20
_QUEUE_PACKS = 64  # that a queue holds, a device, where the caller does not say
_LAST_PRIORITY = 1_000_000  # turns are counted in floating point
_FOREVER = 1e9  # seconds, some thirty years


class Engine(Closing):
    """A model that concurrent callers share; close it, or use it as a context manager.

    One that nobody holds any more answers what it has and ends. Its threads keep no process alive,
    and a process that is forked from this one makes an engine of its own.

    Their pairs are tokenized ahead of the device and go into common packs, in an order that is
    fair: every caller has turns of a few thousand tokens, whoever comes anew is not behind those
    who have had much, and priorities are weights, so that nobody who was taken starves. Scores have
    the bits that the model's own `rank` and `score` give (on a CPU; elsewhere if it is
    `deterministic`).

    Coroutines and threads may share one: `rank` and `score` are awaited, `submit` and
    `submit_pairs` return futures.

    Attributes:
        model: that it runs.
        totals: what it has done so far.
        cache: of token ids.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_queue_tokens: int | None = None,
        cache_bytes: int = CACHE_BYTES,
        watch: Watch | None = None,
    ) -> None:
        """Begin.

        Args:
            model: a reranker, or late interaction.
            max_queue_tokens: most tokens that wait or run, where no request counts for more than a
                quarter: others have their turns beside a large one; and a quarter is kept for
                callers who have nothing there. None: 64 packs a device.
            cache_bytes: of token ids of documents that come again; 0: none.
            watch: told of everything.

        Raises:
            InputError: an argument cannot be used.
        """
        if isinstance(cache_bytes, bool) or not isinstance(cache_bytes, int) or cache_bytes < 0:
            raise InputError(f"cache_bytes is {cache_bytes!r}, expected a whole number from 0")
        limit = checked_count("max_queue_tokens", max_queue_tokens)
        self.model, self.totals, self.cache = model, Totals(), TokenCache(cache_bytes)
        self._guess = TokenGuess()
        self._kind = kind_of(model, self.cache, self._guess)
        devices, budget = self._kind.devices, self._kind.budget_tokens
        # On a CPU a pack has run when it is started.
        is_cpu = len(devices) == 1 and devices[0].type == "cpu"
        depth = 1 if is_cpu else 2 * len(devices)
        most = limit or _QUEUE_PACKS * len(devices) * budget
        watches = [self.totals] if watch is None else [self.totals, watch]
        self._pump = Pump(budget, depth, most, watches)
        weakref.finalize(self, self._pump.leave).atexit = False

    async def rank(
        self, query: str, documents: Sequence[Document], top_k: int | None = None, **options: Any
    ) -> Any:
        """`rank` of the model, beside other callers. Cancelled, it takes what waits out.

        Args and errors: see `submit`.
        """
        return await asyncio.wrap_future(self.submit(query, documents, top_k, **options))

    async def score(self, pairs: Sequence[tuple[str, Document]], **options: Any) -> Any:
        """`score` of the model, beside other callers. Cancelled, it takes what waits out.

        Args and errors: see `submit_pairs`.
        """
        return await asyncio.wrap_future(self.submit_pairs(pairs, **options))

    def submit(
        self,
        query: str,
        documents: Sequence[Document] | None,
        top_k: int | None = None,
        *,
        priority: int = 0,
        timeout: float | None = None,
        caller: Hashable = None,
        candidates: Sequence[str] | None = None,
        **options: Any,
    ) -> Answer:
        """Ask for a ranking, and come back at once.

        Args:
            query: any text.
            documents: as the model's `rank` takes them; None: those of a late-interaction model's
                store.
            top_k: how many to return; all if None.
            priority: from 0; lower goes first, and higher still gets its share.
            timeout: seconds after which the caller needs no answer; None: as long as it takes.
            caller: whose requests share a turn, such as an API key; None: this one has its own.
            candidates: ids of documents of the store; None for all.
            options: others of the model's `rank`. With `exit` a request shares no pack.

        Returns:
            A future of what the model's `rank` returns, or raises, with the `usage` of the request;
            cancelled, it takes out what waits.

        Raises:
            Overloaded: the queue is full.
            EngineClosed: the engine is.
            InputError: an argument of the wrong kind.
        """
        check_str("query", query)
        check_text(query, "query")
        if documents is None:
            task = self._kind.ranking_of_store(query, top_k, candidates, options)
        elif candidates is not None:
            raise InputError("candidates are ids of documents of the store; leave documents out")
        else:
            every = listed("documents", documents, "strings")
            task = self._kind.ranking(query, every, top_k, options)
        return self._admit(task, priority, timeout, caller)

    def submit_pairs(
        self,
        pairs: Sequence[tuple[str, Document]],
        *,
        priority: int = 0,
        timeout: float | None = None,
        caller: Hashable = None,
        **options: Any,
    ) -> Answer:
        """Ask for scores of pairs, and come back at once.

        Args:
            pairs: N (query, document) pairs, as the model's `score` takes several.
            priority: see `submit`; likewise timeout and caller.
            timeout: see there.
            caller: see there.
            options: others of the model's `score`.

        Returns:
            A future of what the model's `score` returns, or raises.

        Raises:
            Overloaded: see `submit`; likewise the others.
        """
        every = listed("pairs", pairs, "(query, document) pairs")
        return self._admit(self._kind.scores(every, options), priority, timeout, caller)

    def submit_explain(
        self,
        query: str,
        document: str,
        *,
        priority: int = 0,
        timeout: float | None = None,
        caller: Hashable = None,
    ) -> Answer:
        """Ask which token of a document each token of a query matched, and come back at once.

        Args:
            query: any text.
            document: any text.
            priority: see `submit`; likewise timeout and caller.
            timeout: see there.
            caller: see there.

        Returns:
            A future of an `Explanation`.

        Raises:
            Overloaded: see `submit`; likewise the others. A reranker has nothing to explain.
        """
        task = self._kind.explanation(query, document)
        return self._admit(task, priority, timeout, caller)

    def submit_reading(
        self,
        texts: Sequence[str],
        call: Callable[[str], Any],
        *,
        priority: int = 0,
        timeout: float | None = None,
        caller: Hashable = None,
    ) -> Answer:
        """Ask for what is made of texts where others' are read, and come back at once.

        Args:
            texts: N of them; they take turns with what others have to read.
            call: makes it of a text, and keeps those who wait no longer than to tokenize it would.
            priority: see `submit`; likewise timeout and caller.
            timeout: see there.
            caller: see there.

        Returns:
            A future of [N] what `call` returns, or raises.

        Raises:
            Overloaded: see `submit`; likewise the others.
        """
        task = reading_of(listed_texts("texts", texts), call, self._guess)
        return self._admit(task, priority, timeout, caller)

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights."""
        return self._kind.dtype

    @property
    def budget_tokens(self) -> int:
        """Most tokens of a pack."""
        return self._kind.budget_tokens

    @property
    def max_queue_tokens(self) -> int:
        """Most tokens that wait or run."""
        return self._pump.max_queue_tokens

    @property
    def queue_tokens(self) -> int:
        """Tokens that wait or run, as far as they are known, else estimated."""
        return self._pump.queue_tokens

    @property
    def queue_requests(self) -> int:
        """Requests that are not answered."""
        return self._pump.queue_requests

    @property
    def tokens_per_s(self) -> float:
        """What the device did lately, while it ran."""
        return self._pump.tokens_per_s

    @property
    def failed(self) -> str | None:
        """Why it answers nothing any more: a thread that ended, or pack after pack that failed.

        None: it answers. One of the second kind is asked all the same, and well once a pack runs.
        """
        return self._pump.health.failed

    def drain(self, seconds: float | None = None) -> bool:
        """Take no more requests, and wait for those that are here; True if all were answered.

        Args:
            seconds: that it waits at most; None: as long as it takes.

        Raises:
            InputError: it is no time.
        """
        most = _seconds(seconds)
        if seconds is not None and most is None:
            raise InputError(f"seconds is {seconds!r}, expected seconds from 0, or None")
        return self._pump.drain(most)

    def close(self) -> None:
        """End after the packs that run, and fail what waits."""
        self._pump.close()

    def _admit(self, task: Task, priority: int, timeout: float | None, caller: Hashable) -> Answer:
        if type(priority) is not int or not 0 <= priority <= _LAST_PRIORITY:
            raise InputError(
                f"priority is {priority!r}, expected a whole number from 0 to {_LAST_PRIORITY}"
            )
        if not isinstance(caller, Hashable):
            raise InputError(f"caller is a {type(caller).__name__}, expected what can be hashed")
        seconds = _seconds(timeout)
        if timeout is not None and not seconds:
            raise InputError(f"timeout is {timeout!r}, expected seconds above 0")
        now = time.monotonic()
        pairs, source = task.pairs, task.source
        request = Request(
            pairs, source, task.finish, caller, priority,
            None if seconds is None else now + seconds, now,
            np.full((len(pairs), source.columns), -np.inf, dtype=np.float32),
            source.costs(pairs), usage=Usage(task.num_pairs),
        )  # fmt: skip
        return self._pump.admit(request)


def _seconds(given: Any) -> float | None:
    """A time that a caller names, infinity too; None: it is none."""
    number: Any = given if isinstance(given, Real) and not isinstance(given, bool) else -1
    return float(min(number, _FOREVER)) if number >= 0 else None
