"""Candidates through a model's layers, from exit to exit, until their place is settled.

The candidates of a query reach an exit layer together; those that the caller does not keep stop
there. What is left of several queries goes on in common packs, so that packs stay full to the last
layer: a pack runs as soon as enough tokens wait at its layer, the deepest first. Which candidates
stop depends on those of their own query alone, and packs change no logits, so neither does company.

A candidate that waits keeps its hidden states, as far as there is room; beyond that it keeps its
tokens alone and, if it is to go on, runs its layers once more. So memory follows the token budget,
not the number of candidates.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packrank.errors import UNFINITE
from packrank.exits.candidates import Candidate, Query, Queue, joined
from packrank.models.program import Program
from packrank.models.staged import StagedModel, State
from packrank.request import Int32, Pack
from packrank.runtime.device import suppress_out_of_memory
from packrank.runtime.graphs import Graphs
from packrank.runtime.scheduler import packed_tokens
from packrank.runtime.transfer import Fetch, fetch
from packrank.work import Work

# (stage, logits [n] of a query's pairs there) -> bool [n], which of them go on.
Keep = Callable[[int, NDArray[np.float32]], NDArray[np.bool_]]

# Of hidden states that wait, in token budgets. Of bge-reranker-v2-minicpm-layerwise in bfloat16 a
# budget of 4096 tokens is 38 MB.
MOST_HELD = 32


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


class Cascade:
    """A model's layers as stages, each with a queue.

    Args:
        model: what runs.
        stops: after how many layers each stage ends, ascending.
        keep: asked after every stage but the last.
        budget_tokens: most tokens of a pack. Halved where the device runs out of memory although
            nothing waits on it.
        graphs: what runs the model's programs, if anything does: packs of a single stage.

    Attributes:
        work: token-layers so far.
    """

    def __init__(
        self,
        model: StagedModel,
        stops: tuple[int, ...],
        keep: Keep,
        budget_tokens: int,
        graphs: Graphs | None = None,
    ) -> None:
        self.budget_tokens = budget_tokens
        self.work = Work()
        self._model, self._stops, self._keep, self._graphs = model, stops, keep, graphs
        self._queues = [Queue() for _ in stops]
        self._queries: dict[int, Query] = {}
        self._settled: list[Settled] = []
        self._num_prefixes = 0
        self._held = 0
        # Of the last stage, whose logits nothing waits for: a pack that may still be computed.
        self._flying: tuple[list[Candidate], Fetch] | None = None

    def add(self, query: int, pack: Pack, pairs: list[int] | None = None) -> None:
        """Queue candidates of a query; more may follow until it is closed.

        Args:
            query: its number.
            pack: of n candidates.
            pairs: [n], which pair of the query each is a window of: those of one go on, or stop,
                together, by the highest of their logits. None: each is a pair of its own.
        """
        mine = self._queries.setdefault(query, Query(query))
        shared = np.zeros(len(pack), np.int32) if pack.shared is None else pack.shared
        numbers = np.arange(len(pack)) if pack.queries is None else pack.queries
        first = len(mine.candidates)
        if pairs is None:
            pairs = list(range(first, first + len(pack)))
        rows = zip(numbers.tolist(), pack.lengths.tolist(), shared.tolist(), pairs, strict=True)
        new = [
            Candidate(
                query=mine,
                place=first + row,
                pair=pair,
                pack=pack,
                row=row,
                prefix=self._num_prefixes + number,
                shared=prefix,
                tokens=length - prefix,
            )
            for row, (number, length, prefix, pair) in enumerate(rows)
        ]
        mine.candidates += new
        mine.running |= {candidate.place: candidate for candidate in new}
        mine.waiting += len(new)
        self._queues[0].extend(new)
        self._num_prefixes += int(numbers.max(initial=-1)) + 1
        self.work += Work(total=int(pack.lengths.sum()) * self._stops[-1])

    def close(self, query: int) -> None:
        """No more candidates of this query follow."""
        mine = self._queries.setdefault(query, Query(query))
        mine.is_whole = True
        if not mine.waiting:
            self._decide(mine, 0)

    def run(self, *, to_the_end: bool) -> Iterator[Settled]:
        """Run packs while there are full ones, or while there are any; queries as they leave."""
        while True:
            yield from self._settled
            self._settled.clear()
            stage = self._next_stage(to_the_end)
            if stage is not None:
                self._run_pack(stage)
            elif to_the_end and self._flying is not None:
                self._land()
            else:
                return

    def _next_stage(self, to_the_end: bool) -> int | None:
        for stage in reversed(range(1, len(self._stops))):
            if self._queues[stage].tokens >= self.budget_tokens:
                return stage
        if self._held > MOST_HELD // 2 * self.budget_tokens:
            # Many stages wait, each with less than a pack: the fullest makes room for new ones.
            fullest = max(range(1, len(self._stops)), key=lambda n: self._queues[n].tokens)
            if self._queues[fullest].waiting:
                return fullest
        if self._queues[0].tokens >= self.budget_tokens:
            return 0
        if to_the_end:  # the earliest: what survives it may fill up those that follow
            return next((n for n, queue in enumerate(self._queues) if queue.waiting), None)
        return None

    def _run_pack(self, stage: int) -> None:
        chosen = self._queues[stage].take(self.budget_tokens)
        computed: tuple[State | None, Fetch] | None = None
        # Room is made after the except clause: until then the error keeps what it met alive.
        with suppress_out_of_memory():
            computed = self._compute(stage, chosen)
        if computed is None:
            self._make_room(stage, chosen)
            return
        state, wait = computed
        if stage + 1 == len(self._stops):
            self._land()
            self._flying = chosen, wait
            return
        assert state is not None
        for at, candidate in enumerate(chosen, start=len(state.prefix_of) - len(chosen)):
            candidate.tokens = int(state.cu_seqlens[at + 1] - state.cu_seqlens[at])
            self._hold(candidate, state, at)
        self._arrive(chosen, stage, wait)

    def _make_room(self, stage: int, chosen: list[Candidate]) -> None:
        """The device has run out of memory: drop what waits, else make packs smaller."""
        self._land()
        holding = [
            candidate
            for query in self._queries.values()
            for candidate in query.running.values()
            if candidate.state is not None
        ]
        for candidate in [*holding, *chosen]:
            self._release(candidate)
            candidate.tokens = candidate.own
        captured = 0 if self._graphs is None else self._graphs.num_graphs
        if self._graphs is not None:
            self._graphs.clear()
        if not holding and not captured:
            if len(chosen) == 1:
                (lost,) = chosen
                where = self._model.device
                self._fail(lost, f"its {lost.length} tokens do not fit in the memory of {where}")
                self._meet(lost.query, stage)
                return
            used = packed_tokens(
                np.array([candidate.length for candidate in chosen]),
                np.array([candidate.prefix for candidate in chosen], dtype=np.int32),
                np.array([candidate.shared for candidate in chosen], dtype=np.int32),
            )
            self.budget_tokens = min(self.budget_tokens, used // 2)
        for queue in self._queues:
            queue.put_back(chosen if queue is self._queues[stage] else [])

    def _compute(self, stage: int, chosen: list[Candidate]) -> tuple[State | None, Fetch]:
        """The state of these after a stage, in their order after their prefixes; and logits.

        Without a state where the stage is the only one, and its program runs.
        """
        model, stop = self._model, self._stops[stage]
        if self._graphs is not None and len(self._stops) == 1:
            program = model.exit_scoring(joined(chosen), self._stops)
            if program.may_have_room:
                return None, self._run_program(self._graphs, program, chosen)
        again = 0
        if chosen[0].state is not None:
            state = self._regroup(chosen)
        else:
            state = model.begin(joined(chosen))
            ran = self._stops[stage - 1] if stage else 0
            again = sum(candidate.length for candidate in chosen) * ran
        for candidate in chosen:
            self._release(candidate)  # its states are in the new one
        layers = stop - state.num_layers
        alone = sum(candidate.length for candidate in chosen) * layers
        together = int(state.cu_seqlens[-1]) * layers
        is_last = stage + 1 == len(self._stops)
        state = model.advance(state, stop, last_only=is_last)
        wait = fetch(model.exit_logits(state, stage)[-len(chosen) :, 0])
        self.work += Work(
            computed=state.computed,
            recomputed=again,
            saved_by_prefix=alone - together,
            saved_by_last_layer=state.spared,
        )
        return state, wait

    def _run_program(self, graphs: Graphs, program: Program, chosen: list[Candidate]) -> Fetch:
        (stop,), tokens = self._stops, program.extent.tokens
        wait, spared = graphs.submit(program), self._model.spared(program.extent, stop)
        self.work += Work(
            computed=tokens * stop - spared,
            saved_by_prefix=(sum(candidate.length for candidate in chosen) - tokens) * stop,
            saved_by_last_layer=spared,
        )
        return lambda: wait()[:, 0]

    def _regroup(self, chosen: list[Candidate]) -> State:
        """One state of candidates that come out of several, each prefix once, prefixes first."""
        first: dict[int, tuple[State, int]] = {}
        wanted: list[tuple[State, int]] = []
        for candidate in chosen:
            state = candidate.state
            assert state is not None
            if candidate.shared:
                at = int(state.prefix_of[candidate.at])
                first.setdefault(candidate.prefix, (state, at))
            wanted.append((state, candidate.at))
        places = {prefix: place for place, prefix in enumerate(first)}
        own = [places.get(candidate.prefix, -1) for candidate in chosen]
        prefix_of = np.array([-1] * len(first) + own, dtype=np.int32)
        return self._model.gather([*first.values(), *wanted], prefix_of)

    def _hold(self, candidate: Candidate, state: State, at: int) -> None:
        """Let a candidate keep its state, if there is room; else it runs again if it goes on."""
        if self._held + candidate.length > MOST_HELD * self.budget_tokens:
            candidate.tokens = candidate.own
            return
        candidate.state, candidate.at, candidate.held = state, at, candidate.length
        self._held += candidate.held

    def _release(self, candidate: Candidate) -> None:
        self._held -= candidate.held
        candidate.state, candidate.held = None, 0

    def _land(self) -> None:
        if self._flying is not None:
            (chosen, wait), self._flying = self._flying, None
            self._arrive(chosen, len(self._stops) - 1, wait)

    def _arrive(self, chosen: list[Candidate], stage: int, wait: Fetch) -> None:
        """These have reached the end of a stage."""
        for candidate, logit in zip(chosen, wait().tolist(), strict=True):
            candidate.logit, candidate.num_layers = logit, self._stops[stage]
            if not np.isfinite(logit):
                self._fail(candidate, UNFINITE)
            self._meet(candidate.query, stage)

    def _meet(self, query: Query, stage: int) -> None:
        query.waiting -= 1
        if query.is_whole and not query.waiting:
            self._decide(query, stage)

    def _fail(self, candidate: Candidate, reason: str) -> None:
        candidate.query.failures[candidate.place] = reason
        self._leave(candidate)

    def _decide(self, query: Query, stage: int) -> None:
        """What becomes of a query whose candidates have all reached the end of a stage."""
        if query.failures:
            failed = query.failed_pairs
            for candidate in [one for one in query.running.values() if one.pair in failed]:
                self._leave(candidate)
        running = list(query.running.values())
        if stage + 1 == len(self._stops) or not running:
            self._settle(query)
            return
        logits = np.array([candidate.logit for candidate in running], dtype=np.float32)
        pairs, of = np.unique([one.pair for one in running], return_inverse=True)
        best = np.full(len(pairs), -np.inf, dtype=np.float32)
        np.maximum.at(best, of, logits)
        kept = self._keep(stage, best)[of].tolist()
        for candidate, stays in zip(running, kept, strict=True):
            if not stays:
                self._leave(candidate)
        running = list(query.running.values())
        holding = [candidate for candidate in running if candidate.state is not None]
        if holding and not all(kept):  # what else their packs hold may go
            state = self._regroup(holding)
            first = len(state.prefix_of) - len(holding)
            for at, candidate in enumerate(holding, start=first):
                candidate.state, candidate.at = state, at
        query.waiting = len(running)
        self._queues[stage + 1].extend(running)

    def _leave(self, candidate: Candidate) -> None:
        self._release(candidate)
        del candidate.query.running[candidate.place]
        ahead = self._stops[-1] - candidate.num_layers
        self.work += Work(saved_by_exits=candidate.length * ahead)

    def _settle(self, query: Query) -> None:
        logits = np.full(len(query.candidates), np.nan, dtype=np.float32)
        for place, candidate in query.running.items():
            logits[place] = candidate.logit
        layers = np.array([c.num_layers for c in query.candidates], dtype=np.int32)
        del self._queries[query.number]
        self._settled.append(Settled(query.number, logits, layers, query.failures))
