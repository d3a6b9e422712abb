"""How scores are written: one JSON object a line."""

import json
import math
from typing import TextIO

from packrank.lines import Line


def write_row(
    sink: TextIO, line: Line, score: float | list[float], reason: str | None = None
) -> None:
    """Write {"line", "id" if the line has one, "score" or "error"}.

    Args:
        sink: where the row goes.
        line: the pair's.
        score: a number, or of a model of several labels a list of them.
        reason: why the pair has no score, None if it has.
    """
    row: dict[str, object] = {"line": line.number}
    if "id" in line.fields:
        row["id"] = line.fields["id"]
    if reason is None:
        # -inf, of a document without token vectors, has no spelling in JSON.
        row["score"] = None if score == -math.inf else score
    else:
        row["error"] = reason
    sink.write(json.dumps(row, allow_nan=False) + "\n")
