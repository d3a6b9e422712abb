"""Documents by what a model writes of windows of them: RankZephyr, RankVicuna, any chat model."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.errors import UNFINITE, InputError
from packrank.ordering.joint_ranker import Ordered, by_place
from packrank.ordering.orders import Documents, sliding_windows
from packrank.ordering.permutation import read_permutation
from packrank.ordering.rounds import Key, run_orders
from packrank.ordering.windows import WindowPrompts, WindowTexts
from packrank.request import Int32
from packrank.runtime.generation import Generation, Generator
from packrank.work import Calls

Allowed = Callable[[list[int]], NDArray[np.int64]]


@dataclass
class ByWriting:
    """Windows of many queries at once, each query's one after the other.

    Attributes:
        prompts: of windows.
        generator: what writes; one call at a time has it.
        stop_token_ids: that end an answer.
        grammar: count of documents -> what may be written of so many; None: anything.
    """

    prompts: WindowPrompts
    generator: Generator
    stop_token_ids: tuple[int, ...]
    grammar: Callable[[int], Allowed] | None = None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def prepared(self, query: str, documents: list[Any]) -> WindowTexts:
        """A query and its documents, cleaned; see `Way`."""
        return self.prompts.asked(query, documents)

    def ordered(self, prepared: list[WindowTexts], top_k: int | None) -> list[Ordered]:
        """The order of each query's documents; their scores are minus their ranks."""
        rule = self.prompts.rule
        orders = [sliding_windows(len(one.words), rule.size, rule.stride) for one in prepared]
        with self._lock:
            asker = _Asker(self, prepared)
            try:
                found = run_orders(orders, asker)
            finally:
                self.generator.clear()
        return list(map(by_place, found, asker.calls, asker.failures))


class _Asker:
    """Who answers: as soon as a window is ordered the next of its query takes its place.

    Attributes:
        calls: of each query.
        failures: of each query, why its answers count for nothing; None: they count.
    """

    def __init__(self, way: ByWriting, asked: list[WindowTexts]) -> None:
        self._way, self._asked = way, asked
        self._counts: dict[Key, int] = {}
        self.calls = [Calls() for _ in asked]
        self.failures: list[str | None] = [None for _ in asked]

    def add(self, key: Key, question: Documents) -> None:
        """Take a window."""
        way, count = self._way, len(question)
        try:
            ids = way.prompts.ids(self._asked[key[0]], question)
            self._begin(key, ids, count)
        except InputError as error:
            self.failures[key[0]] = f"a window of {count} documents cannot be ordered: {error}"

    def _begin(self, key: Key, ids: Int32, count: int) -> None:
        way = self._way
        size = way.prompts.answer_tokens(count)
        # As upstream: so many tokens as a plain answer has, and no end before. A grammar may take
        # other tokens for the same text, and ends by itself.
        request = Generation(
            token_ids=ids,
            max_tokens=size if way.grammar is None else 4 * size,
            min_tokens=size if way.grammar is None else 0,
            stop_token_ids=way.stop_token_ids,
            allowed=None if way.grammar is None else way.grammar(count),
        )
        way.generator.add(key, request)
        self._counts[key] = count
        self.calls[key[0]] += Calls(1, len(ids))

    def finished(self) -> Iterator[tuple[Key, list[int]]]:
        """Places of each window in their new order."""
        rule = self._way.prompts.rule
        for done, ids in self._way.generator.finished():
            key: Key = done  # type: ignore[assignment]  # as they were added
            if ids is None:
                self.failures[key[0]] = UNFINITE
                continue
            text = self._way.prompts.tokenizer.decode(ids, special=False)
            places, is_whole = read_permutation(text, self._counts.pop(key), letters=rule.letters)
            self.calls[key[0]] += Calls(0, 0, len(ids), 0 if is_whole else 1)
            yield key, places
