"""The front door: a query and its documents in, a ranking out."""

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from packrank.arguments import (
    Reopened,
    check_choice,
    check_str,
    check_text,
    checked_count,
    listed,
    listed_requests,
)
from packrank.checkpoint.config import Activation
from packrank.checkpoint.fingerprint import fingerprint
from packrank.checkpoint.hub import resolve
from packrank.errors import InputError, PairError
from packrank.exits.stages import Exit, Stages
from packrank.request import Ranked, Ranking
from packrank.runtime.device import choose_devices
from packrank.runtime.fleet import Recipe, run_on
from packrank.runtime.runner import Runner
from packrank.scoring.activations import best_first, known_activation
from packrank.scoring.assembly import HeadIndex, Options, assemble
from packrank.scoring.pair_scorer import PairScorer
from packrank.text.pairs import is_pair
from packrank.text.truncation import Truncation

Requests = Sequence[tuple[str, Sequence[str]]]


class Reranker(Reopened):
    """It reads a query and a document together and says how relevant one is.

    Cross-encoders, and decoders that were trained to judge. Threads may share one. A score does
    not depend on what else is scored with it. A prompt that sentence-transformers saved as the
    default is put before every query; a decoder's template around query and document. Pickled or
    copied, it is opened again, from the same folder by the same options.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str | list[str] | tuple[str, ...] = "auto",
        dtype: str = "auto",
        max_length: int | None = None,
        truncation: Truncation | None = None,
        activation: Activation | None = None,
        template: str | None = None,
        instruction: str | None = None,
        compress_ratio: int = 1,
        compress_layers: Sequence[int] = (8,),
        head_index: HeadIndex = "upstream",
        share_prefixes: bool = True,
        budget_tokens: int | None = None,
        deterministic: bool = False,
    ) -> None:
        """Load a model.

        Args:
            model: a folder with config.json, safetensors and a tokenizer, or a hub name.
            device: "auto", "cpu", "cuda" or "cuda:N"; or several, such as ["cuda:0", "cuda:1"], to
                share the work out among a process for each (the program's own work must then stand
                under `if __name__ == "__main__":`).
            dtype: of the model: "float32", "bfloat16" or, on a CUDA device, "float16"; "auto" is
                float32 on a CPU, and on a CUDA device float16 where the model stays in its range,
                else bfloat16. The scoring head always runs in float32.
            max_length: most tokens of a pair, special ones included; under a template, as the
                template counts them. If None, what the model, its tokenizer and the template say.
            truncation: what is cut off a longer pair: tokens of the longer text first, of the
                document ("only_second"), or nothing ("off": the pair fails); if None, as the files
                say, which is the first where they do not. A template cuts as its authors do.
            activation: of logits: "identity", "sigmoid", "tanh", "relu", "softplus", "logsigmoid",
                "softmax" over the labels, or "normalized", the sigmoid about the authors' estimate
                of the middle; if None, as files or template say, else the sigmoid of one label.
            template: of a decoder's input, a name in `packrank.TEMPLATES`, or "pair" for query and
                document as the tokenizer joins them; if None, what the model is recognised by.
            instruction: in place of the template's own.
            compress_ratio: bge-reranker-v2.5-gemma2-lightweight: so many document tokens become
                one; 1, 2, 4 or 8.
            compress_layers: before which layers, counted from 0.
            head_index: bge-reranker-v2.5-gemma2-lightweight: whether the i-th layer that is asked
                for has the i-th head, as its authors' code does it, or each "layer" its own.
            share_prefixes: compute what the pairs of a query begin with once. Decoders only, and
                exact; False is there to measure what it saves.
            budget_tokens: most tokens that go through the model at once; memory follows it.
            deterministic: a score has the same bits in any company. On a CPU it always has; on a
                CUDA device this leaves out faster kernels that cannot promise it.

        Raises:
            ModelError: the folder or name cannot be used.
            InputError: an option cannot.
        """
        devices, chosen_dtype = choose_devices(device, dtype)
        _check_named("truncation", truncation, get_args(Truncation))
        check_choice("head_index", head_index, get_args(HeadIndex))
        _check_named("activation", activation, get_args(Activation))
        max_length = checked_count("max_length", max_length)
        budget_tokens = checked_count("budget_tokens", budget_tokens)
        self._folder = resolve(model)
        self._name = os.fspath(model)
        options = Options(
            max_length=max_length,
            truncation=truncation,
            template=template,
            instruction=instruction,
            compress_ratio=compress_ratio,
            compress_layers=tuple(listed("compress_layers", compress_layers, "layers")),
            head_index=head_index,
            share_prefixes=share_prefixes,
        )
        assembly = assemble(self._folder, self._name, options)
        self._activation = activation or known_activation(assembly.activation)
        self._assembly, self._config = assembly, assembly.config
        head = assembly.causal, assembly.modules
        recipe = Recipe(assembly.folder, chosen_dtype, deterministic, budget_tokens, *head)
        self._runner = run_on(devices, recipe)
        self._scorer = PairScorer(assembly, self._runner)

    @property
    def max_length(self) -> int:
        """Most tokens of a pair, special ones included; under a template, as that counts them."""
        return self._assembly.layout.max_length

    @property
    def num_labels(self) -> int:
        """Scores of a pair; a ranking goes by one."""
        return self._config.num_labels

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the scores of a pair, in their order."""
        return self._assembly.labels

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """After how many layers there is a head, ascending."""
        return self._assembly.exit_layers

    @property
    def exit_settings(self) -> dict[str, Any]:
        """What changes logits beside the model's files, for margins to be measured with.

        Raises:
            InputError: candidates of this model cannot stop early as it is used.
        """
        self._assembly.check_exits()
        return self._assembly.exit_settings

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
            checked_count(f"max_seqlens[{place}]", length)
        longest = self._config.max_length
        self._runner.warm_up(sorted({min(length, longest) for length in lengths}))

    @property
    def num_tokens(self) -> int:
        """Tokens of all pairs scored so far, special ones included."""
        return self._scorer.num_tokens

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        *,
        label: int | str | None = None,
        cutoff_layer: int | None = None,
        exit: Exit | None = None,
    ) -> Ranking:
        """Order documents by relevance to a query, best first.

        The order is that of the logits (under a softmax, of the odds), so that it is kept where an
        activation rounds two of them to one score; of equal ones the lower index comes first.

        Args:
            query: any text.
            documents: N texts.
            top_k: how many to return; all if None.
            label: whose score counts, by its name or its place in `labels`; None: the only one.
            cutoff_layer: layers to run, one of `exit_layers`; all if None.
            exit: let candidates stop at the layer from which on they cannot reach the top k:
                "calibrated", by the margins that `packrank calibrate` left in the model's folder;
                or a file of them, or the margins. The best k then are those of all layers with the
                recall that was measured. None: every candidate runs all layers.

        Returns:
            Best first. Empty for no documents.

        Raises:
            InputError: an argument of the wrong kind, a model of several labels none of which is
                named, or margins that were measured for something else.
            PairError: a document cannot be scored; `.index` says which. `try_rank` goes on.
        """
        ranking, failures = self.try_rank(
            query, documents, top_k, label=label, cutoff_layer=cutoff_layer, exit=exit
        )
        for index, reason in failures.items():
            raise PairError(index, reason, "try_rank")
        return ranking

    def try_rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        *,
        label: int | str | None = None,
        cutoff_layer: int | None = None,
        exit: Exit | None = None,
    ) -> tuple[Ranking, dict[int, str]]:
        """Order documents as `rank` does, and say of those that cannot be scored why.

        Args and errors: see `rank`; of a document that cannot be scored none is raised.

        Returns:
            The others, best first; and index -> reason of those that failed.
        """
        check_str("query", query)
        check_text(query, "query")
        requests = [(query, listed("documents", documents, "strings"))]
        return self._rank(requests, top_k, label, cutoff_layer, exit)[0]

    def rank_many(
        self,
        requests: Requests,
        top_k: int | None = None,
        *,
        label: int | str | None = None,
        cutoff_layer: int | None = None,
        exit: Exit | None = None,
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
            requests, top_k, label=label, cutoff_layer=cutoff_layer, exit=exit
        )
        before = 0
        for ranking, failures in found:
            for index, reason in failures.items():
                raise PairError(before + index, reason, "try_rank_many")
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
    ) -> list[tuple[Ranking, dict[int, str]]]:
        """`try_rank` of each of several requests, in common packs.

        Args and errors: see `rank_many`.

        Returns:
            What `try_rank` does, one a request, in their order.
        """
        return self._rank(listed_requests(requests), top_k, label, cutoff_layer, exit)

    def score(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        activation: Activation | None = None,
        cutoff_layers: int | Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """Score pairs of query and document.

        Args:
            pairs: N (query, document) pairs, or an array [N, 2] of strings; or one pair.
            activation: instead of the model's, for this call.
            cutoff_layers: a layerwise model's: after how many layers to score, one of
                `exit_layers`, or several in any order; all layers if None.

        Returns:
            [N] float32, in the order of `pairs`; [N, labels] if the model has several labels;
            [N, C] of several cutoff layers, in the order they are asked for. Of one pair its row.

        Raises:
            PairError: a pair cannot be scored; `.index` says which. `try_score` goes on.
            InputError: an argument of the wrong kind.
        """
        return self._score(pairs, activation, cutoff_layers, _raise)

    def try_score(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        activation: Activation | None = None,
        cutoff_layers: int | Sequence[int] | None = None,
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Score pairs, and say of those that cannot be scored why.

        Args and errors: see `score`; of a pair that cannot be scored none is raised.

        Returns:
            The scores, as from `score`, NaN for pairs that failed; and index -> reason of those.
        """
        failures: dict[int, str] = {}
        scores = self._score(pairs, activation, cutoff_layers, failures.__setitem__)
        return scores, dict(sorted(failures.items()))

    def _score(
        self,
        pairs: Any,
        activation: Activation | None,
        cutoff_layers: int | Sequence[int] | None,
        on_failure: Callable[[int, str], None],
    ) -> NDArray[np.float32]:
        _check_named("activation", activation, get_args(Activation))
        is_one = is_pair(pairs)
        every = [pairs] if is_one else listed("pairs", pairs, "(query, document) pairs")
        layers, columns = self._assembly.cutoffs(cutoff_layers)
        logits = self._scorer.logits(every, layers, on_failure)
        scores = self._scorer.scores(logits, activation or self._activation)
        if columns is not None:
            scores = scores[:, columns]
        elif self.num_labels == 1:
            scores = scores[:, 0]
        return scores[0] if is_one else scores

    def _rank(
        self,
        requests: list[tuple[str, list[str]]],
        top_k: int | None,
        label: int | str | None,
        cutoff_layer: int | None,
        exit: Exit | None,
    ) -> list[tuple[Ranking, dict[int, str]]]:
        column = self._assembly.label(label)
        top_k = checked_count("top_k", top_k)
        asked = self.exit_layers[-1] if cutoff_layer is None else cutoff_layer
        final = self._assembly.check_layer("cutoff_layer", asked)
        stages = self._stages(top_k, final, exit)
        outcomes, work = self._scorer.outcomes(requests, stages)
        rankings = []
        for (_, texts), outcome in zip(requests, outcomes, strict=True):
            best = best_first(outcome.logits, column, self._activation, self._assembly.shift)
            ranked = [Ranked(index, score, texts[index]) for index, score in best[:top_k]]
            failures = dict(sorted(outcome.failures.items()))
            rankings.append((Ranking(ranked, outcome.num_layers, work), failures))
        return rankings

    def _stages(self, top_k: int | None, final_layer: int, exit: Exit | None) -> Stages:
        if exit is None:
            return Stages((final_layer,))
        if top_k is None:
            raise InputError("exit needs top_k: how many candidates are wanted in the end")
        self._assembly.check_exits()
        if not isinstance(self._runner, Runner):
            raise InputError("exit takes one device; several share out packs, not queries")
        return Stages.measured(
            exit, self._folder, self._fingerprint, top_k, final_layer, self.exit_settings
        )

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self._folder)


def _raise(index: int, reason: str) -> None:
    raise PairError(index, reason, "try_score")


def _check_named(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value is not None:
        check_choice(name, value, choices)
