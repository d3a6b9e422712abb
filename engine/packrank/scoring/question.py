"""What is asked of a model, checked: how pairs run, and what becomes of their logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.checkpoint.config import Activation
from packrank.documents import document_of
from packrank.exits.stages import Outcome, Stages
from packrank.request import Ranked, Ranking
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
