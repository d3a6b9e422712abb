"""Late interaction: a vector for every token, and MaxSim between query and documents."""

import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from packrank import request
from packrank.arguments import check_count, check_str, listed_texts
from packrank.colbert import Dense, Expansion, Settings, Side, encoder_folder, read_settings
from packrank.device import choose_device
from packrank.errors import InputError, PairError
from packrank.hub import resolve
from packrank.models import load_model
from packrank.models.base import Parameters
from packrank.request import Int32, Ranked
from packrank.runner import Runner
from packrank.tokenizer import Tokenizer, check_text
from packrank.weights import Weights
from packrank_kernels import maxsim

# Most tokens of a pack where the caller does not say; as for cross-encoders.
_BUDGET_TOKENS = 4096

# Texts whose hidden states are held at once: they are wider than the vectors they become.
_TEXTS_AT_ONCE = 256


class LateInteraction:
    """A late-interaction reranker: ColBERT and its kin, or any encoder.

    score(q, d) = sum over query tokens i of  max over document tokens j of  q_i . d_j

    A folder of Stanford ColBERT, PyLate or sentence-transformers (MultiVectorEncoder) is run as it
    asks: markers, query expansion, tokens that are not scored, projection. Of any other encoder
    every token is scored by its last hidden state, at length 1. Texts are cut to the lengths in
    `settings`.

    Safe to share between threads. A text's vectors have the same bits whatever company it is in.

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
    ) -> None:
        """Load a model.

        Args:
            model: a folder, or a name on the Hugging Face hub.
            device: "auto", "cpu" or "cuda".
            dtype: of the encoder and the vectors: "auto" (float32 on a CPU), "float32" or
                "bfloat16". Lengths and scores are computed in float32.
            budget_tokens: most tokens that go through the model at once; memory follows it.

        Raises:
            ModelError: the folder or name cannot be used.
            InputError: an option cannot.
        """
        chosen_device, chosen_dtype = choose_device(device, dtype)
        check_count("budget_tokens", budget_tokens)
        folder = resolve(model)
        encoder = encoder_folder(folder)
        self._tokenizer = Tokenizer.from_folder(encoder)
        loaded = load_model(encoder, device=chosen_device, dtype=chosen_dtype, head=False)
        self.settings: Settings = read_settings(
            folder, self._tokenizer, loaded.hidden_size, loaded.config.max_length
        )
        self._runner = Runner(loaded, budget_tokens or _BUDGET_TOKENS)
        self._projection = [
            _Projection(dense, loaded.device, loaded.dtype) for dense in self.settings.projection
        ]
        self._num_tokens = 0
        self._counting = threading.Lock()

    @property
    def num_tokens(self) -> int:
        """Tokens that have gone through the model so far, special ones included."""
        return self._num_tokens

    def encode_queries(self, texts: Sequence[str]) -> list[Tensor]:
        """One [Q, D] tensor a query, on the model's device and in its dtype.

        Raises:
            InputError: a text is not a string, or no valid Unicode.
        """
        every = listed_texts("queries", texts)
        for text in every:
            check_text(text)
        return self._encode(every, self.settings.query, self.settings.expansion)

    def encode_documents(self, texts: Sequence[str]) -> list[Tensor]:
        """One [L, D] tensor a document, on the model's device and in its dtype.

        Raises:
            InputError: a text is not a string.
            PairError: a text is no valid Unicode; `.index` says which.
        """
        every = listed_texts("documents", texts)
        for index, text in enumerate(every):
            try:
                check_text(text)
            except InputError as error:
                raise PairError(index, str(error)) from None
        return self._encode(every, self.settings.document, None)

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
        offsets = [0, *accumulate(len(document) for document in documents)]
        cu_seqlens = torch.tensor(offsets, dtype=torch.int64, device=query.device)
        scores = maxsim(query, torch.cat(list(documents)), cu_seqlens).cpu().numpy()
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
            Best first; equal scores in the order given. Empty for no documents.

        Raises:
            InputError: an argument of the wrong kind.
            PairError: a document cannot be scored; `.index` says which.
        """
        check_count("top_k", top_k)
        check_str("query", query)
        texts = listed_texts("documents", documents)
        scores, failures = self.try_score([(query, text) for text in texts])
        if failures:
            raise PairError(*next(iter(failures.items())))
        best = np.argsort(-scores, kind="stable")[:top_k].tolist()
        return [Ranked(index, float(scores[index]), texts[index]) for index in best]

    def try_score(
        self, pairs: Sequence[tuple[str, str]]
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Score pairs, and say of those that cannot be scored why.

        A query is encoded once for every run of pairs that has it; documents' vectors are held
        a few hundred at a time.

        Args:
            pairs: N (query, document) pairs of strings.

        Returns:
            [N] float32, NaN for pairs that failed; and index -> reason of those.
        """
        scores = np.full(len(pairs), np.nan, dtype=np.float32)
        failures: dict[int, str] = {}
        for start in range(0, len(pairs), _TEXTS_AT_ONCE):
            by_query: dict[str, list[int]] = defaultdict(list)
            for index, pair in enumerate(pairs[start : start + _TEXTS_AT_ONCE], start):
                try:
                    for text in pair:
                        check_text(text)
                except InputError as error:
                    failures[index] = str(error)
                else:
                    by_query[pair[0]].append(index)
            queries = self.encode_queries(list(by_query))
            for query, indices in zip(queries, by_query.values(), strict=True):
                vectors = self.encode_documents([pairs[index][1] for index in indices])
                scores[indices] = self.similarity(query, vectors)
        for index in np.flatnonzero(~np.isfinite(scores)).tolist():
            failures.setdefault(index, "its score is not a finite number")
            scores[index] = np.nan
        return scores, dict(sorted(failures.items()))

    def _encode(self, texts: list[str], side: Side, expansion: Expansion | None) -> list[Tensor]:
        vectors: list[Tensor] = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            part = [side.prompt + text for text in texts[start : start + _TEXTS_AT_ONCE]]
            ids = [self._lay_out(ids, side) for ids in self._tokenizer.encode(part)]
            num_keys = None
            if expansion is not None:
                expanded = [_expand(tokens, expansion) for tokens in ids]
                if not expansion.attend:
                    num_keys = np.array([len(tokens) for tokens in ids], dtype=np.int32)
                ids = expanded
            vectors += self._vectors(ids, num_keys, side.skipped)
        return vectors

    def _lay_out(self, ids: Int32, side: Side) -> Int32:
        """[L] int32: special tokens, marker and as many of a text's tokens as fit."""
        if side.marker is None:
            return self._tokenizer.single(ids, side.max_length, "longest_first").token_ids
        tokens = self._tokenizer.single(ids, side.max_length - 1, "longest_first").token_ids
        return np.insert(tokens, 1, side.marker)

    def _vectors(
        self, ids: list[Int32], num_keys: Int32 | None, skipped: frozenset[int]
    ) -> list[Tensor]:
        sequences = [request.Sequence(tokens, np.zeros_like(tokens)) for tokens in ids]
        states = torch.cat(self._runner.hidden_states(sequences, num_keys))
        lengths = [len(tokens) for tokens in ids]
        with self._counting:
            self._num_tokens += sum(lengths)
        if skipped:
            kept = [~np.isin(tokens, list(skipped)) for tokens in ids]
            states = states[torch.from_numpy(np.concatenate(kept)).to(states.device)]
            lengths = [int(mask.sum()) for mask in kept]
        for layer in self._projection:
            states = layer(states)
        if self.settings.normalize:
            states = normalize(states)
        ends = list(accumulate(lengths))
        return [states[end - length : end] for end, length in zip(ends, lengths, strict=True)]


class _Projection:
    """A `Dense` with its weights."""

    def __init__(self, dense: Dense, device: torch.device, dtype: torch.dtype) -> None:
        parameters = Parameters(Weights.open(dense.folder), "", device, dtype)
        sizes = (dense.in_features, dense.out_features)
        self._linear = parameters.linear(
            "linear", *sizes, bias=dense.bias, activation=dense.activation
        )
        self._adds_input = dense.residual
        self._residual = None
        if dense.residual and dense.in_features != dense.out_features:
            self._residual = parameters.linear("residual", *sizes, bias=False)

    def __call__(self, x: Tensor) -> Tensor:
        """[T, in_features] -> [T, out_features]."""
        y = self._linear(x)
        if not self._adds_input:
            return y
        return y + (x if self._residual is None else self._residual(x))


def normalize(x: Tensor) -> Tensor:
    """Rows of x [T, D] at length 1, rows of zeros as they are; float32 inside, dtype of x out."""
    wide = x.float()
    norms: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return (wide / norms.clamp_min(1e-12)).to(x.dtype)


def _expand(tokens: Int32, expansion: Expansion) -> Int32:
    missing = max(expansion.length - len(tokens), 0)
    return np.append(tokens, np.full(missing, expansion.token_id, dtype=np.int32))
