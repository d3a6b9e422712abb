"""A file of pairs to a file of scores, a window of lines at a time, in the order they came."""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from tqdm import tqdm

from packrank.late_interaction import LateInteraction
from packrank.lines import Line
from packrank.reranker import Reranker

Scorer = Reranker | LateInteraction

# A window is scored at once, so memory follows these and not the length of the file. It holds many
# packs, so the last one, which is not full, costs little; and few enough pairs that the progress
# bar moves every few seconds.
_WINDOW_PAIRS = 2048
_WINDOW_CHARACTERS = 16_000_000
# Documents of late interaction whose vectors are held at once.
_VECTORS_AT_ONCE = 256


@dataclass(frozen=True)
class Totals:
    """What a file came to.

    Attributes:
        pairs: lines scored.
        failures: (line number, reason) of the first lines that were not.
        num_failed: how many there were of those.
        tokens: that the model read, special ones included.
        seconds: from the first line to the last.
    """

    pairs: int
    failures: list[tuple[int, str]]
    num_failed: int
    tokens: int
    seconds: float


def score_lines(
    model: Scorer, lines: Iterable[Line], sink: TextIO, bar: "tqdm[None]", *, keep: int = 20
) -> Totals:
    """Write {"line", "id" if the line has one, "score" or "error"} for every line.

    A model of several labels gives a list of scores.

    Args:
        model: what scores.
        lines: from `read_jsonl`, with "query" and "document".
        sink: where the scores go, one JSON object a line.
        bar: moves by one a line.
        keep: most failures to return.

    Raises:
        PackrankError: the model cannot score at all.
    """
    start, first_token = time.perf_counter(), model.num_tokens
    pairs, num_failed = 0, 0
    failures: list[tuple[int, str]] = []
    for window in _windows(lines):
        for line, score, reason in _score_window(model, window):
            out: dict[str, object] = {"line": line.number}
            if "id" in line.fields:
                out["id"] = line.fields["id"]
            if reason is None:
                out["score"] = score
                pairs += 1
            else:
                out["error"] = reason
                num_failed += 1
                if len(failures) < keep:
                    failures.append((line.number, reason))
            sink.write(json.dumps(out, ensure_ascii=False, allow_nan=False) + "\n")
        seconds = max(time.perf_counter() - start, 1e-9)
        tokens = model.num_tokens - first_token
        bar.set_postfix_str(f"{tokens / seconds:,.0f} tokens/s", refresh=False)
        bar.update(len(window))
    seconds = max(time.perf_counter() - start, 1e-9)
    return Totals(pairs, failures, num_failed, model.num_tokens - first_token, seconds)


def _score_window(
    model: Scorer, window: list[Line]
) -> Iterator[tuple[Line, float | list[float], str | None]]:
    good = [line for line in window if line.error is None]
    pairs = [(str(line.fields["query"]), str(line.fields["document"])) for line in good]
    scores, reasons = model.try_score(pairs)
    index = 0
    for line in window:
        if line.error is not None:
            yield line, float("nan"), line.error
        else:
            yield line, scores[index].tolist(), reasons.get(index)
            index += 1


def _windows(lines: Iterable[Line]) -> Iterator[list[Line]]:
    window: list[Line] = []
    characters = 0
    for line in lines:
        window.append(line)
        if line.error is None:
            characters += len(line.fields["query"]) + len(line.fields["document"])
        if len(window) == _WINDOW_PAIRS or characters >= _WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window
