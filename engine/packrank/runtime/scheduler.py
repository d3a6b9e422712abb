"""Which sequences go together: packs under a token budget. Knows lengths only, no tensor."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from packrank.errors import InputError
from packrank.request import Int32


def plan(
    lengths: Sequence[int] | NDArray[np.int64] | NDArray[np.int32],
    budget_tokens: int,
    queries: Int32 | None = None,
    shared: Int32 | None = None,
) -> list[NDArray[np.int64]]:
    """Split sequences into packs, longest first.

    Sequences of similar length share a pack, so that its attention work is even, and shorter ones
    fill what they leave. Equal lengths keep their order, and the same lengths always give the same
    packs. Where sequences share prefixes, those of one query come one after the other, longest
    first, and a pack holds the prefix of each of its queries once.

    Args:
        lengths: [N] tokens of each sequence.
        budget_tokens: most tokens of a pack. A longer sequence is a pack of its own.
        queries: [N], see `Pack`; None: no prefixes are shared.
        shared: [N], see `Pack`.

    Returns:
        Indices into `lengths`, one array a pack; every index appears in exactly one.

    Raises:
        InputError: `budget_tokens` is below 1, or a length is negative.
    """
    if budget_tokens < 1:
        raise InputError(f"budget_tokens is {budget_tokens}, expected at least 1")
    tokens = np.asarray(lengths, dtype=np.int64)
    if tokens.size and tokens.min() < 0:
        raise InputError(f"a sequence has length {tokens.min()}, expected at least 0")
    if queries is not None and shared is not None:
        return _plan_by_query(tokens, budget_tokens, queries, shared)
    order = np.argsort(-tokens, kind="stable")
    waiting = order.tolist()
    falling = (-tokens[order]).tolist()
    packs = []
    while waiting:
        pack, left = [waiting.pop(0)], budget_tokens + falling.pop(0)
        # The longest that fits: most often the next one, at the end of a pack a shorter one.
        while (place := bisect_left(falling, -left)) < len(falling):
            pack.append(waiting.pop(place))
            left += falling.pop(place)
        packs.append(np.array(pack, dtype=np.int64))
    return packs


def packed_tokens(
    lengths: NDArray[np.int64] | NDArray[np.int32],
    queries: Int32 | None = None,
    shared: Int32 | None = None,
) -> int:
    """Tokens of a pack of these sequences, the prefix of each of its queries counted once.

    Args:
        lengths: [N] tokens of each sequence.
        queries: [N], see `Pack`; None: no prefixes are shared.
        shared: [N], see `Pack`.
    """
    if queries is None or shared is None:
        return int(lengths.sum())
    _, first = np.unique(queries, return_index=True)
    return int((lengths - shared).sum() + shared[first].sum())


def _plan_by_query(
    tokens: NDArray[np.int64], budget_tokens: int, queries: Int32, shared: Int32
) -> list[NDArray[np.int64]]:
    order = np.lexsort((-tokens, queries))
    packs: list[list[int]] = []
    left, query = 0, None
    rows = zip(order.tolist(), tokens[order].tolist(), strict=True)
    for (index, length), own, prefix in zip(
        rows, queries[order].tolist(), shared[order].tolist(), strict=True
    ):
        size = length - prefix if own == query else length
        if not packs or size > left:
            packs.append([])
            left, size = budget_tokens, length
        packs[-1].append(index)
        left -= size
        query = own
    return [np.array(pack, dtype=np.int64) for pack in packs]
