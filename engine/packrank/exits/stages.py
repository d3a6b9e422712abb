"""Requests through the stages of a model: texts in, what became of each candidate out."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from packrank.errors import InputError
from packrank.exits.cascade import Cascade, Settled
from packrank.exits.margins import FILE, Margins, find
from packrank.exits.rule import kept
from packrank.models.staged import StagedModel
from packrank.request import Int32, keep_best
from packrank.runtime.graphs import Graphs
from packrank.runtime.runner import check_sequences
from packrank.text.pairs import PairReader, Window
from packrank.work import Work

Requests = Sequence[tuple[str, Sequence[str]]]
Exit = Literal["calibrated"] | str | os.PathLike[str] | Margins


@dataclass(frozen=True)
class Stages:
    """Where candidates may stop.

    Attributes:
        stops: numbers of layers, ascending; scores count after the last.
        top_k: how many candidates are wanted.
        margins: for each stop but the last.
        most_candidates: of a request, that margins hold for; None: any.
    """

    stops: tuple[int, ...]
    top_k: int = 1
    margins: tuple[float, ...] = ()
    most_candidates: int | None = None

    @classmethod
    def measured(
        cls,
        exit: Exit,
        folder: Path,
        fingerprint: str,
        top_k: int,
        final_layer: int,
        settings: Mapping[str, Any],
    ) -> "Stages":
        """The stages that margins were measured for.

        Args:
            exit: the margins, or a file of them, or "calibrated": the one in `folder`.
            folder: of the model.
            fingerprint: see `margins.Margins`; likewise top_k, final_layer and settings.
            top_k: how many candidates are wanted.
            final_layer: after which scores count.
            settings: what else changes scores.

        Raises:
            InputError: there are none, or they were measured for something else.
        """
        if exit in ("calibrate", "calibration"):
            raise InputError(f"exit is {exit!r}; did you mean 'calibrated'?")
        if isinstance(exit, Margins):
            found = exit
            found.check(
                fingerprint=fingerprint, top_k=top_k, final_layer=final_layer, settings=settings
            )
        elif isinstance(exit, str | os.PathLike):
            if exit == "calibrated" and not (folder / FILE).exists():
                raise InputError(
                    f"there are no margins in {folder}; measure them with packrank calibrate, or "
                    "pass the file that it wrote elsewhere (exit=FILE, --exit FILE)"
                )
            found = find(
                folder / FILE if exit == "calibrated" else Path(exit),
                fingerprint=fingerprint,
                top_k=top_k,
                final_layer=final_layer,
                settings=settings,
            )
        else:
            kind = type(exit).__name__
            raise InputError(f"exit is a {kind}, expected 'calibrated', a file or Margins")
        stops = (*found.layers, found.final_layer)
        return cls(stops, found.top_k, found.margins, found.most_candidates)

    def check(self, num_candidates: int) -> None:
        """Raise InputError if margins do not hold for a request of so many candidates."""
        if self.most_candidates is not None and num_candidates > self.most_candidates:
            raise InputError(
                f"a query has {num_candidates} documents, and the margins hold for up to "
                f"{self.most_candidates}, twice what they were measured with; run packrank "
                "calibrate with more candidates of each query, or rank without exit"
            )

    def keep(self, stage: int, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which candidates of a query go on after a stage; see `rule.kept`."""
        return kept(logits, self.top_k, self.margins[stage])


@dataclass(frozen=True)
class Outcome:
    """What has become of the n candidates of one request.

    Attributes:
        logits: [n, labels] float32; NaN of those that stopped before the last stage, or failed.
        num_layers: [n] int32, how many each has run; 0 of those that failed.
        failures: index -> reason.
    """

    logits: NDArray[np.float32]
    num_layers: Int32
    failures: dict[int, str]

    @classmethod
    def of(cls, count: int, labels: int = 1) -> "Outcome":
        """Of candidates of which nothing is known yet."""
        return cls(np.full((count, labels), np.nan, np.float32), np.zeros(count, np.int32), {})


class StagedRun:
    """One call: requests whose candidates go through a cascade as they are read.

    Args:
        model: what runs.
        stages: where candidates may stop.
        budget_tokens: most tokens of a pack.
        requests: (query, documents) each.
        graphs: see `Cascade`.

    Raises:
        InputError: the margins do not hold for so many candidates.

    Attributes:
        outcomes: one a request, in their order.
        cascade: what they go through.
    """

    def __init__(
        self,
        model: StagedModel,
        stages: Stages,
        budget_tokens: int,
        requests: Requests,
        graphs: Graphs | None = None,
    ) -> None:
        stages.check(max((len(documents) for _, documents in requests), default=0))
        self._config = model.config
        self.cascade = Cascade(model, stages.stops, stages.keep, budget_tokens, graphs)
        self.outcomes = [Outcome.of(len(documents)) for _, documents in requests]
        self._pairs = [(query, document) for query, texts in requests for document in texts]
        # Of each request: where its pairs end among all, and of which the candidates are, in the
        # order that they entered the cascade.
        self._ends = np.cumsum([len(documents) for _, documents in requests])
        self._entered: list[list[int]] = [[] for _ in requests]
        self._num_closed = 0

    def run(self, reader: PairReader) -> Work:
        """Read, run and settle everything."""
        num_read = 0
        with closing(reader.windows(self._pairs)) as windows:
            for window in windows:
                self._enter(window)
                num_read += window.num_pairs
                self._close(num_read)
                self._settle(self.cascade.run(to_the_end=False))
        self._close(len(self._pairs))
        self._settle(self.cascade.run(to_the_end=True))
        return self.cascade.work

    def _enter(self, window: Window) -> None:
        check_sequences(window.sequences, self._config)
        for index, reason in window.failures.items():
            request, place = self._place(index)
            self.outcomes[request].failures[place] = reason
        indices = np.array(window.indices, dtype=np.int64)
        owners = np.searchsorted(self._ends, indices, side="right")
        for request in np.unique(owners).tolist():
            mine = np.flatnonzero(owners == request)
            start = int(self._ends[request - 1]) if request else 0
            places = (indices[mine] - start).tolist()
            self.cascade.add(request, window.sequences.take(mine), places)
            self._entered[request] += places

    def _place(self, index: int) -> tuple[int, int]:
        """The request of a pair, and where its document stands there."""
        request = int(np.searchsorted(self._ends, index, side="right"))
        return request, index - (int(self._ends[request - 1]) if request else 0)

    def _close(self, num_read: int) -> None:
        """Let go on the requests whose pairs have all been read; pairs are read in order."""
        while self._num_closed < len(self._ends) and self._ends[self._num_closed] <= num_read:
            self.cascade.close(self._num_closed)
            self._num_closed += 1

    def _settle(self, settled: Iterable[Settled]) -> None:
        for one in settled:
            outcome = self.outcomes[one.query]
            places = np.array(self._entered[one.query], dtype=np.int64)
            outcome.logits[places] = -np.inf
            keep_best(outcome.logits, places, one.logits[:, None])
            outcome.num_layers[places] = one.num_layers
            for place, reason in one.failures.items():
                outcome.failures.setdefault(int(places[place]), reason)
                outcome.num_layers[places[place]] = 0
