"""What is asked of each kind of model, as tasks for an engine: a reranker, late interaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from packrank.arguments import check_choice_or_none, check_str, checked_count, listed
from packrank.documents import document_of
from packrank.errors import InputError, raise_first
from packrank.exits.stages import Outcome
from packrank.late_interaction import LateInteraction
from packrank.request import Ranked, Ranking
from packrank.reranker import Reranker, asked_of, question_of, scorer_of
from packrank.runtime.runner import Runner
from packrank.scoring.question import Question
from packrank.serving.guess import TokenGuess
from packrank.serving.source import Alone, LateSource, PairSource, Reading, Source, length_of
from packrank.serving.token_cache import TokenCache

Model = Reranker | LateInteraction
Logits = NDArray[np.float32]
Failures = dict[int, str]
_LATE_BUDGET = 4096
# A stored token is multiplied with the query's, and read; one that is encoded goes through all
# layers, which is thousands of times as much, and on a device hundreds, where reading counts.
_STORED_TOKENS = 256


class Task(NamedTuple):
    """Pairs to run, and what becomes of them.

    Attributes:
        pairs: as the source reads them.
        source: reads and runs them.
        finish: what the caller gets, of logits [N, columns] and index -> reason of failures.
        num_pairs: that these are to the caller.
    """

    pairs: list[Any]
    source: Source
    finish: Callable[[Logits, Failures], Any]
    num_pairs: int


class Kind(Protocol):
    """A model of some kind. Each call checks its arguments: InputError."""

    @property
    def devices(self) -> list[torch.device]:
        """That it runs on."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        ...

    @property
    def budget_tokens(self) -> int:
        """Most tokens of a pack."""
        ...

    def ranking(
        self, query: str, documents: list[Any], top_k: int | None, options: dict[str, Any]
    ) -> Task:
        """What the model's `rank` does."""
        ...

    def scores(self, pairs: list[Any], options: dict[str, Any]) -> Task:
        """What its `score` does of several pairs."""
        ...

    def ranking_of_store(
        self,
        query: str,
        top_k: int | None,
        candidates: Sequence[str] | None,
        options: dict[str, Any],
    ) -> Task:
        """What its `rank` does of the documents of its store."""
        ...

    def explanation(self, query: str, document: str) -> Task:
        """What its `explain` does."""
        ...


def kind_of(model: Model, cache: TokenCache, guess: TokenGuess) -> Kind:
    """The kind of a model.

    Args:
        model: that runs.
        cache: of the tokens of documents.
        guess: of how many texts have.

    Raises:
        InputError: it is none that an engine runs.
    """
    if isinstance(model, Reranker):
        return RerankerKind(model, cache, guess)
    if isinstance(model, LateInteraction):
        return LateKind(model)
    raise InputError(f"the model is a {type(model).__name__}, expected a Reranker")


@dataclass(frozen=True)
class RerankerKind:
    """A reranker; see `kind_of`."""

    model: Reranker
    cache: TokenCache
    guess: TokenGuess

    @property
    def devices(self) -> list[torch.device]:
        """See `Kind`; likewise the others."""
        return self.model.devices

    @property
    def dtype(self) -> torch.dtype:
        """The runner's."""
        runner = scorer_of(self.model).runner
        return runner.model.dtype if isinstance(runner, Runner) else runner.dtype

    @property
    def budget_tokens(self) -> int:
        """The runner's, which may shrink."""
        return scorer_of(self.model).runner.budget_tokens

    def ranking(
        self, query: str, documents: list[Any], top_k: int | None, options: dict[str, Any]
    ) -> Task:
        """Pairs of the query, in packs with others'; with `exit` by themselves."""
        question = question_of(self.model, top_k, **options)
        pairs = [(query, document) for document in documents]
        if len(question.stages.stops) > 1:
            return self._cascade(question, pairs, lambda: self.model.rank(
                query, documents, top_k, **options
            ))  # fmt: skip
        last = question.stages.stops[-1]
        layers = None if last == self.model.exit_layers[-1] else question.stages.stops

        def ranking(logits: Logits, failures: Failures) -> Ranking:
            raise_first(failures, "try_rank")
            num_layers = np.full(len(documents), last, dtype=np.int32)
            return question.ranking(documents, Outcome(logits, num_layers, failures), None)[0]

        source = PairSource(question.scorer, layers, self.cache, self.guess)
        return Task(pairs, source, ranking, len(pairs))

    def _cascade(
        self, question: Question, pairs: list[tuple[str, Any]], rank: Callable[[], Ranking]
    ) -> Task:
        question.stages.check(len(pairs))
        source = PairSource(question.scorer, None, self.cache, self.guess)
        tokens = sum(source.costs(pairs).kept)

        def call() -> tuple[Ranking, int]:
            ranking = rank()
            work, layers = ranking.work, question.stages.stops[-1]
            return ranking, tokens if work is None else work.total // layers

        return _alone(call, tokens, len(pairs))

    def scores(self, pairs: list[Any], options: dict[str, Any]) -> Task:
        """Pairs, in packs with others'."""
        asked = asked_of(self.model, **options)

        def scores(found: Logits, failures: Failures) -> Any:
            raise_first(failures, "try_score")
            return asked.scores(found)

        source = PairSource(asked.scorer, asked.layers, self.cache, self.guess)
        return Task(pairs, source, scores, len(pairs))

    def ranking_of_store(
        self,
        query: str,
        top_k: int | None,
        candidates: Sequence[str] | None,
        options: dict[str, Any],
    ) -> Task:
        """Refused."""
        raise InputError(_NO_STORE)

    def explanation(self, query: str, document: str) -> Task:
        """Refused."""
        raise InputError("only late interaction scores by tokens, and so has any to show")


