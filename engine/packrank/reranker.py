"""The front door: a query and its documents in, a ranking out."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from packrank.arguments import (
    check_choice,
    check_count,
    check_str,
    check_text,
    listed,
    listed_texts,
)
from packrank.config import Activation, load_config
from packrank.cross_encoder import read_settings
from packrank.device import choose_devices
from packrank.errors import InputError, PairError
from packrank.fleet import Fleet, Recipe
from packrank.hub import resolve
from packrank.late_folder import encoder_folder
from packrank.models import load_model
from packrank.pairs import PairReader, Window
from packrank.request import Ranked
from packrank.runner import Pending, Runner
from packrank.tokenizer import Tokenizer, Truncation


class Reranker:
    """A cross-encoder: it reads a query and a document together and says how relevant one is.

    Threads may share one. A score does not depend on what else is scored with it. A prompt that
    sentence-transformers saved as the default is put before every query.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str | list[str] | tuple[str, ...] = "auto",
        dtype: str = "auto",
        max_length: int | None = None,
        truncation: Truncation = "longest_first",
        activation: Activation | None = None,
        budget_tokens: int | None = None,
        deterministic: bool = False,
    ) -> None:
        """Load a model.

        Args:
            model: a folder with config.json, safetensors and a tokenizer, or a hub name.
            device: "auto", "cpu", "cuda" or "cuda:N"; or several, such as ["cuda:0", "cuda:1"], to
                share the work out among a process for each (the program's own work must then stand
                under `if __name__ == "__main__":`).
            dtype: of the encoder: "float32", "bfloat16" or, on a CUDA device, "float16"; "auto" is
                float32 on a CPU, and on a CUDA device float16 where the model stays in its range,
                else bfloat16. The scoring head always runs in float32.
            max_length: most tokens of a pair, special ones included; if None, what the model and
                its tokenizer allow.
            truncation: what is cut off a longer pair: tokens of the longer text first, of the
                document ("only_second"), or nothing ("off": the pair fails).
            activation: what turns logits into scores: "identity" or "sigmoid"; if None, what the
                model's files say, which is sigmoid for one label where they say nothing.
            budget_tokens: most tokens that go through the model at once; memory follows it.
            deterministic: a score has the same bits in any company. On a CPU it always has; on a
                CUDA device this leaves out faster kernels that cannot promise it.

        Raises:
            ModelError: the folder or name cannot be used.
            InputError: an option cannot.
        """
        devices, chosen_dtype = choose_devices(device, dtype)
        check_choice("truncation", truncation, get_args(Truncation))
        _check_activation(activation)
        for name, count in (("max_length", max_length), ("budget_tokens", budget_tokens)):
            check_count(name, count)
        folder = resolve(model)
        encoder = encoder_folder(folder)
        tokenizer = Tokenizer.from_folder(encoder)
        self._runner: Runner | Fleet
        if len(devices) == 1:
            loaded = load_model(
                encoder, device=devices[0], dtype=chosen_dtype, deterministic=deterministic
            )
            self._runner = Runner(loaded, budget_tokens)
            self._config = loaded.config
        else:
            recipe = Recipe(encoder, chosen_dtype, deterministic, budget_tokens)
            self._runner = Fleet(recipe, devices)
            self._config = load_config(encoder)
        config = self._config
        settings = read_settings(folder, config, tokenizer)
        self._reader = PairReader(
            tokenizer,
            config.vocab_size,
            _usable_length(max_length, config.max_length, settings.max_length, tokenizer),
            truncation,
            settings.prompt,
        )
        self._activation = activation or settings.activation
        self._num_tokens = 0
        self._counting = threading.Lock()

    @property
    def max_length(self) -> int:
        """Most tokens of a pair, special ones included."""
        return self._reader.max_length

    @property
    def num_labels(self) -> int:
        """Scores of a pair; a ranking needs one."""
        return self._config.num_labels

    def warm_up(self, max_seqlens: Sequence[int] = (48, 64, 96, 128, 192, 256, 384, 512)) -> None:
        """Compile and capture ahead what full packs need, so that no first request waits for it.

        On a CPU there is nothing to do.

        Args:
            max_seqlens: lengths of pairs, in tokens, that packs will be full of; one that is longer
                than the model takes counts as the longest.

        Raises:
            InputError: `max_seqlens` is no sequence of numbers from 1.
        """
        lengths = listed("max_seqlens", max_seqlens, "lengths in tokens")
        for place, length in enumerate(lengths):
            if length is None:
                raise InputError(f"max_seqlens[{place}] is None, expected a number of tokens")
            check_count(f"max_seqlens[{place}]", length)
        longest = self._config.max_length
        self._runner.warm_up(sorted({min(length, longest) for length in lengths}))

    @property
    def num_tokens(self) -> int:
        """Tokens that have gone through the model so far, special ones included."""
        return self._num_tokens

    def rank(self, query: str, documents: Sequence[str], top_k: int | None = None) -> list[Ranked]:
        """Order documents by relevance to a query, best first.

        The order is that of the logits, so that it is kept where an activation rounds two of them
        to one score; of equal logits the lower index comes first.

        Args:
            query: any text.
            documents: N texts.
            top_k: how many to return; all if None.

        Returns:
            Best first. Empty for no documents.

        Raises:
            InputError: an argument of the wrong kind, or a model of several labels.
            PairError: a document cannot be scored; `.index` says which. `try_rank` goes on.
        """
        ranking, failures = self.try_rank(query, documents, top_k)
        for index, reason in failures.items():
            raise PairError(index, reason)
        return ranking

    def try_rank(
        self, query: str, documents: Sequence[str], top_k: int | None = None
    ) -> tuple[list[Ranked], dict[int, str]]:
        """Order documents as `rank` does, and say of those that cannot be scored why.

        Args:
            query: any text.
            documents: N texts.
            top_k: how many to return; all if None.

        Returns:
            The others, best first; and index -> reason of those that failed.

        Raises:
            InputError: an argument of the wrong kind, or a model of several labels.
        """
        if self.num_labels != 1:
            raise InputError(
                f"the model has {self.num_labels} labels and a ranking needs 1; use score()"
            )
        check_count("top_k", top_k)
        check_str("query", query)
        check_text(query, "query")
        texts = listed_texts("documents", documents)
        failures: dict[int, str] = {}
        logits = self._logits([(query, text) for text in texts], failures.__setitem__)[:, 0]
        scores = _activate(logits, self._activation).tolist()
        # NaN, of those that failed, comes last.
        order = np.argsort(-logits, kind="stable")[: len(texts) - len(failures)]
        ranking = [Ranked(index, scores[index], texts[index]) for index in order[:top_k].tolist()]
        return ranking, dict(sorted(failures.items()))

    def score(
        self, pairs: Sequence[tuple[str, str]], *, activation: Activation | None = None
    ) -> NDArray[np.float32]:
        """Score pairs of query and document.

        Args:
            pairs: N (query, document) pairs.
            activation: instead of the model's, for this call.

        Returns:
            [N] float32, in the order of `pairs`; [N, labels] if the model has several labels.

        Raises:
            PairError: a pair cannot be scored; `.index` says which. `try_score` goes on.
            InputError: an argument of the wrong kind.
        """
        return self._score(pairs, activation, _raise)

    def try_score(
        self, pairs: Sequence[tuple[str, str]], *, activation: Activation | None = None
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Score pairs, and say of those that cannot be scored why.

        Args:
            pairs: N (query, document) pairs.
            activation: instead of the model's, for this call.

        Returns:
            The scores, as from `score`, NaN for pairs that failed; and index -> reason of those.

        Raises:
            InputError: an argument of the wrong kind.
        """
        failures: dict[int, str] = {}
        scores = self._score(pairs, activation, failures.__setitem__)
        return scores, dict(sorted(failures.items()))

    def _score(
        self, pairs: Any, activation: Activation | None, on_failure: Callable[[int, str], None]
    ) -> NDArray[np.float32]:
        _check_activation(activation)
        every = listed("pairs", pairs, "(query, document) pairs")
        scores = _activate(self._logits(every, on_failure), activation or self._activation)
        return scores[:, 0] if self.num_labels == 1 else scores

    def _logits(
        self, pairs: list[Any], on_failure: Callable[[int, str], None]
    ) -> NDArray[np.float32]:
        """[N, labels] float32, NaN for pairs that failed."""
        out = np.full((len(pairs), self.num_labels), np.nan, dtype=np.float32)

        def finish(window: Window, pending: Pending) -> None:
            logits = pending.result()
            finite = np.isfinite(logits).all(1)
            indices = np.array(window.indices, dtype=np.int64)
            out[indices[finite]] = logits[finite]
            for place in np.flatnonzero(~finite).tolist():
                unfinite = "the model's logits for it are not finite numbers"
                on_failure(window.indices[place], pending.failures.get(place, unfinite))

        # A device still works on one window while the packs of the next are made.
        running: tuple[Window, Pending] | None = None
        with closing(self._reader.windows(pairs)) as windows:
            for window in windows:
                for index, reason in window.failures.items():
                    on_failure(index, reason)
                started = window, self._runner.submit(window.sequences)
                with self._counting:
                    self._num_tokens += len(window.sequences.token_ids)
                if running is not None:
                    finish(*running)
                running = started
            if running is not None:
                finish(*running)
        return out


def _usable_length(asked: int | None, positions: int, usual: int, tokenizer: Tokenizer) -> int:
    if asked is not None and asked > positions:
        raise InputError(f"max_length is {asked}, but the model has {positions} positions")
    length = asked or usual
    special = tokenizer.num_special_tokens(pair=True)
    if length <= special:
        raise InputError(
            f"max_length is {length}, but a pair has {special} special tokens; pass more"
        )
    return length


def _activate(logits: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    if activation == "identity":
        return logits
    # 1 / (1 + exp(-x)), with no exponential of a positive number that could overflow.
    x = logits.astype(np.float64)
    small = np.exp(-np.abs(x))
    return (np.where(x < 0, small, 1.0) / (1.0 + small)).astype(np.float32)


def _raise(index: int, reason: str) -> None:
    raise PairError(index, reason)


def _check_activation(activation: Activation | None) -> None:
    if activation is not None:
        check_choice("activation", activation, get_args(Activation))
