"""Which sequences go together: packs under a token budget. Knows lengths only, no tensor."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from packrank.errors import InputError


def plan(
    lengths: Sequence[int] | NDArray[np.int64] | NDArray[np.int32], budget_tokens: int
) -> list[NDArray[np.int64]]:
    """Split sequences into packs, longest first.

    Sequences of similar length share a pack, so that its attention work is even. Equal lengths
    keep their order, and the same lengths always give the same packs.

    Args:
        lengths: [N] tokens of each sequence.
        budget_tokens: most tokens of a pack. A longer sequence is a pack of its own.

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
    order = np.argsort(-tokens, kind="stable")
    ends = np.cumsum(tokens[order])
    packs = []
    start = used = 0
    while start < len(order):
        fitting = int(np.searchsorted(ends, used + budget_tokens, side="right"))
        stop = max(fitting, start + 1)
        packs.append(order[start:stop])
        start, used = stop, int(ends[stop - 1])
    return packs
