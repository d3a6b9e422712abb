"""Candidates on their way through a model's layers, and the queue that they wait in at each."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from packrank.models.staged import State
from packrank.request import Pack


@dataclass(eq=False)
class Candidate:
    """One sequence on its way."""

    query: "Query"
    place: int
    pair: int  # of its query: several sequences may be windows of one document
    pack: Pack  # which holds its tokens, as sequence `row`
    row: int
    prefix: int  # number of its prefix; equal numbers, equal prefixes
    shared: int  # tokens of the prefix
    tokens: int  # its other tokens, as far as they are left
    state: State | None = None  # what it keeps, as sequence `at`
    at: int = 0
    held: int = 0  # tokens that it keeps
    logit: float = float("nan")
    num_layers: int = 0

    @property
    def length(self) -> int:
        """Its tokens, those of the prefix included."""
        return self.shared + self.tokens

    @property
    def own(self) -> int:
        """Its tokens before any layer, those of the prefix not included."""
        cu_seqlens = self.pack.cu_seqlens
        return int(cu_seqlens[self.row + 1] - cu_seqlens[self.row]) - self.shared


@dataclass(eq=False)
class Query:
    """The candidates of one query."""

    number: int
    candidates: list[Candidate] = field(default_factory=list)
    running: dict[int, Candidate] = field(default_factory=dict)  # by place
    waiting: int = 0  # of `running`, those that have not reached the exit where they meet
    is_whole: bool = False
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def failed_pairs(self) -> set[int]:
        """Of which a candidate has failed."""
        return {self.candidates[place].pair for place in self.failures}


class Queue:
    """Candidates that wait at one layer, in the order they came, and how many tokens they have."""

    def __init__(self) -> None:
        self.waiting: deque[Candidate] = deque()
        self.tokens = 0

    def extend(self, candidates: Iterable[Candidate]) -> None:
        """Let candidates wait behind the others."""
        for candidate in candidates:
            self.waiting.append(candidate)
            self.tokens += candidate.tokens

    def put_back(self, candidates: list[Candidate]) -> None:
        """Let candidates that were taken wait before the others again."""
        self.waiting.extendleft(reversed(candidates))
        # States may have been dropped, and tokens been counted anew, of any that wait.
        self.tokens = sum(candidate.tokens for candidate in self.waiting)

    def take(self, budget_tokens: int) -> list[Candidate]:
        """As many as a pack holds, prefixes included; all with a state, or all without."""
        chosen: list[Candidate] = []
        present: set[int] = set()
        left = budget_tokens
        while self.waiting:
            head = self.waiting[0]
            size = head.tokens + (0 if head.prefix in present else head.shared)
            other = chosen and (head.state is None) != (chosen[0].state is None)
            if chosen and (size > left or other):
                break
            chosen.append(self.waiting.popleft())
            self.tokens -= head.tokens
            present.add(head.prefix)
            left -= size
        return chosen


def joined(chosen: list[Candidate]) -> Pack:
    """The tokens of candidates as one pack."""
    parts = []
    for _, run in groupby(chosen, key=lambda candidate: id(candidate.pack)):
        mine = list(run)
        rows = np.array([candidate.row for candidate in mine], dtype=np.int64)
        parts.append(mine[0].pack.take(rows))
    lengths = np.concatenate([part.lengths for part in parts])
    return Pack(
        token_ids=np.concatenate([part.token_ids for part in parts]),
        token_types=np.concatenate([part.token_types for part in parts]),
        cu_seqlens=np.append(0, np.cumsum(lengths)).astype(np.int32),
        queries=np.array([candidate.prefix for candidate in chosen], dtype=np.int32),
        shared=np.array([candidate.shared for candidate in chosen], dtype=np.int32),
    )
