"""Small arrays to a device and back, beside what it computes."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from packrank.request import Int32
from packrank.runtime.streams import streams_of

Fetch = Callable[[], NDArray[np.float32]]

# Of int32: every array of a pack starts at a multiple of 64 bytes, wherever the others end. A
# kernel is compiled for how its arguments are aligned.
_ALIGNMENT = 16


class Uploads:
    """Two pinned buffers, filled in turn, so that one is filled while the other is copied.

    The copy runs on a stream for copies into memory of its own; what the caller's stream then
    does is a copy within the device. On a CPU there is nothing to overlap, and one copy.

    Args:
        device: where arrays go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._slots: list[_Slot] = []
        if device.type == "cuda":
            self._stream = streams_of(device).copies
            self._slots = [_Slot(device), _Slot(device)]

    def send(self, fill: Callable[[Int32], None], target: Tensor) -> None:
        """Have `target`, [n] int32 on the device, hold what `fill` writes into an array of n.

        What the caller's stream does next sees it. Returns before it is copied.
        """
        if not self._slots:
            fill(target.numpy())
            return
        self._slots.reverse()
        slot, size = self._slots[0], len(target)
        slot.copied.synchronize()  # the last copy out of the pinned buffer is over
        slot.reserve(size, self._device)
        fill(slot.host[:size].numpy())
        # What was made in a caller's inference mode can be written in no other.
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            self._stream.wait_event(slot.taken)
            slot.staged[:size].copy_(slot.host[:size], non_blocking=True)
            slot.copied.record(self._stream)
        current = torch.cuda.current_stream(self._device)
        current.wait_event(slot.copied)
        target.copy_(slot.staged[:size], non_blocking=True)
        slot.taken.record(current)


class PackUploads:
    """Takes the arrays of a pack to a device in one copy. Threads may share it.

    Args:
        device: where arrays go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._uploads = device, Uploads(device)
        # On a CPU nothing is shared, and a lock that is held while the process forks stays held.
        self._turn: AbstractContextManager[object] = nullcontext()
        if device.type == "cuda":
            self._turn = threading.Lock()

    def __call__(self, arrays: dict[str, Int32]) -> dict[str, Tensor]:
        """Arrays [n] int32 by name, as tensors that share one piece of the device's memory.

        What the caller's stream does next sees them. Returns before they are copied.
        """
        places, size = placed({name: len(array) for name, array in arrays.items()})
        there = torch.empty(size, dtype=torch.int32, device=self._device)

        def fill(host: Int32) -> None:
            for name, array in arrays.items():
                host[places[name]] = array

        with self._turn:
            self._uploads.send(fill, there)
        return {name: there[place] for name, place in places.items()}


def placed(sizes: dict[str, int]) -> tuple[dict[str, slice], int]:
    """Where arrays of these sizes lie that share a buffer, and how large that is."""
    places, end = {}, 0
    for name, size in sizes.items():
        places[name] = slice(end, end + size)
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return places, end


class _Slot:
    """A pinned buffer and where it is copied to first."""

    def __init__(self, device: torch.device) -> None:
        self.copied, self.taken = _event(), _event()
        self.host = _pinned(0, torch.int32)
        self.staged = torch.empty(0, dtype=torch.int32, device=device)

    def reserve(self, size: int, device: torch.device) -> None:
        """Room for `size` values; the buffers grow a few times, then never again."""
        if len(self.host) >= size:
            return
        staged = torch.empty(2 * size, dtype=torch.int32, device=device)
        self.host = _pinned(2 * size, torch.int32)
        self.staged = staged
        # The copying stream writes here without the allocator's knowledge: what used this memory
        # before must be over.
        torch.cuda.current_stream(device).synchronize()


def fetch(result: Tensor) -> Fetch:
    """Start copying `result`, float32, to the host; the function that is returned waits for it.

    `result` may be overwritten by what the caller's stream does next.
    """
    if result.device.type != "cuda":
        copy = result.numpy().copy()
        return lambda: copy
    host = _pinned(result.shape, result.dtype)
    host.copy_(result, non_blocking=True)
    done = _event()
    done.record(torch.cuda.current_stream(result.device))

    def wait() -> NDArray[np.float32]:
        done.synchronize()
        return host.numpy()

    return wait


def _pinned(shape: int | torch.Size, dtype: torch.dtype) -> Tensor:
    """Memory that a device copies from and to; on the CPU, whatever torch's default device is."""
    return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=True)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]