@dataclass(frozen=True)
class LateKind:
    """Late interaction; see `kind_of`."""

    model: LateInteraction
    budget_tokens: int = _LATE_BUDGET

    @property
    def devices(self) -> list[torch.device]:
        """One, that is waited for like a CPU."""
        return [torch.device("cpu")]

    @property
    def dtype(self) -> torch.dtype:
        """The encoder's."""
        return self.model.dtype

    def _source(self, options: dict[str, Any] | None = None) -> LateSource:
        """What reads and runs pairs, by options of a call."""
        left = dict(options or {})
        is_whole = left.pop("truncation", None)
        check_choice_or_none("truncation", is_whole, ("off",))
        for name, value in left.items():
            if value is not None:
                raise InputError(f"late interaction has no {name}")
        return LateSource(self.model, self.budget_tokens, is_whole == "off")

    def ranking(
        self, query: str, documents: list[Any], top_k: int | None, options: dict[str, Any]
    ) -> Task:
        """Pairs of the query, with others'."""
        source, most = self._source(options), checked_count("top_k", top_k)

        def ranked(scores: Logits, failures: Failures) -> list[Ranked]:
            raise_first(failures, "try_rank")
            order = np.argsort(-scores[:, 0], kind="stable").tolist()[:most]
            return [Ranked(i, float(scores[i, 0]), *document_of(documents[i])) for i in order]

        pairs = [(query, document) for document in documents]
        return Task(pairs, source, ranked, len(pairs))

    def scores(self, pairs: list[Any], options: dict[str, Any]) -> Task:
        """Pairs, with others'."""
        source = self._source(options)

        def scores(found: Logits, failures: Failures) -> Any:
            raise_first(failures, "try_score")
            return found[:, 0]

        return Task(pairs, source, scores, len(pairs))

    def ranking_of_store(
        self,
        query: str,
        top_k: int | None,
        candidates: Sequence[str] | None,
        options: dict[str, Any],
    ) -> Task:
        """By itself; a stored token counts for a 256th of one that is encoded."""
        model, store = self.model, self.model.store
        if store is None:
            raise InputError(_NO_STORE)
        chosen = None if candidates is None else listed("candidates", candidates, "ids")
        count = len(store) if chosen is None else len(chosen)
        # By the mean: to know each candidate's all ids would have to be read.
        mean = int(store.embeddings.cu_seqlens[-1]) / max(len(store), 1)
        tokens = self._source().tokens(length_of(query), 0) + int(count * mean / _STORED_TOKENS)

        def call() -> tuple[Any, int]:
            return model.rank(query, None, top_k, candidates=chosen, **options), tokens

        return _alone(call, tokens, count)

    def explanation(self, query: str, document: str) -> Task:
        """By itself."""
        check_str("query", query)
        check_str("document", document)
        source = self._source()
        [cost] = source.lengths([(query, document)])
        tokens = source.tokens(length_of(query), length_of(document))
        return _alone(lambda: (self.model.explain(query, document), tokens), cost, 1)


_NO_STORE = "documents is None, and the engine's model has no store"


def _alone(call: Callable[[], tuple[Any, int]], tokens: int, num_pairs: int) -> Task:
    alone = Alone(call, tokens, [])
    return Task([None], alone, lambda *_: alone.answers[0], num_pairs)


def reading_of(texts: list[str], call: Callable[[str], Any], guess: TokenGuess) -> Task:
    """What is made of texts by a call each, where others' are read."""
    source = Reading(call, guess, [])
    return Task(list(texts), source, lambda *_: source.found, 0)
