"""Late interaction: a vector for every token, and MaxSim between query and documents."""

import os
from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from packrank.arguments import check_str, checked_count, checked_exact, listed
from packrank.checkpoint.hub import HubOptions
from packrank.documents import Document
from packrank.errors import InputError, raise_first
from packrank.late.attached import Attached
from packrank.late.encoder import LateEncoder, Path
from packrank.late.explanation import Explanation
from packrank.late.text_scores import rank_alike, rank_requests, score_of, score_texts, similarity
from packrank.late.token_vectors import TokenVectors
from packrank.request import Ranked, RankedId
from packrank.runtime.device import Device
from packrank.stores.store import Store
from packrank.text.pairs import is_pair
from packrank.threads import in_thread
from packrank_kernels import TokenEmbeddings, matches

Requests = Sequence[tuple[str, Sequence[Document]]]


class LateInteraction(LateEncoder):
    """A late-interaction reranker: ColBERT and its kin, or any encoder.

    score(q, d) = sum over query tokens i of  max over document tokens j of  q_i . d_j

    A folder of Stanford ColBERT, PyLate or sentence-transformers (MultiVectorEncoder) is run as it
    asks: markers, query expansion, tokens that are not scored, projection. Of any other encoder
    every token is scored by its last hidden state, at length 1. Texts are cut to the lengths in
    `settings`.

    Safe to share between threads. On a CPU a text's vectors have the same bits whatever company it
    is in; on a CUDA device they have if `deterministic`.

    Attributes:
        settings: what the folder asks for.
        size: D of a token vector.
        device: where it runs.
        num_cut_queries, num_cut_documents: how many texts so far, by whatever method, were longer
            than the model reads them, and cut. `explain` says of one by how much.

    Source: Khattab and Zaharia 2020.
    """

    def __init__(
        self,
        model: Path,
        *,
        store: Path | Store | None = None,
        device: Device = "auto",
        dtype: str | torch.dtype = "auto",
        query_length: int | None = None,
        document_length: int | None = None,
        budget_tokens: int | None = None,
        deterministic: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_folder: Path | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Load a model.

        Args:
            model: a folder, or a name on the Hugging Face hub.
            store: documents that it encoded, for `rank` to rank by their ids: a folder, which is
                checked whole, or an open one. On a CUDA device they are kept there if they fit in
                half of its free memory, else they go there anew for each query.
            device: "auto", "cpu", "cuda" or "cuda:N".
            dtype: of the encoder and the vectors: "float32", "bfloat16" or, on a CUDA device,
                "float16"; "auto" is float32 on a CPU, and on a CUDA device float16 where the model
                stays in its range, else bfloat16. Lengths and scores are computed in float32.
            query_length: tokens of a query, special ones included, in place of what the folder
                asks for; also what queries are filled to where they are filled to one length.
            document_length: the same of a document. A store that was encoded with another one
                does not fit.
            budget_tokens: most tokens that go through the model at once; memory follows it.
            deterministic: vectors have the same bits in any company. On a CPU they always have; on
                a CUDA device this leaves out faster kernels that cannot promise it.
            revision: of a model on the hub; this and the next as `Reranker` takes them.
            token: of the hub.
            cache_folder: of the hub.
            local_files_only: ask no hub.

        Raises:
            ModelError: the folder or name cannot be used.
            StoreError: the store cannot, or another model encoded it.
            InputError: an option cannot.
        """
        super().__init__(
            model,
            device=device,
            dtype=dtype,
            query_length=query_length,
            document_length=document_length,
            budget_tokens=budget_tokens,
            deterministic=deterministic,
            hub=HubOptions(revision, token, cache_folder, local_files_only),
        )
        self._attached: Attached | None = None
        if store is not None:
            self.attach(store)

    @property
    def store(self) -> Store | None:
        """The documents that `rank` knows by their ids."""
        attached = self._attached
        return None if attached is None else attached.store

    def attach(self, store: Path | Store | None) -> None:
        """Take a store, in place of the one that is attached, for `rank` to rank by its ids.

        What other threads have begun ends with the store that it began with. Which store fits is
        decided by what it says of the model that made its vectors. Those of `packrank encode`,
        `encode_documents`, and a `StoreWriter` that was given an `identity`, must be of this very
        model and its document length. One that only names a model is taken, with a warning where
        the name is another; one that says nothing is taken at the caller's word, if its vectors
        have as many dimensions.

        Args:
            store: documents that this model encoded: a folder, which is opened as it is now and
                checked whole, or an open one. None: let go of the one that is attached.

        Raises:
            InputError: it is no path.
            StoreError: it cannot be used, or another model encoded it; what was attached stays.

        Warns:
            UserWarning: the store names its model and says no more of it, and the name is not this
                one's.
        """
        arguments, options = self._call
        if store is None:
            self._attached, self._call = None, (arguments, {**options, "store": None})
            return
        opened = store if isinstance(store, Store) else Store.open(store)
        self.check_store(opened.model, opened.size, opened.path)
        self._attached = Attached(opened, self.device)
        again = store if isinstance(store, Store) else os.path.abspath(store)
        self._call = arguments, {**options, "store": again}

    def similarity(self, query: Tensor, documents: Sequence[Tensor]) -> NDArray[np.float32]:
        """Scores of documents whose vectors are at hand, [N] float32; of one without any -inf.

        Args:
            query: [Q, D] from `encode_queries`.
            documents: N tensors [L, D] from `encode_documents`.
        """
        return similarity(query, documents, self.settings.mean)

    @overload
    def rank(
        self, query: str, documents: Sequence[Document], top_k: int | None = None
    ) -> list[Ranked]: ...

    @overload
    def rank(
        self,
        query: str,
        documents: None = None,
        top_k: int | None = None,
        *,
        candidates: Sequence[str] | None = None,
        exact: bool | int = False,
    ) -> list[RankedId]: ...

    def rank(
        self,
        query: str,
        documents: Sequence[Document] | None = None,
        top_k: int | None = None,
        *,
        candidates: Sequence[str] | None = None,
        exact: bool | int = False,
    ) -> list[Ranked] | list[RankedId]:
        """Documents by their score for a query.

        Args:
            query: any string.
            documents: any texts, or as `Reranker.rank` takes them; None for those of the store.
            top_k: how many to return; all if None.
            candidates: ids of the documents of the store to rank; None for all.
            exact: score documents of the store by the vectors that its format decodes to, in
                float32: True all of them; a number, at least `top_k`, so many of the best by the
                format's own scores. Texts are scored so anyway.

        Returns:
            Best first; equal scores in the order given, or that of the store. Empty for no
            documents. A document without vectors scores -inf.

        Raises:
            InputError: an argument of the wrong kind, a query that cannot be encoded, an id that
                the store does not have, or one of its documents that cannot be scored.
            PairError: a document cannot be scored; `.index` says which. `try_rank` goes on.
        """
        if documents is not None:
            ranking, failures = self.try_rank(
                query, documents, top_k, candidates=candidates, exact=exact
            )
            raise_first(failures, "try_rank")
            return ranking
        attached = self._stored
        stored, failures = self._rank_stored(attached, query, top_k, candidates, exact)
        for index, reason in failures.items():
            raise InputError(f"document {attached.store.ids[index]!r} of the store: {reason}")
        return stored

    @overload
    def try_rank(
        self,
        query: str,
        documents: Sequence[Document],
        top_k: int | None = None,
        *,
        candidates: Sequence[str] | None = None,
        exact: bool | int = False,
    ) -> tuple[list[Ranked], dict[int, str]]: ...

    @overload
    def try_rank(
        self,
        query: str,
        documents: None = None,
        top_k: int | None = None,
        *,
        candidates: Sequence[str] | None = None,
        exact: bool | int = False,
    ) -> tuple[list[RankedId], dict[int, str]]: ...

    def try_rank(
        self,
        query: str,
        documents: Sequence[Document] | None = None,
        top_k: int | None = None,
        *,
        candidates: Sequence[str] | None = None,
        exact: bool | int = False,
    ) -> tuple[list[Ranked] | list[RankedId], dict[int, str]]:
        """Documents by their score for a query, and why the others have none.

        Args and errors: see `rank`; of a document that cannot be scored none is raised.

        Returns:
            The ranking, as from `rank`, of the documents that can be scored; and index -> reason
            of the others, an index being that of `Ranked` or `RankedId`.
        """
        if documents is None:
            return self._rank_stored(self._stored, query, top_k, candidates, exact)
        top_k = checked_count("top_k", top_k)
        exact = checked_exact(exact, top_k)
        check_str("query", query)
        if candidates is not None:
            raise InputError("candidates are ids of documents of the store; leave documents out")
        texts = listed("documents", documents, "strings")
        return next(rank_alike([query], texts, top_k, *self._sides))

    def rank_many(self, requests: Requests, top_k: int | None = None) -> list[list[Ranked]]:
        """Texts by their scores for each of several queries, as `rank` of each.

        Args and errors: see `try_rank_many`; `PairError.index` counts over the documents of all.
        """
        found = rank_requests(requests, checked_count("top_k", top_k), *self._sides, strict=True)
        return [ranking for ranking, _ in found]

    def try_rank_many(
        self, requests: Requests, top_k: int | None = None
    ) -> list[tuple[list[Ranked], dict[int, str]]]:
        """`try_rank` of each of several requests, (query, documents) each.

        Where neighbours have the same object for documents, each of those is encoded once for all.
        """
        return rank_requests(requests, checked_count("top_k", top_k), *self._sides)

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Score pairs of query and document.

        Args:
            pairs: N (query, document) pairs of strings, or an array [N, 2] of them; or one pair.

        Returns:
            [N] float32, in the order of `pairs`, of one pair its score; -inf for a document without
            vectors.

        Raises:
            PairError: a pair cannot be scored; `.index` says which. `try_score` goes on.
            InputError: `pairs` is no sequence.
        """
        scores, failures = self.try_score(pairs)
        raise_first(failures, "try_score")
        return scores

    def try_score(
        self, pairs: Sequence[tuple[str, str]]
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Score pairs, and say of those that cannot be scored why.

        Pairs are taken a few hundred at a time; a text that several of those share is encoded once.

        Args and errors: see `score`. What is wrong with a pair is the reason it failed.

        Returns:
            [N] float32, as from `score`, NaN for pairs that failed; and index -> reason of those.
        """
        if is_pair(pairs):
            scores, failures = score_texts([pairs], *self._sides)
            return scores[0], failures
        return score_texts(listed("pairs", pairs, "(query, document) pairs"), *self._sides)

    def explain(self, query: str, document: str, *, candidate: str | None = None) -> Explanation:
        """Which token of a document each query token matched, and what it adds to the score.

        Args:
            query: any string.
            document: any string.
            candidate: the id that the document has in the store, whose vectors then count; None
                to encode it. Only their number is compared with the text's: another text of as
                many tokens is not noticed.

        Raises:
            InputError: a text cannot be encoded, its score is not a finite number, or the store
                has no such document, or another one by that id.
        """
        check_str("query", query)
        check_str("document", document)
        asked, query_cut = self._queries.tokens(query)
        words, document_cut = self._documents.tokens(document)
        vectors = self._query_vectors(query)
        if candidate is None:
            [found] = self.encode_documents([document])
            documents = TokenEmbeddings.encode([found], str(found.dtype).removeprefix("torch."))
        else:
            check_str("candidate", candidate)
            documents = self._stored.document(candidate)
            had, has = len(documents.values), sum(token.scored for token in words)
            if had != has:
                raise InputError(
                    f"document {candidate!r} of the store has {had} vectors, and this text {has}; "
                    "give the text that was encoded"
                )
        score = score_of(vectors, documents, self.settings.mean).item()
        if not np.isfinite(score) and len(documents.values):
            raise InputError("its score is not a finite number")
        first = torch.zeros(1, dtype=torch.int64, device=documents.device)
        tokens, scores = (x[0] for x in matches(vectors, documents, first))
        mean, cut = self.settings.mean, (query_cut, document_cut)
        return Explanation.of(query, document, asked, words, tokens, scores, score, mean, cut)

    rank_async = in_thread(rank)
    try_rank_async = in_thread(try_rank)
    rank_many_async = in_thread(rank_many)
    try_rank_many_async = in_thread(try_rank_many)
    score_async = in_thread(score)
    try_score_async = in_thread(try_score)

    @property
    def _stored(self) -> Attached:
        attached = self._attached
        if attached is None:
            raise InputError("there is no store; attach one, or give documents")
        return attached

    def _rank_stored(
        self,
        attached: Attached,
        query: str,
        top_k: int | None,
        candidates: Sequence[str] | None,
        exact: bool | int,
    ) -> tuple[list[RankedId], dict[int, str]]:
        top_k = checked_count("top_k", top_k)
        exact = checked_exact(exact, top_k)
        check_str("query", query)
        vectors = self._query_vectors(query)
        return attached.rank(vectors, self.settings.mean, top_k, candidates, exact)

    def _query_vectors(self, query: str) -> Tensor:
        """[Q, D]."""
        vectors, failures = self._queries.encode([query])
        for reason in failures.values():
            raise InputError(reason)
        return vectors[query]

    @property
    def _sides(self) -> tuple[TokenVectors, TokenVectors, bool]:
        return self._queries, self._documents, self.settings.mean
