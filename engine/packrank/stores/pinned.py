"""Documents to a CUDA device by way of pinned memory, beside what the device computes."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from packrank_kernels import TokenEmbeddings

# Every part of a run starts at a multiple of it, which suits every kernel's loads.
_ALIGNMENT = 256


class CopyStream:
    """Copies from pinned memory to a CUDA device, on a stream beside the caller's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # Of the priority of copies, none of whose streams is captured: see runtime.streams.
        self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def buffer(self, size: int) -> Tensor:
        """[size] uint8 that it can copy from."""
        return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)

    def mark(self) -> Any:
        """An event: what the caller's stream was told so far is done."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def copy(self, source: Tensor, target: Tensor, after: Any) -> Any:
        """Start a copy when an event has happened; the event that it is over."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(after)
            target.copy_(source, non_blocking=True)
            event.record(self._stream)
        return event

    def wait(self, event: Any) -> None:
        """What the caller's stream does next comes after an event."""
        torch.cuda.current_stream(self.device).wait_event(event)


class Slot:
    """A pinned buffer, and the one on the device that it is copied to.

    Attributes:
        scored: when what reads the buffer on the device is over.
    """

    def __init__(self, copies: CopyStream) -> None:
        self._copies = copies
        self._host = self._there = torch.empty(0, dtype=torch.uint8, device="cpu")
        self._copied: Any = None
        self.scored: Any = None

    def send(self, part: TokenEmbeddings) -> TokenEmbeddings:
        """Start to copy; what the caller's stream does next sees it."""
        first, last = int(part.cu_seqlens[0]), int(part.cu_seqlens[-1])
        sources = {"cu_seqlens": part.cu_seqlens - first}
        for name in ("values", "scales", "codes"):
            if (source := getattr(part, name)) is not None:
                sources[name] = source[first:last]
        places, size = {}, 0
        for name, source in sources.items():
            places[name] = slice(size, size + source.nbytes)
            size += -(-source.nbytes // _ALIGNMENT) * _ALIGNMENT
        self._reserve(size)
        there: dict[str, Any] = {}
        for name, source in sources.items():
            host, device = (
                x[places[name]].view(source.dtype).view(source.shape)
                for x in (self._host, self._there)
            )
            host.copy_(source)
            there[name] = device
        self._copied = self._copies.copy(self._host[:size], self._there[:size], self.scored)
        self._copies.wait(self._copied)
        return replace(part, **there)

    def _reserve(self, size: int) -> None:
        """Have room, when the last copy out of the pinned buffer is over."""
        if self._copied is not None:
            self._copied.synchronize()
        if len(self._host) < size:
            room = 1 << (size - 1).bit_length()
            self._host = self._copies.buffer(room)
            self._there = torch.empty(room, dtype=torch.uint8, device=self._copies.device)
            # Another stream will write here: what used this memory before must be over.
            self.scored = self._copies.mark()
