"""What front doors have in common that judge several documents of a query at a time."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from packrank.arguments import (
    Reopened,
    check_str,
    check_text,
    checked_count,
    listed,
    listed_requests,
)
from packrank.documents import Document, TokenizedText, document_of
from packrank.errors import InputError, raise_first
from packrank.ordering.unreadable import Unreadable
from packrank.request import Ranked, Ranking
from packrank.threads import in_thread
from packrank.work import Calls


class Ordered(NamedTuple):
    """What became of the documents of a query.

    Attributes:
        best: places among the documents, each with its score, best first.
        calls: what it took.
        failure: why there is no order; None: there is one.
    """

    best: list[tuple[int, float]]
    calls: Calls
    failure: str | None = None


class Way(Protocol):
    """How documents are ordered."""

    def prepared(self, query: str, documents: list[Any]) -> Any:
        """What `ordered` takes of a query and its documents.

        Args:
            query: a valid text.
            documents: at least one, each such that `document_of` reads it, and no tokens.

        Raises:
            Unreadable: the model cannot take some of them.
            InputError: it cannot take the query.
        """

    def ordered(self, prepared: list[Any], top_k: int | None) -> list[Ordered]:
        """The order of the documents of each query, whole or at least its first `top_k`."""
        ...


class JointRanker(Reopened):
    """Orders the documents of a query by answers about several of them.

    A ranking does not depend on other queries that are ranked with it. Threads may share one.
    Pickled or copied, it is opened again, from the same folder by the same options.

    Attributes:
        num_layers: of the model.
    """

    num_layers: int
    _way: Way

    def rank(self, query: str, documents: Sequence[Document], top_k: int | None = None) -> Ranking:
        """Order documents by relevance to a query, best first.

        Args:
            query: any text.
            documents: N of them, as `Reranker.rank` takes them; texts, not tokens. The order that
                they are given in counts: where nothing says otherwise it is kept.
            top_k: how many to return; all if None.

        Returns:
            Best first, with what the model was asked as `calls`.

        Raises:
            InputError: an argument of the wrong kind, or a query that the model cannot take.
            PairError: a document cannot be ranked; `.index` says which. `try_rank` goes on.
        """
        ranking, failures = self.try_rank(query, documents, top_k)
        raise_first(failures, "try_rank")
        return ranking

    def try_rank(
        self, query: str, documents: Sequence[Document], top_k: int | None = None
    ) -> tuple[Ranking, dict[int, str]]:
        """Order documents as `rank` does, and say of those that cannot be ranked why.

        Args and errors: see `rank`; of a document that cannot be ranked none is raised.

        Returns:
            The others, best first; and index -> reason of those that failed.
        """
        check_str("query", query)
        check_text(query, "query")
        requests = [(query, listed("documents", documents, "strings"))]
        [(found, failures)] = self._rank(requests, checked_count("top_k", top_k), {})
        return found, failures

    def rank_many(
        self,
        requests: Sequence[tuple[str, Sequence[Document]]],
        top_k: int | None = None,
    ) -> list[Ranking]:
        """Order the documents of each of several queries, as `rank` does each, in common packs.

        Args and errors: see `rank`. Requests are (query, documents) each; `PairError.index` counts
        over the documents of all. `try_rank_many` goes on.

        Returns:
            One a request, in their order.
        """
        every = listed_requests(requests)
        found = self._rank(every, checked_count("top_k", top_k), {})
        before = 0
        for ranking, failures in found:
            raise_first(failures, "try_rank_many", before)
            before += len(ranking.num_layers)
        return [ranking for ranking, _ in found]

    def try_rank_many(
        self,
        requests: Sequence[tuple[str, Sequence[Document]]],
        top_k: int | None = None,
    ) -> list[tuple[Ranking, dict[int, str]]]:
        """`try_rank` of each of several requests, in common packs.

        Args and errors: see `rank_many`; all documents of a query that cannot be read fail.

        Returns:
            What `try_rank` does, one a request, in their order.
        """
        refused: dict[int, str] = {}
        every = listed_requests(requests, refused)
        return self._rank(every, checked_count("top_k", top_k), refused, goes_on=True)

    rank_async = in_thread(rank)
    try_rank_async = in_thread(try_rank)
    rank_many_async = in_thread(rank_many)
    try_rank_many_async = in_thread(try_rank_many)

    def _rank(
        self,
        requests: list[tuple[str, list[Any]]],
        top_k: int | None,
        refused: dict[int, str],
        *,
        goes_on: bool = False,
    ) -> list[tuple[Ranking, dict[int, str]]]:
        """Rankings and failures; where `goes_on`, documents of a refused query are among these."""
        failures: list[dict[int, str]] = []
        kept: list[list[int]] = []
        prepared: dict[int, Any] = {}
        for number, (query, documents) in enumerate(requests):
            wrong = {}
            if number in refused:
                wrong = dict.fromkeys(range(len(documents)), refused[number])
            else:
                reasons = ((place, _wrong(value)) for place, value in enumerate(documents))
                wrong = {place: reason for place, reason in reasons if reason is not None}
            sound = [place for place in range(len(documents)) if place not in wrong]
            while sound and number not in prepared:
                try:
                    chosen = [documents[place] for place in sound]
                    prepared[number] = self._way.prepared(query, chosen)
                except Unreadable as error:
                    wrong |= {sound[place]: reason for place, reason in error.reasons.items()}
                    sound = [place for place in sound if place not in wrong]
                except InputError as error:
                    if not goes_on:
                        raise
                    wrong |= dict.fromkeys(sound, str(error))
                    sound = []
            failures.append(dict(sorted(wrong.items())))
            kept.append(sound)
        found = dict(zip(prepared, self._way.ordered(list(prepared.values()), top_k), strict=True))
        rankings = []
        for number, (_, documents) in enumerate(requests):
            wrong, sound = failures[number], kept[number]
            best, calls, failure = found.get(number, Ordered([], Calls()))
            if failure is not None:
                wrong = dict(sorted((wrong | dict.fromkeys(sound, failure)).items()))
            layers = np.full(len(documents), self.num_layers, dtype=np.int32)
            layers[list(wrong)] = 0
            places = [(sound[place], score) for place, score in best[:top_k]]
            ranked = [Ranked(at, score, *document_of(documents[at])) for at, score in places]
            rankings.append((Ranking(ranked, layers, None, calls), wrong))
        return rankings


def _wrong(value: Any) -> str | None:
    """Why a document cannot be read, None if it can."""
    try:
        text = document_of(value).text
        if isinstance(text, TokenizedText):
            return "it is tokens, and prompts of several documents are tokenized whole; pass texts"
        check_text(text, "document")
    except InputError as error:
        return str(error)
    return None


def by_place(order: Sequence[int] | None, calls: Calls, failure: str | None) -> Ordered:
    """Documents, best first, whose score is minus their rank, as llm-rankers has it.

    Args:
        order: of them; None: there is none.
        calls: what it took.
        failure: why there is none.
    """
    if order is None:
        return Ordered([], calls, failure)
    best = [(document, -float(rank)) for rank, document in enumerate(order, start=1)]
    return Ordered(best, calls)
