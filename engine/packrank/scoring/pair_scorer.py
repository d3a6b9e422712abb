"""Pairs of texts to logits: windows read ahead, packs on the devices, failures by name."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.ahead import Ahead
from packrank.checkpoint.config import Activation
from packrank.errors import UNFINITE
from packrank.exits.stages import Outcome, StagedRun, Stages
from packrank.models.staged import StagedModel
from packrank.request import Pack, keep_best
from packrank.runtime.fleet import Fleet
from packrank.runtime.runner import Pending, Runner
from packrank.scoring.activations import activate
from packrank.scoring.assembly import Assembly
from packrank.text.pairs import Window
from packrank.text.windows import tokens_of_windows
from packrank.work import Tally, Work


class PairScorer:
    """A model on its devices, and how texts reach it. Threads may share one.

    Args:
        assembly: how the model is used.
        runner: where it runs.
        tally: that counts the tokens; None for one of its own.

    Attributes:
        assembly: as above; likewise runner.
        reader: of pairs.
    """

    def __init__(
        self, assembly: Assembly, runner: Runner | Fleet, tally: Tally | None = None
    ) -> None:
        self.assembly, self.runner = assembly, runner
        self.reader = assembly.reader
        self._run = tally or Tally()

    def with_options(self, **changes: Any) -> "PairScorer":
        """The same model, which lays pairs out otherwise: see `Assembly.with_options`."""
        return PairScorer(self.assembly.with_options(**changes), self.runner, self._run)

    @property
    def num_tokens(self) -> int:
        """Of all pairs scored so far, special tokens included."""
        return self._run.total

    def expected_tokens(self, query: int, document: int) -> int:
        """About how many tokens the sequences of a pair have, of so many of its texts."""
        assembly, beside = self.assembly, self.reader.fixed_tokens
        most, limits = assembly.layout.max_length, assembly.options.limits
        query = min(query, limits.query or most)
        document = min(document, limits.document or document)
        total = beside + query + document
        if total <= most or assembly.options.long_documents == "truncate":
            return min(total, most)
        size = max(most - beside - query, most // 4, 1)  # a longer query mostly is cut
        return tokens_of_windows(document, size, most - size)

    def count(self, sequences: Pack) -> None:
        """Add sequences that the caller has run to what `num_tokens` says."""
        self._run.add(len(sequences.token_ids))

    def logits(
        self,
        pairs: list[Any],
        cutoff_layers: tuple[int, ...] | None,
        on_failure: Callable[[int, str], None],
        on_window: Callable[[Pack], None] | None = None,
    ) -> NDArray[np.float32]:
        """Logits of pairs.

        Args:
            pairs: N (query, document) pairs; anything else fails by name.
            cutoff_layers: ascending, among the model's exit layers; None: after all layers.
            on_failure: called with the index of a pair and the reason why it has none.
            on_window: called with the sequences that are run, as many as are read at a time.

        Returns:
            [N, labels] or [N, cutoff layers] float32, NaN for pairs that failed.
        """
        out = np.full((len(pairs), self._columns(cutoff_layers)), -np.inf, dtype=np.float32)

        def told(windows: Iterable[Window]) -> Iterator[Window]:
            for window in windows:
                for index, reason in window.failures.items():
                    on_failure(index, reason)
                out[list(window.failures)] = np.nan
                if on_window is not None:
                    on_window(window.sequences)
                yield window

        with closing(self.reader.windows(pairs)) as windows:
            for window, found, failures in self.finished(told(windows), cutoff_layers):
                for index, reason in failures.items():
                    on_failure(index, reason)
                keep_best(out, window.indices, found)
        return out

    def stream(
        self, batches: Iterable[Sequence[Any]], cutoff_layers: tuple[int, ...] | None
    ) -> "LogitStream":
        """Logits of batches of pairs, as `logits` gives those of each, in their order.

        While one is scored the next is tokenized, and the one after that is asked for.
        """
        return LogitStream(self, batches, cutoff_layers)

    def _columns(self, cutoff_layers: tuple[int, ...] | None) -> int:
        return self.assembly.config.num_labels * len(cutoff_layers or (0,))

    def finished(
        self,
        windows: Iterable[Window],
        cutoff_layers: tuple[int, ...] | None,
    ) -> Iterator[tuple[Window, NDArray[np.float32], dict[int, str]]]:
        """Windows, logits of their sequences, and index -> reason of pairs that have none."""

        def finish(window: Window, pending: Pending) -> tuple[Window, Any, dict[int, str]]:
            logits = pending.result()
            failures: dict[int, str] = {}
            finite: Any = np.isfinite(logits).all(1)
            for place in np.flatnonzero(~finite).tolist():
                reason = pending.failures.get(place, UNFINITE)
                failures.setdefault(window.indices[place], reason)
            return window, np.where(finite[:, None], logits, np.float32(np.nan)), failures

        # A device still works on one window while the packs of the next are made.
        running: tuple[Window, Pending] | None = None
        for window in windows:
            started = window, self.runner.submit(window.sequences, cutoff_layers)
            self.count(window.sequences)
            if running is not None:
                yield finish(*running)
            running = started
        if running is not None:
            yield finish(*running)

    def outcomes(
        self, requests: list[tuple[str, list[Any]]], stages: Stages
    ) -> tuple[list[Outcome], Work | None]:
        """What becomes of the candidates of each request, in their order.

        And the work of all; None where several devices share it.

        Args:
            requests: (query, documents) each.
            stages: where candidates may stop.

        Raises:
            InputError: the model has no head where they may stop.
        """
        for layer in stages.stops:
            self.assembly.check_layer("exit layer", layer)
        runner, config = self.runner, self.assembly.config
        whole = (config.num_layers,)
        # A model that runs all its layers and shares no prefix has nothing to gain from stages.
        staged = config.shares_prefixes or stages.stops != whole
        alone = runner if config.num_labels == 1 and isinstance(runner, Runner) else None
        if staged and alone is not None and isinstance(alone.model, StagedModel):
            model, budget = alone.model, alone.budget_tokens
            run = StagedRun(model, stages, budget, requests, alone.graphs)
            work = run.run(self.reader)
            alone.budget_tokens = min(alone.budget_tokens, run.cascade.budget_tokens)
            self._run.add(work.total // stages.stops[-1])
            return run.outcomes, work
        pairs = [(query, document) for query, texts in requests for document in texts]
        failures: dict[int, str] = {}
        ran: list[Work] = []
        logits = self.logits(
            pairs,
            stages.stops if stages.stops != whole else None,
            failures.__setitem__,
            lambda pack: ran.append(self._whole_work(pack)),
        )
        outcomes, start = [], 0
        for _, texts in requests:
            outcome = Outcome.of(len(texts), config.num_labels)
            outcome.logits[:] = logits[start : start + len(texts)]
            failed = np.isnan(outcome.logits[:, 0])
            outcome.num_layers[:] = np.where(failed, 0, stages.stops[-1])
            for index in failures.keys() & range(start, start + len(texts)):
                outcome.failures[index - start] = failures[index]
            outcomes.append(outcome)
            start += len(texts)
        return outcomes, None if staged else sum(ran, Work())

    def scores(self, logits: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
        """Scores of `logits`, of the same shape; of several layers each has its own labels."""
        rows = logits.reshape(-1, self.assembly.config.num_labels)
        return activate(rows, activation, self.assembly.shift).reshape(logits.shape)

    def _whole_work(self, pack: Pack) -> Work:
        """Of all layers, the last of which may run for the one token that scores."""
        config, num_tokens = self.assembly.config, len(pack.token_ids)
        causal = self.assembly.decoder
        # A classifier's last token but padding may stand anywhere.
        anywhere = causal is not None and causal.head == "classifier" and config.pad_token_id >= 0
        alone = config.pooling == "cls" or (config.pooling == "last" and not anywhere)
        spared = num_tokens - pack.num_sequences if alone else 0
        total = num_tokens * config.num_layers
        return Work(total=total, computed=total - spared, saved_by_last_layer=spared)


class LogitStream(Iterator[tuple[NDArray[np.float32], dict[int, str]]]):
    """Logits of each batch of pairs, and index -> reason of those that have none; to be closed.

    Attributes:
        tokenizing: the windows that are coming.
    """

    def __init__(
        self,
        scorer: PairScorer,
        batches: Iterable[Sequence[Any]],
        cutoff_layers: tuple[int, ...] | None,
    ) -> None:
        self._columns = scorer._columns(cutoff_layers)
        windows = map(scorer.reader.window, batches)
        self.tokenizing: Ahead[Window] = Ahead(windows, 1, "packrank-pairs")
        self._coming = scorer.finished(self.tokenizing, cutoff_layers)

    def __next__(self) -> tuple[NDArray[np.float32], dict[int, str]]:
        window, found, failures = next(self._coming)
        out = np.full((window.num_pairs, self._columns), -np.inf, dtype=np.float32)
        out[list(window.failures)] = np.nan
        keep_best(out, window.indices, found)
        return out, window.failures | failures

    def close(self) -> None:
        """End the thread that tokenizes."""
        self.tokenizing.close()
