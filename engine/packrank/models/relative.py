"""Relative positions: which row of a table stands for a distance, and the tables."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from packrank.checkpoint.deberta_config import DebertaOptions
from packrank.checkpoint.t5_config import T5Options
from packrank_kernels import RelativePositions

_POSITIONS = 512  # at first
_STEPS = 1024  # whose logarithms are made at a time


class Distances:
    """Rows of distances, as far as sequences have come; threads may share it.

    Args:
        rows: distances of queries to keys, rising by one, to their rows.
        device: where they lie.
    """

    def __init__(self, rows: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self._rows, self._device = rows, device
        # All that were made: graphs on a device go on reading those that they were captured with.
        self._made: list[Tensor] = []

    def upto(self, length: int) -> Tensor:
        """[2P - 1] int32 with P at least `length`; see `packrank_kernels.RelativePositions`."""
        last = self._made[-1] if self._made else None
        if last is None or len(last) < 2 * length - 1:
            last = self._make(max(length, _POSITIONS, 0 if last is None else len(last)))
            self._made.append(last)
        return last

    def _make(self, positions: int) -> Tensor:
        distances = torch.arange(1 - positions, positions)
        return self._rows(distances).to(torch.int32).to(self._device)


class RelativeTable:
    """What distances add in the attention of one layer.

    Args:
        keys: [R, H, D] or None.
        queries: likewise.
        distances: of all layers.
        bias: [R, H] float32 or None.
    """

    def __init__(
        self,
        keys: Tensor | None,
        queries: Tensor | None,
        distances: Distances,
        bias: Tensor | None = None,
    ) -> None:
        self._keys, self._queries, self._distances, self._bias = keys, queries, distances, bias

    def upto(self, length: int) -> RelativePositions:
        """For sequences of up to so many tokens."""
        rows = self._distances.upto(length)
        return RelativePositions(self._keys, self._queries, rows, self._bias)


def distance_rows(distances: Tensor, options: DebertaOptions) -> Tensor:
    """The row of the embeddings for each distance of a query to a key, int64.

    Near distances have a row each, farther ones share them, by logarithms that are rounded to
    float32 as transformers rounds them: a bucket further is another score.
    Source: He et al. 2021, eq. 3; make_log_bucket_position of transformers' DeBERTa-v2.
    """
    span, near = options.span, options.buckets // 2
    if options.buckets:
        far = torch.where(distances.abs() < near, near - 1, distances.abs())
        widest = torch.log(torch.tensor((options.most_positions - 1) / near))
        steps = torch.ceil(torch.log(far / near) / widest * (near - 1)) + near
        distances = torch.where(far <= near, distances.to(steps), steps * distances.sign()).long()
    return (distances + span).clamp(0, 2 * span - 1)


def bucket_rows(distances: Tensor, options: T5Options, *, causal: bool) -> Tensor:
    """The bucket of T5 for each distance of a query to a key, int64.

    Near distances have a bucket each, farther ones share them, by logarithms that are rounded to
    float32 as transformers rounds them. Both directions share the buckets; where attention is
    causal there is one. Source: Raffel et al. 2020, section 2.1; _relative_position_bucket of
    transformers' T5.
    """
    count = options.buckets if causal else options.buckets // 2
    near = count // 2
    steps = distances.clamp(min=0) if causal else distances.abs()

    def of_steps(start: int) -> Tensor:
        """Made alike wherever it starts, so that no bucket hangs on how many steps there are."""
        known = torch.arange(start, start + _STEPS)
        ratio = torch.log(known.clamp(min=1).float() / near)
        far = near + (ratio / math.log(options.most_distance / near) * (count - near)).long()
        return torch.where(known < near, known, far.clamp(max=count - 1))

    most = int(steps.max())
    found = torch.cat([of_steps(start) for start in range(0, most + 1, _STEPS)])[steps]
    return found if causal else torch.where(distances < 0, found + count, found)
