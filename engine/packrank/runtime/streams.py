"""The streams of a device, which all models of the process share."""

import threading
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Streams:
    """One for each purpose: torch hands out 32 of a priority, then the same ones again.

    Streams of a model's own would be another's sooner or later: a copy would break the capture that
    it falls into, and graphs that were captured on one stream have one workspace of cuBLAS, so that
    they must not run on two.

    Attributes:
        packs: where graphs run.
        captures: where they are recorded.
        copies: to the device; of a priority of its own, which others take less often.
    """

    packs: torch.cuda.Stream
    captures: torch.cuda.Stream
    copies: torch.cuda.Stream


_made: dict[int, Streams] = {}
_turn = threading.Lock()


def streams_of(device: torch.device) -> Streams:
    """Those of a CUDA device."""
    index = torch.cuda.current_device() if device.index is None else device.index
    with _turn:
        if index not in _made:
            new = torch.cuda.Stream
            _made[index] = Streams(new(device), new(device), new(device, priority=-1))  # type: ignore[no-untyped-call]
        return _made[index]
