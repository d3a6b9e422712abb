"""The front door: a query and its documents in, a ranking out."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from packrank.arguments import (
    check_str,
    check_text,
    listed,
    listed_requests,
)
from packrank.checkpoint.config import Activation
from packrank.checkpoint.fingerprint import fingerprint
from packrank.documents import Document, Tokenization
from packrank.errors import InputError, raise_first
from packrank.exits.margins import FILE, counts
from packrank.exits.stages import Exit
from packrank.records.shapes import Shape, shape_of
from packrank.request import Ranking
from packrank.runtime.runner import Runner
from packrank.scoring.pair_model import PairModel
from packrank.scoring.pair_scorer import LogitStream, PairScorer
from packrank.scoring.question import Asked, MarginsOf, Question
from packrank.scoring.table_batches import score_tables
from packrank.text.truncation import LongDocuments, Truncation
from packrank.threads import in_thread

Requests = Sequence[tuple[str, Sequence[Document]]]


class Reranker(PairModel):
    """It reads a query and a document together and says how relevant one is.

    Cross-encoders, and decoders that were trained to judge. Threads may share one. A score does
    not depend on what else is scored with it. A prompt that sentence-transformers saved as the
    default is put before every query; a decoder's template around query and document. Pickled or
    copied, it is opened again, from the same folder by the same options.
    """

    def rank(
        self,
        query: str,
        documents: Sequence[Document],
        top_k: int | None = None,
        *,
        label: int | str | None = None,
        cutoff_layer: int | None = None,
        exit: Exit | None = None,
        score_threshold: float | None = None,
        instruction: str | None = None,
        max_length: int | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        long_documents: LongDocuments | None = None,
    ) -> Ranking:
        """Order documents by relevance to a query, best first.

        The order is that of the logits (under a softmax, of the odds), so that it is kept where an
        activation rounds two of them to one score; of equal ones the lower index comes first.

        Args:
            query: any text.
            documents: N texts; or (id, text) each, or mappings of "text" and, if they have them,
                "id" or "_id", "title", which goes before the text, and metadata.
            top_k: how many to return; all if None.
            label: whose score counts, by its name or its place in `labels`; None: the only one.
            cutoff_layer: layers to run, one of `exit_layers`; all if None.
            exit: let candidates stop at the layer from which on they cannot reach the top k:
                "calibrated", by the margins that `packrank calibrate` left in the model's folder;
                or a file of them, or the margins. The best k then are those of all layers with the
                recall that was measured. None: every candidate runs all layers.
            score_threshold: leave out documents that score less.
            instruction: of the template, for this call.
            max_length: most tokens of a pair, for this call; likewise query_length,
                document_length and long_documents, see the constructor.
            query_length: see there.
            document_length: see there.
            long_documents: see there.

        Returns:
            Best first, with the ids and the metadata that documents were given with. Empty for no
            documents.

        Raises:
            InputError: an argument of the wrong kind, a model of several labels none of which is
                named, or margins that were measured for something else.
            PairError: a document cannot be scored; `.index` says which. `try_rank` goes on.
        """
        ranking, failures = self.try_rank(
            query,
            documents,
            top_k,
            label=label,
            cutoff_layer=cutoff_layer,
            exit=exit,
            score_threshold=score_threshold,
            instruction=instruction,
            max_length=max_length,
            query_length=query_length,
            document_length=document_length,
            long_documents=long_documents,
        )
        raise_first(failures, "try_rank")
        return ranking

    def try_rank(
        self,
        query: str,
        documents: Sequence[Document],
        top_k: int | None = None,
        *,
        label: int | str | None = None,
        cutoff_layer: int | None = None,
        exit: Exit | None = None,
        score_threshold: float | None = None,
        instruction: str | None = None,
        max_length: int | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        long_documents: LongDocuments | None = None,
    ) -> tuple[Ranking, dict[int, str]]:
        """Order documents as `rank` does, and say of those that cannot be scored why.

        Args and errors: see `rank`; of a document that cannot be scored none is raised.

        Returns:
            The others, best first; and index -> reason of those that failed.
        """
        check_str("query", query)
        check_text(query, "query")
        requests = [(query, listed("documents", documents, "strings"))]
        lengths = (max_length, query_length, document_length, long_documents)
        scorer = self._scorers.asked(*lengths, instruction=instruction)
        return self._rank(scorer, requests, top_k, label, cutoff_layer, exit, score_threshold)[0]

    def rank_many(
        self,
        requests: Requests,
        top_k: int | None = None,
        *,
        label: int | str | None = None,
        cutoff_layer: int | None = None,
        exit: Exit | None = None,
        score_threshold: float | None = None,
        instruction: str | None = None,
        max_length: int | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        long_documents: LongDocuments | None = None,
    ) -> list[Ranking]:
        """Order the documents of each of several queries, as `rank` does each.

        Queries share packs, so that the room that candidates leave is filled with those of the
        next query.

        Args and errors: see `rank`. Requests are (query, documents) each; the other arguments hold
        for all, and `PairError.index` counts over the documents of all. `try_rank_many` goes on.

        Returns:
            One a request, in their order.
        """
        found = self.try_rank_many(
            listed_requests(requests),
            top_k,
            label=label,
            cutoff_layer=cutoff_layer,
            exit=exit,
            score_threshold=score_threshold,
            instruction=instruction,
            max_length=max_length,
            query_length=query_length,
            document_length=document_length,
            long_documents=long_documents,
        )
        before = 0
        for ranking, failures in found:
            raise_first(failures, "try_rank_many", before)
            before += len(ranking.num_layers)
        return [ranking for ranking, _ in found]

    def try_rank_many(
        self,
        requests: Requests,
        top_k: int | None = None,
        *,
        label: int | str | None = None,
        cutoff_layer: int | None = None,
        exit: Exit | None = None,
        score_threshold: float | None = None,
        instruction: str | None = None,
        max_length: int | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        long_documents: LongDocuments | None = None,
    ) -> list[tuple[Ranking, dict[int, str]]]:
        """`try_rank` of each of several requests, in common packs.

        Args and errors: see `rank_many`; all documents of a query that is no text fail.

        Returns:
            What `try_rank` does, one a request, in their order.
        """
        refused: dict[int, str] = {}
        every = listed_requests(requests, refused)
        lengths = (max_length, query_length, document_length, long_documents)
        scorer = self._scorers.asked(*lengths, instruction=instruction)
        sound = [request for place, request in enumerate(every) if place not in refused]
        found = self._rank(scorer, sound, top_k, label, cutoff_layer, exit, score_threshold)
        for place, reason in refused.items():  # in their order, so that each finds its place
            count = len(every[place][1])
            none = Ranking([], np.zeros(count, dtype=np.int32), None)
            found.insert(place, (none, dict.fromkeys(range(count), reason)))
        return found

    def score_batches(
        self,
        tables: Iterable[Any],
        *,
        query_column: str | None = None,
        document_column: str | None = None,
        score_column: str | None = None,
        activation: Activation | None = None,
        cutoff_layer: int | None = None,
    ) -> Iterator[Any]:
        """Score tables of Arrow, in bounded memory, however many there are.

        Rows are pairs ("query" and "document"), queries with lists ("documents"), or training lines
        ("pos" and "neg"); texts, not ids: see `records.shapes`. One batch is scored while the next
        is read and tokenized, in a thread of its own; pairs that repeat within one are scored once.

        Args:
            tables: pyarrow's tables or record batches, or what exports them (pandas, polars,
                DuckDB); a generator is asked for one at a time, in a thread. Or one table.
            query_column: if it is called otherwise.
            document_column: likewise, of texts or of lists of them.
            score_column: what that of scores is called: "score", of lists "scores".
            activation: of logits, instead of the model's.
            cutoff_layer: layers to run; None: all.

        Yields:
            The tables in their order, in pieces of at most 4096 rows or pairs, with a column of
            scores, null where there is none, and a column "error" that says why.

        Raises:
            InputError: a table lacks a column, or pyarrow is not installed.
        """

        def shape(columns: dict[str, bool]) -> Shape:
            return shape_of(
                columns, query=query_column, document=document_column, scores=score_column
            )

        def stream(batches: Iterable[list[tuple[str, str]]]) -> LogitStream:
            return self.score_stream(batches, cutoff_layer=cutoff_layer)

        return score_tables(stream, lambda found: self.scores(found, activation), tables, shape)

    rank_async = in_thread(rank)
    try_rank_async = in_thread(try_rank)
    rank_many_async = in_thread(rank_many)
    try_rank_many_async = in_thread(try_rank_many)

    @property
    def tokenization(self) -> Tokenization | None:
        """What `TokenStore.check` holds a store to; None: the model takes none."""
        return self._assembly.tokenization(self._name)

    @property
    def shift(self) -> float:
        """What "normalized" takes off a logit before the sigmoid."""
        return self._assembly.shift

    def _rank(
        self,
        scorer: PairScorer,
        requests: list[tuple[str, list[Any]]],
        top_k: int | None,
        label: int | str | None,
        cutoff_layer: int | None,
        exit: Exit | None,
        score_threshold: float | None,
    ) -> list[tuple[Ranking, dict[int, str]]]:
        question = self._question(scorer, top_k, label, cutoff_layer, exit, score_threshold)
        outcomes, work = scorer.outcomes(requests, question.stages)
        return [
            question.ranking(documents, outcome, work)
            for (_, documents), outcome in zip(requests, outcomes, strict=True)
        ]

    def _question(
        self,
        scorer: PairScorer,
        top_k: int | None,
        label: int | str | None,
        cutoff_layer: int | None,
        exit: Exit | None,
        score_threshold: float | None,
    ) -> Question:
        asked = (top_k, label, cutoff_layer, exit, score_threshold)
        margins = MarginsOf(self._folder, lambda: self._fingerprint)
        return Question.of(scorer, self._activation, margins, *asked)

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self._folder)


def question_of(
    model: Reranker,
    top_k: int | None = None,
    *,
    label: int | str | None = None,
    cutoff_layer: int | None = None,
    exit: Exit | None = None,
    score_threshold: float | None = None,
    instruction: str | None = None,
    max_length: int | None = None,
    query_length: int | None = None,
    document_length: int | None = None,
    long_documents: LongDocuments | None = None,
) -> Question:
    """What `Reranker.rank` is asked by these arguments, for who runs pairs by other means."""
    lengths = (max_length, query_length, document_length, long_documents)
    scorer = model._scorers.asked(*lengths, instruction=instruction)
    return model._question(scorer, top_k, label, cutoff_layer, exit, score_threshold)


def asked_of(
    model: Reranker,
    *,
    activation: Activation | None = None,
    cutoff_layers: int | Sequence[int] | None = None,
    instruction: str | None = None,
    prompt: str | None = None,
    max_length: int | None = None,
    query_length: int | None = None,
    document_length: int | None = None,
    long_documents: LongDocuments | None = None,
    truncation: Truncation | None = None,
) -> Asked:
    """What `score` is asked by these arguments, for who runs pairs by other means.

    And whether pairs are cut, which `score` leaves to the model.
    """
    lengths = (max_length, query_length, document_length, long_documents)
    scorer = model._scorers.asked(*lengths, truncation, instruction=instruction, prompt=prompt)
    return model._asked(scorer, activation, cutoff_layers)


def calibrated_counts(model: Reranker) -> list[int]:
    """The `top_k` that `rank` takes with exit="calibrated", ascending; mostly none."""
    path = model._folder / FILE
    if not path.exists() or not isinstance(model._runner, Runner):
        return []
    try:
        return counts(
            path, fingerprint=model._fingerprint, final_layer=model.exit_layers[-1],
            settings=model.exit_settings,
        )  # fmt: skip
    except InputError:
        return []


def scorer_of(model: PairModel) -> PairScorer:
    """What a model scores pairs by, with its reader and its runner: for measurements of those."""
    return model._scorer
