"""A file of pairs to a file of scores, a window at a time, in the order they came."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from tqdm import tqdm

from packrank.jobs.output import row_of
from packrank.jobs.pace import Doubling
from packrank.late_interaction import LateInteraction
from packrank.records.record import Record
from packrank.reranker import Reranker

Scorer = Reranker | LateInteraction

# A window is scored at once and then the progress bar moves. The first is this small, so that a
# slow model's bar moves too.
_FIRST_WINDOW_PAIRS = 64
# The largest window, so that memory follows these and not the length of the file.
_WINDOW_PAIRS = 4096
_WINDOW_CHARACTERS = 16_000_000


@dataclass(frozen=True)
class Totals:
    """What a file came to.

    Attributes:
        pairs: those scored.
        readable: those that the file has.
        tokens: that the model read, special ones included.
        seconds: from the first to the last.
    """

    pairs: int
    readable: int
    tokens: int
    seconds: float


def score_records(
    model: Scorer,
    records: Iterable[Record],
    sink: TextIO,
    bar: "tqdm[None]",
    on_failure: Callable[[Record, str], None],
    *,
    cutoff_layer: int | None = None,
) -> Totals:
    """Write a row for every record; see `output.row_of`.

    Args:
        model: what scores.
        records: of a file of pairs.
        sink: where the scores go, one JSON object a line.
        bar: moves by one a record.
        on_failure: is told of records that are not scored, and why.
        cutoff_layer: layers that a reranker runs; None: all.

    Raises:
        PackrankError: the model cannot score at all.
    """
    start, first_token = time.perf_counter(), model.num_tokens
    pairs, readable, pace = 0, 0, Doubling(_FIRST_WINDOW_PAIRS, _WINDOW_PAIRS)
    coming = iter(records)
    while window := _take(coming, pace.size):
        readable += sum(record.error is None for record in window)
        rows = []
        with pace.kept():
            scored = list(_score_window(model, window, cutoff_layer))
        for record, score, reason in scored:
            rows.append(row_of(record, score, reason))
            if reason is None:
                pairs += 1
            else:
                on_failure(record, reason)
        sink.write("".join(rows))  # at once, as a signal may come at any time
        seconds = max(time.perf_counter() - start, 1e-9)
        tokens = model.num_tokens - first_token
        bar.set_postfix_str(f"{tokens / seconds:,.0f} tokens/s", refresh=False)
        bar.update(len(window))
    seconds = max(time.perf_counter() - start, 1e-9)
    tokens = model.num_tokens - first_token
    return Totals(pairs, readable, tokens, seconds)


def _score_window(
    model: Scorer, window: list[Record], cutoff_layer: int | None
) -> Iterator[tuple[Record, float | list[float], str | None]]:
    """Each pair once, however often the window has it."""

    def pair_of(record: Record) -> tuple[str, str]:
        return str(record.fields["query"]), str(record.fields["document"])

    places: dict[tuple[str, str], int] = {}
    for record in window:
        if record.error is None:
            places.setdefault(pair_of(record), len(places))
    if isinstance(model, Reranker):
        scores, reasons = model.try_score(list(places), cutoff_layers=cutoff_layer)
    else:
        scores, reasons = model.try_score(list(places))
    for record in window:
        if record.error is not None:
            yield record, float("nan"), record.error
        else:
            place = places[pair_of(record)]
            yield record, scores[place].tolist(), reasons.get(place)


def _take(records: Iterator[Record], most: int) -> list[Record]:
    """The next records, a window of them; none at the end."""
    window: list[Record] = []
    characters = 0
    while len(window) < most and characters < _WINDOW_CHARACTERS:
        record = next(records, None)
        if record is None:
            break
        window.append(record)
        if record.error is None:
            characters += len(record.fields["query"]) + len(record.fields["document"])
    return window
