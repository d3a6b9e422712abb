"""Finished rows by query: the best of each, in the order of the queries' last rows."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from packrank.jobs.output import Finished
from packrank.records.file import Row
from packrank.records.shapes import Shape

# [N, labels] logits -> [N] float64 by which they are ordered, NaN where there is none.
Keys = Callable[[NDArray[np.float32]], NDArray[np.float64]]


class Ranked(NamedTuple):
    """A query's rows.

    Attributes:
        query: its text or id; None of rows that have none.
        best: that have a score, best first; of equal ones the earlier.
        others: that have none, in their order.
    """

    query: str | None
    best: list[Finished]
    others: list[Finished]


def by_query(
    rows: Iterable[Row], finished: Iterable[Finished], shape: Shape, keys: Keys
) -> Iterator[Ranked]:
    """Rows of pairs by query, each query once all of its rows have come.

    In memory are the queries' names, and the rows of those that have begun and not ended: of one,
    where the rows of a query stand together.

    Args:
        rows: the input.
        finished: the same rows, finished.
        shape: pairs.
        keys: what they are ordered by.
    """
    last: dict[str | None, int] = {}
    for number, row in enumerate(rows):
        last[shape.query_of(row.value)] = number
    held: dict[str | None, list[Finished]] = {}
    for number, one in enumerate(finished):
        query = shape.query_of(one.row.value)
        held.setdefault(query, []).append(one)
        if last[query] == number:
            yield _ranked(query, held.pop(query), keys)


def places(keys: NDArray[np.float64], most: int | None) -> list[int]:
    """Places of the best, best first; of equal ones the earlier, and none that has no key."""
    count = int(np.count_nonzero(~np.isnan(keys)))
    order: list[int] = np.argsort(-keys, kind="stable")[:count][:most].tolist()
    return order


def _ranked(query: str | None, rows: list[Finished], keys: Keys) -> Ranked:
    order = places(keys(np.concatenate([row.logits for row in rows])), None)
    scored = set(order)
    others = [row for place, row in enumerate(rows) if place not in scored]
    return Ranked(query, [rows[place] for place in order], others)
