"""What rows are written as: their own columns, scores beside them, and why there are none."""

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from packrank.errors import JobError
from packrank.jobs.rows import Failure
from packrank.records.file import Row
from packrank.records.shapes import LISTS, Shape
from packrank.records.tables import text_of

OutputFormat = Literal["jsonl", "parquet", "trec"]
ERROR = "error"
_SHOWN_FAILURES = 8  # of a row
_SLOTS_AT_ONCE = 1 << 14  # whose logits are read


class Finished(NamedTuple):
    """A row and what became of it.

    Attributes:
        row: as the input has it.
        logits: [slots, labels] float32, NaN where there is no score.
        scores: of those, of the same shape.
        failures: of it.
        first: number of its first slot.
    """

    row: Row
    logits: NDArray[np.float32]
    scores: NDArray[np.float32]
    failures: list[Failure]
    first: int


# [N, labels] logits -> places of the best, best first; those without a score are none of them.
Order = Callable[[NDArray[np.float32]], list[int]]


@dataclass(frozen=True)
class Columns:
    """Which columns an output has.

    Attributes:
        shape: of the rows.
        kept: those of the input that are written; None: all.
        labels: scores of a pair.
        added: others that the output adds, beside scores and errors.
    """

    shape: Shape
    kept: tuple[str, ...] | None = None
    labels: int = 1
    added: tuple[str, ...] = ()

    @property
    def scores(self) -> list[str]:
        """Those of scores."""
        return [side.scores for side in self.shape.documents]

    def of(self, finished: Finished, order: "Order | None" = None) -> dict[str, Any]:
        """A row with its scores, and with its error if it has one.

        Args:
            finished: the row.
            order: puts lists and their scores in order, best first; None: as they came.
        """
        value = finished.row.value
        held = value if isinstance(value, Mapping) else {}
        replaced = (*self.scores, *self.added, ERROR)
        out = {
            name: one
            for name, one in held.items()
            if (self.kept is None or name in self.kept) and name not in replaced
        }
        scores = [_plain(row) for row in finished.scores.tolist()]
        start = 0
        for side in self.shape.documents:
            if not side.is_list:
                out[side.scores] = scores[0]
                continue
            found = held.get(side.column)
            if not isinstance(found, list):
                out[side.scores] = None
                continue
            here = slice(start, start + len(found))
            start += len(found)
            out[side.scores] = scores[here]
            if order is not None:
                best = order(finished.logits[here])
                for name in {side.column, side.scores, *LISTS} & out.keys():
                    if isinstance(out[name], list) and len(out[name]) == len(found):
                        out[name] = [out[name][place] for place in best]
        if finished.failures:
            out[ERROR] = _error(finished, self.shape)
        return out


def json_line(row: Mapping[str, Any]) -> str:
    """A row as JSON has it, and an end of line."""
    try:
        return json.dumps(row, allow_nan=False, default=_jsonable) + "\n"
    except ValueError:  # a number of the input's that is none
        return json.dumps(_finite(row), allow_nan=False) + "\n"


def trec_line(query: object, document: object, rank: int, score: float, tag: str) -> str:
    """A line of a TREC run."""
    return f"{query} Q0 {document} {rank} {score!r} {tag}\n"


def finished_rows(
    rows: Iterator[Row],
    shape: Shape,
    logits: Callable[[int, int], NDArray[np.float32]],
    activate: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    failures: Iterator[Failure],
    total: Callable[[], int],
) -> Iterator[Finished]:
    """Rows of an input with what a journal says of them.

    Args:
        rows: from the first on.
        shape: of them.
        logits: (first slot, end) -> [slots, labels].
        activate: logits to scores.
        failures: in the order of the rows.
        total: how many slots all rows have, once they are at their end.

    Raises:
        JobError: the rows are not those that were scored.
    """
    coming: Failure | None = None
    first, held, start = 0, np.zeros((0, 1), np.float32), 0
    scores = held
    for number, row in enumerate(rows):
        size = shape.size(row.value)
        if first + size > start + len(held):
            start, held = first, logits(first, first + max(size, _SLOTS_AT_ONCE))
            scores = activate(held)
        own: list[Failure] = []
        coming = coming or next(failures, None)
        while coming is not None and coming.row == number:
            own.append(coming)
            coming = next(failures, None)
        here = slice(first - start, first - start + size)
        if here.stop > len(held):
            raise JobError("the input is not what was scored: it was written to; begin anew")
        yield Finished(row, held[here], scores[here], own, first)
        first += size
    if first != total():
        raise JobError("the input is not what was scored: it was written to; begin anew")


def _error(finished: Finished, shape: Shape) -> str:
    """Why a row, or some of its list, has no score."""
    said = []
    for failure in finished.failures[:_SHOWN_FAILURES]:
        place = ""
        if finished.row.value is None:
            place = f"{failure.place}: "
        elif failure.slot is not None and not shape.is_pairs:
            slot = failure.slot - finished.first
            place = f"{shape.place(finished.row.value, slot)}: "
        said.append(f"{place}{failure.reason}")
    if len(finished.failures) > _SHOWN_FAILURES:
        said.append(f"and {len(finished.failures) - _SHOWN_FAILURES} more")
    return "; ".join(said)


def _plain(scores: Sequence[float]) -> Any:
    """One score, or several of labels; None where there is none, or one that JSON cannot spell."""
    found = [None if math.isnan(x) or math.isinf(x) else x for x in scores]
    if len(found) == 1:
        return found[0]
    return None if all(math.isnan(x) for x in scores) else found


def _jsonable(value: Any) -> Any:
    """What a table's cell is in JSON: dates as ISO has them, bytes in base64, others as text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return text_of(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value if value is None or isinstance(value, str | int | bool) else _jsonable(value)
