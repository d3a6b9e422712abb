"""Candidates through a model's layers, from exit to exit, until their place is settled.

The candidates of a query reach an exit layer together; those that the caller does not keep stop
there. What is left of several queries goes on in common packs, so that packs stay full to the last
layer: a pack runs as soon as enough tokens wait at its layer, the deepest first. Which candidates
stop depends on those of their own query alone, and packs change no logits, so neither does company.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from packrank.models.staged import StagedModel, State
from packrank.request import Int32, Pack
from packrank.work import Work

# (stage, logits [n] of a query's candidates there) -> bool [n], which of them go on.
Keep = Callable[[int, NDArray[np.float32]], NDArray[np.bool_]]


@dataclass(frozen=True)
class Settled:
    """The candidates of a query that has left the cascade, in the order they were added.

    Attributes:
        query: its number.
        logits: [n] float32 after the last layer; NaN of candidates that stopped before, or failed.
        num_layers: [n] int32, how many each has run.
        failures: place -> reason.
    """

    query: int
    logits: NDArray[np.float32]
    num_layers: Int32
    failures: dict[int, str]


@dataclass(eq=False)
class _Candidate:
    """One sequence on its way; `owner` holds what is known of it, as sequence `at`."""

    query: "_Query"
    place: int
    prefix: int  # number of its prefix; equal numbers, equal prefixes
    shared: int  # tokens of the prefix
    tokens: int  # its other tokens
    owner: "Pack | State"
    at: int
    logit: float = float("nan")
    num_layers: int = 0


@dataclass
class _Query:
    """The candidates of one query."""

    number: int
    candidates: list[_Candidate] = field(default_factory=list)
    running: list[_Candidate] = field(default_factory=list)
    waiting: int = 0  # of `running`, those that have not reached the exit where they meet
    is_whole: bool = False
    failures: dict[int, str] = field(default_factory=dict)


class Cascade:
    """A model's layers as stages, each with a queue.

    Args:
        model: what runs.
        stops: after how many layers each stage ends, ascending.
        keep: asked after every stage but the last.
        budget_tokens: most tokens of a pack. Halved whenever the device runs out of memory.

    Attributes:
        work: token-layers so far.
    """

    def __init__(
        self, model: StagedModel, stops: tuple[int, ...], keep: Keep, budget_tokens: int
    ) -> None:
        self.budget_tokens = budget_tokens
        self.work = Work()
        self._model, self._stops, self._keep = model, stops, keep
        self._queues: list[deque[_Candidate]] = [deque() for _ in stops]
        self._queries: dict[int, _Query] = {}
        self._settled: list[Settled] = []
        self._num_prefixes = 0

    def add(self, query: int, pack: Pack) -> None:
        """Queue candidates of a query; more may follow until it is closed."""
        mine = self._queries.setdefault(query, _Query(query))
        shared = np.zeros(len(pack), np.int32) if pack.shared is None else pack.shared
        numbers = np.arange(len(pack)) if pack.queries is None else pack.queries
        if not self._model.shares_prefixes:
            shared, numbers = np.zeros_like(shared), np.arange(len(pack))
        for at, (number, length, prefix) in enumerate(
            zip(numbers.tolist(), pack.lengths.tolist(), shared.tolist(), strict=True)
        ):
            candidate = _Candidate(
                query=mine,
                place=len(mine.candidates),
                prefix=self._num_prefixes + number,
                shared=prefix,
                tokens=length - prefix,
                owner=pack,
                at=at,
            )
            mine.candidates.append(candidate)
            mine.running.append(candidate)
            self._queues[0].append(candidate)
        self._num_prefixes += int(numbers.max(initial=-1)) + 1
        mine.waiting += len(pack)
        self.work += Work(total=int(pack.lengths.sum()) * self._stops[-1])

    def close(self, query: int) -> None:
        """No more candidates of this query follow."""
        mine = self._queries.setdefault(query, _Query(query))
        mine.is_whole = True
        if not mine.waiting:
            self._decide(mine, 0)

    def run(self, *, to_the_end: bool) -> Iterator[Settled]:
        """Run packs while there are full ones, or while there are any; queries as they leave."""
        while True:
            yield from self._settled
            self._settled.clear()
            stage = self._next_stage(to_the_end)
            if stage is None:
                return
            self._run_pack(stage)

    def _next_stage(self, to_the_end: bool) -> int | None:
        waiting = [sum(candidate.tokens for candidate in queue) for queue in self._queues]
        for stage in range(len(waiting) - 1, -1, -1):
            if waiting[stage] >= self.budget_tokens:
                return stage
        if to_the_end:  # the earliest: what survives it may fill up those that follow
            return next((stage for stage, tokens in enumerate(waiting) if tokens), None)
        return None

    def _run_pack(self, stage: int) -> None:
        chosen = self._take(stage)
        state: State | None = None
        # Room is made after the except clause: until then the error keeps what it met alive.
        with suppress(torch.OutOfMemoryError):
            state, logits = self._compute(stage, chosen)
        if state is None:
            if len(chosen) > 1:
                prefixes = {candidate.prefix: candidate.shared for candidate in chosen}
                used = sum(candidate.tokens for candidate in chosen) + sum(prefixes.values())
                self.budget_tokens = min(self.budget_tokens, used // 2)
                self._queues[stage].extendleft(reversed(chosen))
                return
            (lost,) = chosen
            size = lost.shared + lost.tokens
            where = self._model.device
            self._arrive(lost, stage, f"its {size} tokens do not fit in the memory of {where}")
            return
        first = len(state.prefix_of) - len(chosen)
        for at, candidate in enumerate(chosen, start=first):
            candidate.logit = float(logits[at])
            candidate.num_layers = self._stops[stage]
            if stage + 1 < len(self._stops):
                candidate.owner, candidate.at = state, at
                candidate.tokens = int(state.cu_seqlens[at + 1] - state.cu_seqlens[at])
        for candidate in chosen:
            sound = np.isfinite(candidate.logit)
            self._arrive(
                candidate, stage, None if sound else "the model's logits for it are not finite"
            )

    def _take(self, stage: int) -> list[_Candidate]:
        """The next candidates of a queue, as many as a pack holds, prefixes included."""
        queue, left = self._queues[stage], self.budget_tokens
        chosen: list[_Candidate] = []
        present: set[int] = set()
        while queue:
            head = queue[0]
            size = head.tokens + (0 if head.prefix in present else head.shared)
            if chosen and size > left:
                break
            chosen.append(queue.popleft())
            present.add(head.prefix)
            left -= size
        return chosen

    def _compute(self, stage: int, chosen: list[_Candidate]) -> tuple[State, NDArray[np.float32]]:
        """The state of these after a stage, in their order after their prefixes; and logits."""
        model, stop = self._model, self._stops[stage]
        state = model.begin(_joined(chosen)) if stage == 0 else self._regroup(chosen)
        layers = stop - state.num_layers
        alone = sum(candidate.shared + candidate.tokens for candidate in chosen) * layers
        together = int(state.cu_seqlens[-1]) * layers
        is_last = stage + 1 == len(self._stops)
        state = model.advance(state, stop, last_only=is_last)
        logits: NDArray[np.float32] = model.exit_logits(state, stage)[:, 0].cpu().numpy()
        self.work += Work(
            computed=state.computed,
            saved_by_prefix=alone - together,
            saved_by_last_layer=state.spared,
        )
        return state, logits

    def _regroup(self, chosen: list[_Candidate]) -> State:
        """One state of candidates that come out of several, each prefix once."""
        first: dict[int, tuple[State, int]] = {}
        wanted: list[tuple[State, int]] = []
        for candidate in chosen:
            state = candidate.owner
            assert isinstance(state, State)
            if candidate.shared:
                at = int(state.prefix_of[candidate.at])
                first.setdefault(candidate.prefix, (state, at))
            wanted.append((state, candidate.at))
        places = {prefix: place for place, prefix in enumerate(first)}
        own = [places.get(candidate.prefix, -1) for candidate in chosen]
        prefix_of = np.array([-1] * len(first) + own, dtype=np.int32)
        return self._model.gather([*first.values(), *wanted], prefix_of)

    def _arrive(self, candidate: _Candidate, stage: int, failure: str | None) -> None:
        query = candidate.query
        query.waiting -= 1
        if failure is not None:
            query.failures[candidate.place] = failure
            query.running.remove(candidate)
            self._leaves(candidate, stage)
        if query.is_whole and not query.waiting:
            self._decide(query, stage)

    def _decide(self, query: _Query, stage: int) -> None:
        """What becomes of a query whose candidates have all reached the end of a stage."""
        is_last = stage + 1 == len(self._stops)
        if is_last or not query.running:
            self._settle(query)
            return
        logits = np.array([candidate.logit for candidate in query.running], dtype=np.float32)
        kept = self._keep(stage, logits)
        for candidate, stays in zip(query.running, kept.tolist(), strict=True):
            if not stays:
                self._leaves(candidate, stage)
        query.running = [c for c, stays in zip(query.running, kept.tolist(), strict=True) if stays]
        query.waiting = len(query.running)
        self._queues[stage + 1].extend(query.running)

    def _leaves(self, candidate: _Candidate, stage: int) -> None:
        ahead = self._stops[-1] - self._stops[stage]
        self.work += Work(saved_by_exits=(candidate.shared + candidate.tokens) * ahead)
        candidate.owner = _NOBODY  # what it held may go

    def _settle(self, query: _Query) -> None:
        logits = np.full(len(query.candidates), np.nan, dtype=np.float32)
        for candidate in query.running:
            logits[candidate.place] = candidate.logit
        layers = np.array([c.num_layers for c in query.candidates], dtype=np.int32)
        del self._queries[query.number]
        self._settled.append(Settled(query.number, logits, layers, query.failures))


_NOBODY = Pack.of([])


def _joined(chosen: list[_Candidate]) -> Pack:
    """Candidates that have run no layer, as one pack."""
    parts = []
    for _, run in groupby(chosen, key=lambda candidate: id(candidate.owner)):
        mine = list(run)
        owner = mine[0].owner
        assert isinstance(owner, Pack)
        parts.append(owner.take(np.array([candidate.at for candidate in mine], dtype=np.int64)))
    lengths = np.concatenate([part.lengths for part in parts])
    return Pack(
        token_ids=np.concatenate([part.token_ids for part in parts]),
        token_types=np.concatenate([part.token_types for part in parts]),
        cu_seqlens=np.append(0, np.cumsum(lengths)).astype(np.int32),
        queries=np.array([candidate.prefix for candidate in chosen], dtype=np.int32),
        shared=np.array([candidate.shared for candidate in chosen], dtype=np.int32),
    )
