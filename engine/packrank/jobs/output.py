"""How scores are written: one JSON object a line."""

import json
import math

from packrank.records.record import Record


def row_of(record: Record, score: float | list[float], reason: str | None = None) -> str:
    """{"line", its number, "id" if it has one, "score" or "error"}, and an end of line.

    Args:
        record: the pair.
        score: a number, or of a model of several labels a list of them.
        reason: why the pair has no score, None if it has.
    """
    row: dict[str, object] = {"line": record.number}
    if "id" in record.fields:
        row["id"] = record.fields["id"]
    if reason is None:
        row["score"] = number(score)
    else:
        row["error"] = reason
    return json.dumps(row, allow_nan=False) + "\n"


def number(score: float | list[float]) -> float | list[float] | None:
    """As JSON has it, in which -inf, of a document without token vectors, has no spelling."""
    return None if score == -math.inf else score
