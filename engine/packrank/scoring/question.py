"""What is asked of a model, checked: how pairs run, and what becomes of their logits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.arguments import checked_count
from packrank.checkpoint.config import Activation
from packrank.documents import document_of
from packrank.errors import InputError
from packrank.exits.stages import Exit, Outcome, Stages
from packrank.request import Ranked, Ranking
from packrank.runtime.runner import Runner
from packrank.scoring.activations import best_first
from packrank.scoring.pair_scorer import PairScorer
from packrank.work import Work


@dataclass(frozen=True)
class Question:
    """How rankings are asked for, checked.

    Attributes:
        scorer: of the pairs.
        stages: where candidates may stop.
        label: whose score counts, by its place.
        top_k: how many are returned; None: all.
        lowest: score that counts.
        activation: of logits; likewise shift.
        shift: see `activate`.
    """

    scorer: PairScorer
    stages: Stages
    label: int
    top_k: int | None
    lowest: float
    activation: Activation
    shift: float

    @classmethod
    def of(
        cls,
        scorer: PairScorer,
        activation: Activation,
        margins: "MarginsOf",
        top_k: int | None,
        label: int | str | None,
        cutoff_layer: int | None,
        exit: Exit | None,
        score_threshold: float | None,
    ) -> "Question":
        """What `Reranker.rank` is asked.

        Args:
            scorer: of the pairs.
            activation: of logits.
            margins: whose are looked for.
            top_k: see `Reranker.rank`; likewise the others.
            label: see there.
            cutoff_layer: see there.
            exit: see there.
            score_threshold: see there.

        Raises:
            InputError: one of them cannot be used.
        """
        assembly = scorer.assembly
        column, top_k = assembly.label(label), checked_count("top_k", top_k)
        asked = assembly.exit_layers[-1] if cutoff_layer is None else cutoff_layer
        final = assembly.check_layer("cutoff_layer", asked)
        stages = Stages((final,)) if exit is None else margins.stages(exit, scorer, top_k, final)
        lowest = _threshold(score_threshold)
        return cls(scorer, stages, column, top_k, lowest, activation, assembly.shift)

    def ranking(
        self, documents: Sequence[Any], outcome: Outcome, work: Work | None
    ) -> tuple[Ranking, dict[int, str]]:
        """The ranking of one request, and why some of its documents are not in it."""
        best = best_first(outcome.logits, self.label, self.activation, self.shift)
        enough = [(index, score) for index, score in best if score >= self.lowest][: self.top_k]
        ranked = [Ranked(i, score, *document_of(documents[i])) for i, score in enough]
        failures = dict(sorted(outcome.failures.items()))
        return Ranking(ranked, outcome.num_layers, work), failures


@dataclass(frozen=True)
class MarginsOf:
    """The margins of a model.

    Attributes:
        folder: of the model.
        fingerprint: of that, which takes reading it.
    """

    folder: Path
    fingerprint: Callable[[], str]

    def stages(self, exit: Exit, scorer: PairScorer, top_k: int | None, final_layer: int) -> Stages:
        """Where candidates may stop; the arguments are those of `Stages.measured`.

        Raises:
            InputError: candidates cannot stop early, or there are no margins for this.
        """
        if top_k is None:
            raise InputError("exit needs top_k: how many candidates are wanted in the end")
        scorer.assembly.check_exits()
        if not isinstance(scorer.runner, Runner):
            raise InputError("exit takes one device; several share out packs, not queries")
        settings = scorer.assembly.exit_settings
        return Stages.measured(exit, self.folder, self.fingerprint(), top_k, final_layer, settings)


@dataclass(frozen=True)
class Asked:
    """How scores are asked for, checked.

    Attributes:
        scorer: of the pairs.
        layers: to score after, ascending; None: all.
        columns: where each that was asked for is among them; None: one was.
        activation: of logits.
    """

    scorer: PairScorer
    layers: tuple[int, ...] | None
    columns: list[int] | None
    activation: Activation

    def scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """What `score` returns, of [N, labels or layers] float32."""
        scores = self.scorer.scores(logits, self.activation)
        if self.columns is not None:
            return scores[:, self.columns]
        return scores[:, 0] if self.scorer.assembly.config.num_labels == 1 else scores


def _threshold(score: Any) -> float:
    """The lowest score that counts."""
    if score is None:
        return -math.inf
    if isinstance(score, bool) or not isinstance(score, Real) or math.isnan(score):
        raise InputError(f"score_threshold is {score!r}, expected a number, or None")
    return float(score)
