"""Prompts to the tokens that follow them: many at once, and more at any time.

A step is one pack of the model: of every sequence that generates, its newest token; then tokens of
prompts, as many as the budget leaves. So weights are read once for all of them, and a long prompt
is read in pieces beside what others generate.

A prompt is begun when there are pages for all of it, and one more for each sequence that runs.
Where one that generates finds no page, the youngest gives its pages up and is begun again later,
with the tokens that it has: on a CPU their keys have the bits that they had, so its next token is
the same too.
Requests are begun in the order they came; the oldest never waits for another, so all are finished.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from packrank.errors import InputError, ModelError
from packrank.models import CausalModel, GenerativeModel
from packrank.models.generative import Step
from packrank.request import Int32
from packrank.runtime.pages import Pages, default_cache_bytes
from packrank.runtime.runner import default_budget
from packrank.runtime.transfer import PackUploads

# Of a page, on a CPU as many as a vector of AVX-512 has lanes: keys are packed so many at a time.
PAGE_TOKENS = 16


@dataclass(frozen=True)
class Generation:
    """A prompt, and what may follow it.

    Attributes:
        token_ids: [L] int32, the prompt.
        max_tokens: generated at most.
        min_tokens: until there are so many, stop tokens cannot come.
        stop_token_ids: one of them ends the output, and is not part of it.
        allowed: (generated so far) -> ids that may come next, stop tokens among them; where there
            are none the output ends. None: all of the vocabulary.
    """

    token_ids: Int32
    max_tokens: int
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    allowed: Callable[[list[int]], NDArray[np.int64]] | None = None


@dataclass(eq=False)
class _Sequence:
    """A request on its way.

    Attributes:
        key: the caller's.
        request: its.
        tokens: [L + max_tokens] int32; those of the prompt and, so far, of the output.
        known: how many of them there are.
        cached: of how many of those the keys are in pages.
        pages: which these are, with room for the tokens that come next.
        failed: whether the model's logits were no numbers.
    """

    key: Hashable
    request: Generation
    tokens: Int32
    known: int
    cached: int = 0
    pages: list[int] = field(default_factory=list)
    failed: bool = False

    @property
    def generated(self) -> list[int]:
        """The output so far."""
        found: list[int] = self.tokens[len(self.request.token_ids) : self.known].tolist()
        return found

    @property
    def stops(self) -> tuple[int, ...]:
        """Tokens that may not come next, since it is too early to stop."""
        early = self.known - len(self.request.token_ids) < self.request.min_tokens
        return self.request.stop_token_ids if early else ()


class Generator:
    """Greedy generation: the token of the largest logit, of equal ones that of the lower id.

    On a CPU a request's tokens depend on nothing but itself and the model. Not for several threads.

    Args:
        model: what generates: `CausalSettings(head="vocabulary")`.
        budget_tokens: most tokens of a step. None leaves it to `default_budget`.
        cache_bytes: most bytes of keys and values; memory for them is taken here, from a system as
            they are written. None: see `default_cache_bytes`.
        page_tokens: of a page of them.

    Attributes:
        prompt_tokens: run so far that were not generated in the step before; of a request that was
            begun again, all that it had.
        generated_tokens: so far, stop tokens left out.
        steps: so far.
        evictions: requests that gave up their pages so far, counted each time.

    Raises:
        ModelError: the model has another head.
        InputError: the budget is below 1, or the cache holds no page.
    """

    def __init__(
        self,
        model: CausalModel,
        *,
        budget_tokens: int | None = None,
        cache_bytes: int | None = None,
        page_tokens: int = PAGE_TOKENS,
    ) -> None:
        if not isinstance(model, GenerativeModel):
            raise ModelError(
                f"{model.config.architecture} was loaded with another head than its vocabulary, "
                "and cannot generate"
            )
        self.budget_tokens = default_budget(model) if budget_tokens is None else budget_tokens
        if self.budget_tokens < 1:
            raise InputError(f"budget_tokens is {budget_tokens}, expected at least 1")
        if page_tokens < 1:
            raise InputError(f"page_tokens is {page_tokens}, expected at least 1")
        limit = default_cache_bytes(model.device) if cache_bytes is None else cache_bytes
        self._model, self._config = model, model.config
        self._pages = Pages.within(limit, model.page_bytes(page_tokens), page_tokens)
        self._cache = model.make_cache(self._pages.count, page_tokens)
        model.upload = PackUploads(model.device)
        self._keys: set[Hashable] = set()
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []  # the oldest first; all of them before those that wait
        self._finished: deque[_Sequence] = deque()
        self.prompt_tokens = self.generated_tokens = self.steps = self.evictions = 0

    def add(self, key: Hashable, request: Generation) -> None:
        """Take a request, at any time.

        Args:
            key: that its output is told by; another than those of requests under way.
            request: the prompt.

        Raises:
            InputError: the prompt is empty or not the model's, can never fit in its positions or in
                the cache, or the key is under way.
        """
        self._check(key, request)
        known = len(request.token_ids)
        tokens = np.zeros(known + request.max_tokens, dtype=np.int32)
        tokens[:known] = request.token_ids
        self._keys.add(key)
        self._waiting.append(_Sequence(key, request, tokens, known))

    def finished(self) -> Iterator[tuple[Hashable, list[int] | None]]:
        """Key and output of each request as it is done, until none is left; more may be added.

        The output is None where the model's logits were no numbers.
        """
        while self._finished or self._running or self._waiting:
            if not self._finished:
                self._step()
            while self._finished:
                done = self._finished.popleft()
                self._keys.remove(done.key)
                yield done.key, None if done.failed else done.generated

    def clear(self) -> None:
        """Drop all requests, as after an error; what has been counted stays."""
        for sequence in self._running:
            self._pages.give_back(sequence.pages)
        self._running = []
        for waiting in (self._waiting, self._finished):
            waiting.clear()
        self._keys.clear()

    def _check(self, key: Hashable, request: Generation) -> None:
        ids, name = request.token_ids, f"prompt {key!r}"
        if key in self._keys:
            raise InputError(f"{name} is under way already; give another key")
        if len(ids) < 1:
            raise InputError(f"{name} is empty")
        if request.max_tokens < 1:
            raise InputError(f"{name}: max_tokens is {request.max_tokens}, expected at least 1")
        size = self._config.vocab_size
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= size:
            raise InputError(
                f"{name}: token id {low if low < 0 else high} is not among the model's {size}; "
                "is the tokenizer another model's?"
            )
        # What is generated last is not read any more.
        tokens = len(ids) + request.max_tokens - 1
        for room, what in (
            (self._config.usual_length, "the model has positions for"),
            (self._pages.tokens, "the cache has pages for"),
        ):
            if tokens > room:
                raise InputError(
                    f"{name} has {len(ids)} tokens, and {request.max_tokens} may follow: {what} "
                    f"{room}"
                )

    def _step(self) -> None:
        chosen = self._choose()
        ends = np.cumsum([count for _, count in chosen], dtype=np.int32)
        most = max(len(sequence.pages) for sequence, _ in chosen)
        table = np.zeros((len(chosen), most), dtype=np.int32)
        for row, (sequence, _) in zip(table, chosen, strict=True):
            row[: len(sequence.pages)] = sequence.pages
        lengths = np.array([s.cached + count for s, count in chosen], dtype=np.int32)
        known = np.array([s.known for s, _ in chosen], dtype=np.int32)
        asked = np.flatnonzero(lengths == known).astype(np.int32)
        step = Step(
            token_ids=np.concatenate([s.tokens[s.cached :][:count] for s, count in chosen]),
            cu_seqlens=np.append(np.int32(0), ends),
            lengths=lengths,
            table=table,
            asked=asked,
        )
        asking = [chosen[place][0] for place in asked.tolist()]
        tokens = self._best(self._model.next_logits(step, self._cache), asking)
        self.steps += 1
        for sequence, count in chosen:
            fresh = sequence.cached == sequence.known - 1 >= len(sequence.request.token_ids)
            self.prompt_tokens += 0 if fresh else count
            sequence.cached += count
        for sequence, token in zip(asking, tokens, strict=True):
            self._accept(sequence, token)

    def _choose(self) -> list[tuple[_Sequence, int]]:
        """Whose tokens the next step runs, and how many of each; they have the pages for them."""
        chosen, left = [], self.budget_tokens
        place = 0
        while place < len(self._running) and left > 0:
            sequence = self._running[place]
            if sequence.known - sequence.cached == 1 and self._has_room(sequence):
                chosen.append((sequence, 1))
                left -= 1
            place += 1
        for sequence in self._running:
            pending = sequence.known - sequence.cached
            if pending > 1 and left > 0:
                chosen.append((sequence, min(pending, left)))
                left -= chosen[-1][1]
        while self._waiting and left > 0:
            sequence = self._waiting[0]
            needed = self._pages.needed(sequence.known)
            if needed + len(self._running) > len(self._pages):
                break
            self._running.append(self._waiting.popleft())
            sequence.pages = self._pages.take(needed)
            chosen.append((sequence, min(sequence.known, left)))
            left -= chosen[-1][1]
        return chosen

    def _has_room(self, sequence: _Sequence) -> bool:
        """Whether there is a page for its next token; for it, those that are younger may go."""
        if len(sequence.pages) * self._pages.size > sequence.cached:
            return True
        while not len(self._pages) and self._running[-1] is not sequence:
            youngest = self._running.pop()
            self._pages.give_back(youngest.pages)
            youngest.pages, youngest.cached = [], 0
            self._waiting.appendleft(youngest)
            self.evictions += 1
        if not len(self._pages):
            return False
        sequence.pages += self._pages.take(1)
        return True

    def _best(self, logits: Tensor, asking: list[_Sequence]) -> list[int | None]:
        """The token that follows each of some sequences; None: none may."""
        banned = [
            (row, token)
            for row, sequence in enumerate(asking)
            for token in sequence.stops
            if sequence.request.allowed is None and 0 <= token < self._config.vocab_size
        ]
        if banned:
            rows, tokens = torch.tensor(banned, device=logits.device).unbind(1)
            logits[rows, tokens] = -torch.inf
        if not asking:
            return []
        best = logits.argmax(dim=1)
        highest = logits.gather(1, best[:, None])[:, 0].tolist()
        found: list[int | None] = [*best.tolist()]
        for row, (sequence, value) in enumerate(zip(asking, highest, strict=True)):
            if np.isnan(value):
                sequence.failed, found[row] = True, None
            elif sequence.request.allowed is not None:
                found[row] = self._best_allowed(logits[row], sequence)
        return found

    def _best_allowed(self, logits: Tensor, sequence: _Sequence) -> int | None:
        assert sequence.request.allowed is not None
        given = np.asarray(sequence.request.allowed(sequence.generated), dtype=np.int64)
        ids = np.setdiff1d(given, sequence.stops)  # ascending
        if not len(ids):
            return None
        if ids[0] < 0 or ids[-1] >= len(logits):
            wrong = ids[0] if ids[0] < 0 else ids[-1]
            raise InputError(
                f"prompt {sequence.key!r}: allowed gives {wrong}, which is not among the model's "
                f"{len(logits)} tokens"
            )
        places = torch.from_numpy(ids).to(logits.device)
        return int(ids[int(logits[places].argmax())])

    def _accept(self, sequence: _Sequence, token: int | None) -> None:
        """Add a token to what a sequence has, or end it."""
        request = sequence.request
        if token is not None and token not in request.stop_token_ids:
            sequence.tokens[sequence.known] = token
            sequence.known += 1
            self.generated_tokens += 1
            if sequence.known < len(sequence.tokens):
                return
        self._running.remove(sequence)
        self._pages.give_back(sequence.pages)
        self._finished.append(sequence)
