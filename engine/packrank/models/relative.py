"""Relative positions of DeBERTa: which row of a table stands for a distance, and the tables."""

import torch
from torch import Tensor

from packrank.checkpoint.deberta_config import DebertaOptions
from packrank_kernels import RelativePositions

_POSITIONS = 512  # at first


class Distances:
    """Rows of distances, as far as sequences have come; threads may share it.

    Args:
        options: how distances are told apart.
        device: where they lie.
    """

    def __init__(self, options: DebertaOptions, device: torch.device) -> None:
        self._options, self._device = options, device
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
        return distance_rows(distances, self._options).to(torch.int32).to(self._device)


class RelativeTable:
    """What distances add in the attention of one layer.

    Args:
        keys: [R, H, D] or None.
        queries: likewise.
        distances: of all layers.
    """

    def __init__(self, keys: Tensor | None, queries: Tensor | None, distances: Distances) -> None:
        self._keys, self._queries, self._distances = keys, queries, distances

    def upto(self, length: int) -> RelativePositions:
        """For sequences of up to so many tokens."""
        return RelativePositions(self._keys, self._queries, self._distances.upto(length))


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
