"""Late interaction: a vector for every token, and MaxSim between query and documents."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from packrank.arguments import check_count, check_str, listed, listed_texts
from packrank.device import choose_device
from packrank.errors import InputError, PairError
from packrank.hub import resolve
from packrank.late_folder import encoder_folder
from packrank.late_formats import read_settings
from packrank.late_settings import Settings
from packrank.models import load_model
from packrank.pairs import texts_of
from packrank.request import Ranked
from packrank.runner import Runner
from packrank.token_vectors import Projection, TokenVectors
from packrank.tokenizer import Tokenizer
from packrank_kernels import TokenEmbeddings, maxsim

# Pairs whose documents' vectors are held at once: 256 * 180 tokens * 128 floats are 24 MB.
_PAIRS_AT_ONCE = 256

_Pair = tuple[int, str, str]  # its place, query, document


class LateInteraction:
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

    Source: Khattab and Zaharia 2020.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: str = "auto",
        budget_tokens: int | None = None,
        deterministic: bool = False,
    ) -> None:
        """Load a model.

        Args:
            model: a folder, or a name on the Hugging Face hub.
            device: "auto", "cpu", "cuda" or "cuda:N".
            dtype: of the encoder and the vectors: "float32", "bfloat16" or, on a CUDA device,
                "float16"; "auto" is float32 on a CPU, and on a CUDA device float16 where the model
                stays in its range, else bfloat16. Lengths and scores are computed in float32.
            budget_tokens: most tokens that go through the model at once; memory follows it.
            deterministic: vectors have the same bits in any company. On a CPU they always have; on
                a CUDA device this leaves out faster kernels that cannot promise it.

        Raises:
            ModelError: the folder or name cannot be used.
            InputError: an option cannot.
        """
        chosen_device, chosen_dtype = choose_device(device, dtype)
        check_count("budget_tokens", budget_tokens)
        folder = resolve(model)
        encoder = encoder_folder(folder)
        tokenizer = Tokenizer.from_folder(encoder)
        loaded = load_model(
            encoder,
            device=chosen_device,
            dtype=chosen_dtype,
            head=False,
            deterministic=deterministic,
        )
        self.settings: Settings = read_settings(
            folder, tokenizer, loaded.hidden_size, loaded.config.max_length
        )
        settings = self.settings
        runner = Runner(loaded, budget_tokens)
        projection = [
            Projection(dense, loaded.device, loaded.dtype, deterministic)
            for dense in settings.projection
        ]
        self._queries = TokenVectors(
            "query",
            tokenizer,
            runner,
            settings.query,
            settings.expansion,
            projection,
            settings.normalize,
        )
        self._documents = TokenVectors(
            "document", tokenizer, runner, settings.document, None, projection, settings.normalize
        )

    @property
    def num_tokens(self) -> int:
        """Tokens that have gone through the model so far, special ones included."""
        return self._queries.num_tokens + self._documents.num_tokens

    def encode_queries(self, texts: Sequence[str]) -> list[Tensor]:
        """One [Q, D] tensor a query, on the model's device and in its dtype; equal texts share one.

        Raises:
            InputError: a text is not a string, or cannot be encoded; the message gives its place.
        """
        every = listed_texts("queries", texts)
        vectors, failures = self._queries.encode(every)
        for index, text in enumerate(every):
            if text in failures:
                raise InputError(f"queries[{index}]: {failures[text]}")
        return [vectors[text] for text in every]

    def encode_documents(self, texts: Sequence[str]) -> list[Tensor]:
        """One [L, D] tensor a document, on the model's device and in its dtype.

        L is 0 where every token is one that is not scored. Equal texts share a tensor; else each
        has memory of its own, so that keeping a few keeps no others alive.

        Raises:
            InputError: a text is not a string.
            PairError: a text cannot be encoded; `.index` says which.
        """
        every = listed_texts("documents", texts)
        vectors, failures = self._documents.encode(every)
        for index, text in enumerate(every):
            if text in failures:
                raise PairError(index, failures[text])
        return [vectors[text] for text in every]

    def similarity(self, query: Tensor, documents: Sequence[Tensor]) -> NDArray[np.float32]:
        """Scores of documents whose vectors are at hand.

        Args:
            query: [Q, D] from `encode_queries`.
            documents: N tensors [L, D] from `encode_documents`.

        Returns:
            [N] float32. A document without vectors scores -inf.
        """
        if not documents:
            return np.empty(0, dtype=np.float32)
        kind = str(query.dtype).removeprefix("torch.")
        found = maxsim(query, TokenEmbeddings.encode(documents, kind))
        assert isinstance(found, Tensor)
        scores: NDArray[np.float32] = found.cpu().numpy()
        if self.settings.mean:
            scores /= len(query)
        return scores

    def rank(self, query: str, documents: Sequence[str], top_k: int | None = None) -> list[Ranked]:
        """Documents by their score for a query.

        Args:
            query: any string.
            documents: any strings.
            top_k: how many to return; all if None.

        Returns:
            Best first; equal scores in the order given. Empty for no documents. A document without
            vectors scores -inf.

        Raises:
            InputError: an argument of the wrong kind, or a query that cannot be encoded.
            PairError: a document cannot be scored; `.index` says which. `try_rank` goes on.
        """
        ranking, failures = self.try_rank(query, documents, top_k)
        _raise_first(failures)
        return ranking

    def try_rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None
    ) -> tuple[list[Ranked], dict[int, str]]:
        """Documents by their score for a query, and why the others have none.

        Args:
            query: any string.
            documents: any strings.
            top_k: how many to return; all if None.

        Returns:
            The ranking, as from `rank`, of the documents that can be scored; and index -> reason
            of the others.

        Raises:
            InputError: an argument of the wrong kind, or a query that cannot be encoded.
        """
        check_count("top_k", top_k)
        check_str("query", query)
        texts = listed_texts("documents", documents)
        queries, broken = self._queries.encode([query])
        if broken:
            raise InputError(broken[query])
        scores = np.full(len(texts), np.nan, dtype=np.float32)
        failures: dict[int, str] = {}
        for run in _runs([(index, query, text) for index, text in enumerate(texts)]):
            self._score_run(run, queries, scores, failures)
        order = np.argsort(-scores, kind="stable").tolist()
        best = [index for index in order if index not in failures][:top_k]
        ranking = [Ranked(index, float(scores[index]), texts[index]) for index in best]
        return ranking, dict(sorted(failures.items()))

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Score pairs of query and document.

        Args:
            pairs: N (query, document) pairs of strings.

        Returns:
            [N] float32, in the order of `pairs`; -inf for a document without vectors.

        Raises:
            PairError: a pair cannot be scored; `.index` says which. `try_score` goes on.
            InputError: `pairs` is no sequence.
        """
        scores, failures = self.try_score(pairs)
        _raise_first(failures)
        return scores

    def try_score(
        self, pairs: Sequence[tuple[str, str]]
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Score pairs, and say of those that cannot be scored why.

        Pairs are taken a few hundred at a time; a text that several of those share is encoded once.

        Args:
            pairs: N (query, document) pairs of strings.

        Returns:
            [N] float32, as from `score`, NaN for pairs that failed; and index -> reason of those.

        Raises:
            InputError: `pairs` is no sequence. What is wrong with a pair is the reason it failed.
        """
        every = listed("pairs", pairs, "(query, document) pairs")
        scores = np.full(len(every), np.nan, dtype=np.float32)
        failures: dict[int, str] = {}
        sound: list[_Pair] = []
        for index, pair in enumerate(every):
            try:
                sound.append((index, *texts_of(pair)))
            except InputError as error:
                failures[index] = str(error)
        for run in _runs(sound):
            queries, broken = self._queries.encode(query for _, query, _ in run)
            failures.update((i, broken[query]) for i, query, _ in run if query in broken)
            known = [pair for pair in run if pair[1] in queries]
            self._score_run(known, queries, scores, failures)
        return scores, dict(sorted(failures.items()))

    def _score_run(
        self,
        run: list[_Pair],
        queries: dict[str, Tensor],
        scores: NDArray[np.float32],
        failures: dict[int, str],
    ) -> None:
        """Fill in the scores, or failures, of a run of pairs whose queries are encoded."""
        documents, broken = self._documents.encode(document for _, _, document in run)
        by_query: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
        for index, query, document in run:
            if document in broken:
                failures[index] = broken[document]
            else:
                by_query[query].append((index, documents[document]))
        for query, found in by_query.items():
            values = self.similarity(queries[query], [vectors for _, vectors in found])
            for (index, vectors), value in zip(found, values, strict=True):
                if np.isfinite(value) or not len(vectors):
                    scores[index] = value
                else:
                    failures[index] = "its score is not a finite number"


def _runs(pairs: list[_Pair]) -> Iterator[list[_Pair]]:
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        yield pairs[start : start + _PAIRS_AT_ONCE]


def _raise_first(failures: dict[int, str]) -> None:
    for index, reason in failures.items():
        raise PairError(index, reason)
