"""Windows of rows to logits, in the order of the input: reading, tokenizing, scoring overlap."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from packrank.ahead import Ahead
from packrank.jobs.facts import AnyScorer, Found, Remote, Stream, facts_of
from packrank.jobs.pace import Doubling
from packrank.jobs.rows import Failure, Pair, Window
from packrank.late_interaction import LateInteraction
from packrank.records.file import Row
from packrank.reranker import Reranker

# A batch is scored at once, and then what it made is safe and the progress bar moves. The first is
# this small, so that a slow model's bar moves too.
_FIRST_BATCH_PAIRS = 16
_BATCH_PAIRS = 4096
_BATCH_CHARACTERS = 4_000_000

_NO_VECTORS = "no token of the document is compared, so that it has no score"


class Scored(NamedTuple):
    """Rows that are done, in the order of the input.

    Attributes:
        ends: of each row, how many slots this and all rows before it here have.
        logits: [slots, labels] float32, NaN where there is no score.
        failures: of these rows.
        digest: of all rows of the input up to the last of these.
        rows: what they say, where that is kept.
    """

    ends: Sequence[int]
    logits: NDArray[np.float32]
    failures: list[Failure]
    digest: bytes
    rows: list[Row]


@dataclass
class Stages:
    """Seconds that the stages took, each beside the others.

    Attributes:
        reading: files, and texts by id.
        tokenizing: texts to packs.
        scoring: what a device does, and what launches it.
        waiting: what scoring waited for the others.
    """

    reading: float = 0.0
    tokenizing: float = 0.0
    scoring: float = 0.0
    waiting: float = 0.0


def score_windows(
    model: AnyScorer,
    windows: Iterable[Window],
    stages: Stages,
    *,
    first_row: int = 0,
    first_slot: int = 0,
    cutoff_layer: int | None = None,
) -> Iterator[Scored]:
    """Logits of the rows of windows, as soon as they are known; of late interaction its scores.

    Args:
        model: what scores.
        windows: of rows; read ahead in a thread.
        stages: counts the seconds.
        first_row: how many rows of the input come before.
        first_slot: how many slots.
        cutoff_layer: layers that a reranker runs; None: all.

    Raises:
        PackrankError: the model cannot score at all.
    """
    pace = Doubling(_FIRST_BATCH_PAIRS, _BATCH_PAIRS)
    pieces: deque[_Piece] = deque()
    place = _Place(first_row, first_slot, len(facts_of(model).labels))
    with Ahead(windows, 1, "packrank-rows") as reading:
        stream = stream_of(model, _batches(reading, pieces, pace), cutoff_layer)
        try:
            while True:
                start = perf_counter()
                with pace.kept():
                    found = next(stream, None)
                _count(stages, stream, reading, perf_counter() - start)
                if found is None:
                    return
                yield from place.settled(pieces.popleft(), found)
        finally:
            reading.close()  # who tokenizes waits for it
            stream.close()


class _Piece(NamedTuple):
    """Pairs of a window that are a batch; a window without pairs has one batch, of none."""

    window: Window
    start: int
    size: int


def _batches(
    windows: Iterable[Window], pieces: deque[_Piece], pace: Doubling
) -> Iterator[list[Pair]]:
    for window in windows:
        start = 0
        while not start or start < len(window.pairs):
            batch = window.pairs[start : start + pace.size]
            sizes = [len(query) + len(document) for query, document in batch]
            fitting = int(np.searchsorted(np.cumsum(sizes), _BATCH_CHARACTERS, side="right"))
            batch = batch[: max(fitting, 1)]
            pieces.append(_Piece(window, start, len(batch)))
            start += max(len(batch), 1)
            yield batch


class _Place:
    """How far rows have been settled."""

    def __init__(self, rows: int, slots: int, labels: int) -> None:
        self._rows, self._slots, self._labels = rows, slots, labels
        self._window: Window | None = None

    def settled(self, piece: _Piece, found: Found) -> Iterator[Scored]:
        """The rows that are done once a piece is."""
        window = piece.window
        if window is not self._window:
            self._begin(window)
        logits, failures = found
        # Of late interaction: a document that has no vector to be compared.
        for index in np.flatnonzero(np.isneginf(logits).all(1)).tolist():
            self._failed[piece.start + index] = _NO_VECTORS
            logits[index] = np.nan
        done = piece.start + piece.size
        self._logits[piece.start : done] = logits
        for index, reason in failures.items():
            self._failed[piece.start + index] = reason
        # Pairs are numbered as they first come: a row is done with the highest of its own.
        stop = int(np.searchsorted(self._needs, done, side="right"))
        if stop > self._row:
            yield self._taken(window, stop)

    def _begin(self, window: Window) -> None:
        self._window, self._row, self._problem = window, 0, 0
        self._logits = np.full((len(window.pairs), self._labels), np.nan, dtype=np.float32)
        self._failed: dict[int, str] = {}
        self._ends = np.array(window.ends, dtype=np.int64)
        self._needs = np.append(0, np.maximum.accumulate(window.places + 1))[self._ends]
        self._rows_before, self._slots_before = self._rows, self._slots
        self._rows += len(window.ends)
        self._slots += int(self._ends[-1])

    def _taken(self, window: Window, stop: int) -> Scored:
        first, self._row = self._row, stop
        start = int(self._ends[first - 1]) if first else 0
        end = int(self._ends[stop - 1])
        places = window.places[start:end]
        known = places >= 0
        logits = np.full((end - start, self._labels), np.nan, dtype=np.float32)
        logits[known] = self._logits[places[known]]
        failures = list(self._failures(window, first, stop, start, end))
        ends = (self._ends[first:stop] - start).tolist()
        rows = window.rows[first:stop]
        return Scored(ends, logits, failures, window.digests[stop - 1], rows)

    def _failures(
        self, window: Window, first: int, stop: int, start: int, end: int
    ) -> Iterator[Failure]:
        """Of some rows, in their order."""
        found: list[tuple[int, int | None, str, str]] = []
        while self._problem < len(window.problems) and window.problems[self._problem][0] < stop:
            row, slot, problem = window.problems[self._problem]
            found.append((row, slot, *problem))
            self._problem += 1
        if self._failed:
            for slot in range(start, end):
                reason = self._failed.get(int(window.places[slot]))
                if reason is not None:
                    row = int(np.searchsorted(self._ends, slot, side="right"))
                    found.append((row, slot, _kind_of(reason), reason))
            found.sort(key=lambda one: (one[0], -1 if one[1] is None else one[1]))
        for row, slot, kind, reason in found:
            of_all = None if slot is None else self._slots_before + slot
            yield Failure(self._rows_before + row, of_all, kind, reason, window.where[row])


def _kind_of(reason: str) -> str:
    """What a pair that the model cannot score is counted as."""
    return "too long" if "tokens, more than" in reason else "not scored"


def stream_of(model: AnyScorer, batches: Iterator[list[Pair]], cutoff_layer: int | None) -> Stream:
    """Logits of batches of pairs, of each in its order; of late interaction its scores."""
    if isinstance(model, Reranker | Remote):
        return model.score_stream(batches, cutoff_layer=cutoff_layer)
    return _LateStream(model, batches)


class _LateStream:
    """Late interaction, whose scores stand for logits: a batch after the other."""

    def __init__(self, model: LateInteraction, batches: Iterator[list[Pair]]) -> None:
        self._model, self._batches = model, batches

    def __iter__(self) -> Iterator[Found]:
        return self

    def __next__(self) -> Found:
        batch = next(self._batches)
        scores, failures = self._model.try_score(batch)
        return scores[:, None], failures

    def close(self) -> None:
        """Nothing is open."""


def _count(stages: Stages, stream: object, reading: Ahead[Window], seconds: float) -> None:
    """Add what a step took; what threads took is theirs so far."""
    tokenizing: Ahead[Any] | None = getattr(stream, "tokenizing", None)
    stages.reading = reading.busy
    if tokenizing is None:
        stages.scoring += seconds
        stages.waiting = reading.waited
        return
    stages.tokenizing = max(tokenizing.busy - reading.waited, 0.0)
    waited = tokenizing.waited - stages.waiting
    stages.waiting = tokenizing.waited
    stages.scoring += seconds - waited
