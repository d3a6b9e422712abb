"""A model that scores pairs, opened: what both its front doors are made of."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from packrank.arguments import (
    Reopened,
    check_choice,
    check_choice_or_none,
    checked_count,
    listed,
)
from packrank.checkpoint.config import Activation
from packrank.checkpoint.hub import HubOptions, resolve
from packrank.documents import Document
from packrank.errors import InputError, PairError
from packrank.runtime.device import Devices, choose_devices
from packrank.runtime.fleet import Recipe, run_on
from packrank.runtime.runner import Runner
from packrank.scoring.activations import check_activation, known_activation
from packrank.scoring.assembly import HeadIndex, Options, assemble
from packrank.scoring.identity import identity
from packrank.scoring.pair_scorer import LogitStream, PairScorer
from packrank.scoring.question import Asked
from packrank.scoring.scorers import Scorers
from packrank.text.pairs import is_pair
from packrank.text.truncation import LongDocuments, SideLimits, Truncation
from packrank.threads import in_thread


class PairModel(Reopened):
    """It reads a query and a document together and says how relevant one is; see `Reranker`."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: Devices = "auto",
        dtype: str | torch.dtype = "auto",
        max_length: int | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        truncation: Truncation | None = None,
        long_documents: LongDocuments = "truncate",
        activation: Activation | None = None,
        template: str | os.PathLike[str] | None = None,
        instruction: str | None = None,
        compress_ratio: int = 1,
        compress_layers: Sequence[int] = (8,),
        head_index: HeadIndex = "upstream",
        share_prefixes: bool = True,
        budget_tokens: int | None = None,
        deterministic: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_folder: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Load a model.

        Args:
            model: a folder with config.json, safetensors and a tokenizer, or a hub name.
            device: "auto", "cpu", "cuda" or "cuda:N"; or several, such as ["cuda:0", "cuda:1"], to
                share the work out among a process for each (the program's own work must then stand
                under `if __name__ == "__main__":`).
            dtype: of the model: "float32", "bfloat16" or, on a CUDA device, "float16"; "auto" is
                float32 on a CPU, and on a CUDA device float16 where the model stays in its range,
                else bfloat16; torch's own dtypes do as well. The scoring head always runs in
                float32.
            max_length: most tokens of a pair, special ones included; under a template, as the
                template counts them. If None, what the model, its tokenizer and the template say.
            query_length: most tokens of a query, with what stands around it in a template; a longer
                one is cut before the pair is. None: what `max_length` and the template leave it.
            document_length: the same of a document.
            truncation: what is cut off a longer pair: tokens of the longer text first, of the
                document ("only_second"), or nothing ("off": the pair fails); if None, as the files
                say, which is the first where they do not. A template cuts as its authors do.
            long_documents: of a document that does not fit beside its query the end is cut off
                ("truncate"); or it is read in overlapping windows ("windows"), of which the
                highest logit counts: see docs/python.md.
            activation: of logits: "identity", "sigmoid", "tanh", "relu", "softplus", "logsigmoid",
                "softmax" over the labels, or "normalized", the sigmoid about the authors' estimate
                of the middle; if None, as files or template say, else the sigmoid of one label.
            template: of a decoder's input: a name in `packrank.TEMPLATES`, a JSON file (see
                docs/templates.md), or "pair" for query and document as the tokenizer joins them;
                if None, what the model is recognised by.
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
            revision: of a model on the hub: a branch, tag or commit; None: the newest.
            token: for private models on the hub; None: the one that is saved.
            cache_folder: where models of the hub are kept; None: its usual place.
            local_files_only: take a model of the hub from there, and ask nobody.

        Raises:
            ModelError: the folder or name cannot be used.
            InputError: an option cannot.
        """
        devices, chosen_dtype = choose_devices(device, dtype)
        check_choice_or_none("truncation", truncation, get_args(Truncation))
        check_choice("long_documents", long_documents, get_args(LongDocuments))
        check_choice("head_index", head_index, get_args(HeadIndex))
        check_choice_or_none("activation", activation, get_args(Activation))
        max_length = checked_count("max_length", max_length)
        budget_tokens = checked_count("budget_tokens", budget_tokens)
        limits = SideLimits(
            checked_count("query_length", query_length),
            checked_count("document_length", document_length),
        )
        hub = HubOptions(revision, token, cache_folder, local_files_only)
        self._folder = resolve(model, hub)
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
            limits=limits,
            long_documents=long_documents,
        )
        assembly = assemble(self._folder, self._name, options)
        num_labels = assembly.config.num_labels
        check_activation(activation, num_labels)
        self._activation = activation or known_activation(assembly.activation, num_labels)
        self._assembly, self._config, self._devices = assembly, assembly.config, devices
        head = assembly.causal, assembly.modules
        recipe = Recipe(assembly.folder, chosen_dtype, deterministic, budget_tokens, *head)
        self._recipe, self._runner = recipe, run_on(devices, recipe)
        self._scorer = PairScorer(assembly, self._runner)
        self._scorers = Scorers(self._scorer)

    @property
    def max_length(self) -> int:
        """Most tokens of a pair, special ones included; under a template, as that counts them."""
        return self._assembly.layout.max_length

    @property
    def long_documents(self) -> LongDocuments:
        """What becomes of a document that does not fit beside its query: see the constructor."""
        return self._assembly.options.long_documents

    @property
    def folder(self) -> Path:
        """Where the model's files are."""
        return self._folder

    @property
    def devices(self) -> list[torch.device]:
        """Where the model runs."""
        return list(self._devices)

    @property
    def activation(self) -> Activation:
        """What turns logits into scores."""
        return self._activation

    @property
    def num_positions(self) -> int:
        """Most tokens that the model takes."""
        return self._config.max_length

    @property
    def identity(self) -> dict[str, Any]:
        """What determines logits: files, options, kind of device, dtype; it reads the weights."""
        runner = self._runner
        dtype = runner.model.dtype if isinstance(runner, Runner) else runner.dtype
        fixed = self._recipe.deterministic
        return identity(self._folder, self._assembly, self._devices, dtype, fixed)

    @property
    def template(self) -> str | None:
        """The name of the template that pairs go into, see `TEMPLATES`; None: into none of them."""
        return self._assembly.template

    @property
    def is_chat(self) -> bool:
        """Whether pairs go into a chat template of the folder's own."""
        return self._assembly.scoring.chat is not None

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
        longest = max(self._config.usual_length, self.max_length)
        self._runner.warm_up(sorted({min(length, longest) for length in lengths}))

    @property
    def num_tokens(self) -> int:
        """Tokens of all pairs scored so far, special ones included."""
        return self._scorer.num_tokens

    def score(
        self,
        pairs: Sequence[tuple[str, Document]],
        *,
        activation: Activation | None = None,
        cutoff_layers: int | Sequence[int] | None = None,
        instruction: str | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        long_documents: LongDocuments | None = None,
    ) -> NDArray[np.float32]:
        """Score pairs of query and document.

        Args:
            pairs: N (query, document) pairs, or an array [N, 2] of strings; or one pair. A document
                is a text, or as `Reranker.rank` takes it.
            activation: instead of the model's, for this call.
            cutoff_layers: a layerwise model's: after how many layers to score, one of
                `exit_layers`, or several in any order; all layers if None.
            instruction: of the template, for this call.
            prompt: the same, or, where the tokenizer lays out pairs, put before every query in
                place of what sentence-transformers saved, for this call.
            max_length: most tokens of a pair, for this call; likewise query_length,
                document_length and long_documents, see the constructor.
            query_length: see there.
            document_length: see there.
            long_documents: see there.

        Returns:
            [N] float32, in the order of `pairs`; [N, labels] if the model has several labels;
            [N, C] of several cutoff layers, in the order they are asked for. Of one pair its row.

        Raises:
            PairError: a pair cannot be scored; `.index` says which. `try_score` goes on.
            InputError: an argument of the wrong kind.
        """
        lengths = (max_length, query_length, document_length, long_documents)
        scorer = self._scorers.asked(*lengths, instruction=instruction, prompt=prompt)
        return self._score(scorer, pairs, activation, cutoff_layers, _raise)

    def try_score(
        self,
        pairs: Sequence[tuple[str, Document]],
        *,
        activation: Activation | None = None,
        cutoff_layers: int | Sequence[int] | None = None,
        instruction: str | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        long_documents: LongDocuments | None = None,
    ) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Score pairs, and say of those that cannot be scored why.

        Args and errors: see `score`; of a pair that cannot be scored none is raised.

        Returns:
            The scores, as from `score`, NaN for pairs that failed; and index -> reason of those.
        """
        failures: dict[int, str] = {}
        lengths = (max_length, query_length, document_length, long_documents)
        scorer = self._scorers.asked(*lengths, instruction=instruction, prompt=prompt)
        scores = self._score(scorer, pairs, activation, cutoff_layers, failures.__setitem__)
        return scores, dict(sorted(failures.items()))

    def score_stream(
        self,
        batches: Iterable[Sequence[tuple[str, Document]]],
        *,
        cutoff_layer: int | None = None,
    ) -> LogitStream:
        """Logits of batches of pairs in bounded memory; `scores` turns them into scores.

        Batches are asked for, and tokenized, in a thread of its own, one ahead.

        Args:
            batches: of pairs as `score` takes them; some thousands of pairs each.
            cutoff_layer: as for `rank`.

        Returns:
            An iterator, to be closed: of each batch in its order the logits, [N, labels] float32,
            NaN for pairs that failed, and index -> reason of those.

        Raises:
            InputError: the model has no head after so many layers.
        """
        layers, _ = self._assembly.cutoffs(cutoff_layer)
        return self._scorer.stream(batches, layers)

    def scores(
        self, logits: NDArray[np.float32], activation: Activation | None = None
    ) -> NDArray[np.float32]:
        """Scores of logits.

        Args:
            logits: [N, labels] float32.
            activation: instead of the model's.

        Returns:
            [N, labels] float32.
        """
        check_activation(activation, self.num_labels)
        return self._scorer.scores(logits, activation or self._activation)

    score_async = in_thread(score)
    try_score_async = in_thread(try_score)

    def _score(
        self,
        scorer: PairScorer,
        pairs: Any,
        activation: Activation | None,
        cutoff_layers: int | Sequence[int] | None,
        on_failure: Callable[[int, str], None],
    ) -> NDArray[np.float32]:
        asked = self._asked(scorer, activation, cutoff_layers)
        is_one = is_pair(pairs)
        every = [pairs] if is_one else listed("pairs", pairs, "(query, document) pairs")
        scores = asked.scores(scorer.logits(every, asked.layers, on_failure))
        return scores[0] if is_one else scores

    def _asked(self, scorer: PairScorer, activation: Activation | None, layers: Any) -> Asked:
        check_activation(activation, self.num_labels)
        layers, columns = self._assembly.cutoffs(layers)
        return Asked(scorer, layers, columns, activation or self._activation)


def _raise(index: int, reason: str) -> None:
    raise PairError(index, reason, "try_score")
