"""The best documents of each query, in one order: larger scores first, then lower documents.

Score and document lie in one int64, so that one selection orders both, on any device and in any
number of runs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Below every key: no document.
_NOTHING = torch.iinfo(torch.int64).min
_NAN = torch.iinfo(torch.int32).min
_LOWER_HALF = 0xFFFFFFFF


class TopK(NamedTuple):
    """The best documents of each query, best first.

    Attributes:
        scores: [k] float32, or [M, k] for M queries; NaN ranks below every number.
        indices: the same shape, int64: which documents. A query with fewer candidates than others
            ends in -1, with score -inf.
    """

    scores: Tensor
    indices: Tensor


def merge(parts: Sequence[TopK], top_k: int) -> TopK:
    """The best of several: of documents scored in runs, or of scores and indices of any order.

    Args:
        parts: at least one, each [.] or all [M, .], on one device; index -1 stands for no document.
        top_k: how many of the best to return; equal scores in the order of the documents.
    """
    every = [keys(*part).masked_fill(part.indices < 0, _NOTHING) for part in parts]
    return from_keys(best(torch.cat(every, dim=-1), top_k))


def keys(scores: Tensor, indices: Tensor) -> Tensor:
    """[..., K] int64 of float32 scores and document numbers below 2^32 - 1."""
    bits = (scores + 0.0).view(torch.int32).long()  # + 0.0: -0 and 0 are equal
    rising = torch.where(scores.isnan(), _NAN, _flip(bits))
    return (rising << 32) | (_LOWER_HALF - indices)


def best(every: Tensor, top_k: int) -> Tensor:
    """[..., min(top_k, K)] of [..., K] keys, best first."""
    return every.topk(min(top_k, every.shape[-1])).values


def from_keys(chosen: Tensor) -> TopK:
    """What keys were made of."""
    rising = chosen >> 32
    scores = _flip(rising).to(torch.int32).view(torch.float32)
    scores = torch.where(rising == _NAN, torch.nan, scores)
    indices = _LOWER_HALF - (chosen & _LOWER_HALF)
    empty = chosen == _NOTHING
    return TopK(scores.masked_fill(empty, -torch.inf), indices.masked_fill(empty, -1))


def padded(lists: Sequence[Tensor]) -> Tensor:
    """Rows of keys [k_m], at least one, as [M, largest k], no document where a row is shorter."""
    width = max(map(len, lists))
    fills = [row.new_full((width - len(row),), _NOTHING) for row in lists]
    rows = [torch.cat(pair) for pair in zip(lists, fills, strict=True)]
    return torch.stack(rows)


def _flip(bits: Tensor) -> Tensor:
    """Bits of floats to integers in the same order, and back."""
    return bits ^ ((bits >> 63) & 0x7FFFFFFF)
