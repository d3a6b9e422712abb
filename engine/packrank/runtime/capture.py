"""A forward as a CUDA graph, and order where there can be none."""

import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from packrank.runtime.device import suppress_out_of_memory
from packrank.runtime.streams import streams_of

Forward = Callable[[], Tensor]

# Why this process captures no more; None: it does. After a capture that could not be ended the
# driver and torch's allocator may be in any state that no other capture should be built upon.
_broken: str | None = None


def broken() -> str | None:
    """Why this process captures no more; None while it does."""
    return _broken


def why_not(device: torch.device) -> str | None:
    """Why no graph works on a CUDA device, by trying a small one; None: it does."""
    source = torch.zeros(1, dtype=torch.float32, device=device)
    target = torch.zeros(1, dtype=torch.float32, device=device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # it is said here
            replay = Capture(device)(lambda: target.copy_(source))
        source.fill_(1.0)
        found = float(replay())
    except RuntimeError as error:
        return _reason(error)
    return None if found == 1.0 else f"a replay gave {found:g} in place of 1"


class Capture:
    """Records forwards of one device into graphs, which share a pool of memory.

    On a stream of its own: what other threads do meanwhile with the one that packs run on, such as
    giving a pinned result back, is then no part of the graph, and does not break it.

    Args:
        device: where the forwards run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = streams_of(device).captures
        self._pool: Any = None
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()  # of the pool

    def __call__(self, forward: Forward) -> Forward:
        """The forward, recorded: what it returns lies where it lay, and holds what it then would.

        To be called with the stream current that the caller's packs run on.

        Raises:
            torch.OutOfMemoryError: there is no room for it; another may fit.
            RuntimeError: it cannot be recorded; `broken` says why, and nothing more is.
        """
        if _broken is not None:
            raise RuntimeError(_broken)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            forward()  # this thread's cuBLAS handle and workspace are made here, not within
            self._stream.synchronize()
            # Room is made after the except clause: until then the error keeps what it met alive.
            with suppress_out_of_memory():
                return self._record(forward)
            if _broken is not None:
                raise RuntimeError(_broken)
            torch.cuda.empty_cache()  # a capture cannot do that for itself
            return self._record(forward)

    def _record(self, forward: Forward) -> Forward:
        graph = torch.cuda.CUDAGraph()
        if not self._graphs:  # a pool that its last graph has left torch takes no more
            self._pool = torch.cuda.graph_pool_handle()
        self._graphs.add(graph)
        try:
            # thread_local: another thread may wait for a result meanwhile.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            out = forward()
        except BaseException as error:
            self._end(graph, error)
            raise
        self._end(graph, None)

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay

    def _end(self, graph: torch.cuda.CUDAGraph, cause: BaseException | None) -> None:
        """End a capture; where that fails, leave the allocator as it was, and capture no more."""
        try:
            graph.capture_end()
        except RuntimeError as error:
            # Up to 2.11 torch leaves its allocator in the capture; later ones have ended it.
            with suppress(RuntimeError):
                index = self._stream.device_index
                torch._C._cuda_endAllocateToPool(index, self._pool)
                torch._C._cuda_releasePool(index, self._pool)
            _stop(cause or error)
            if cause is None:
                raise


def _stop(cause: BaseException) -> None:
    global _broken
    _broken = _reason(cause)
    warnings.warn(
        f"a CUDA graph could not be captured ({_broken}); packs run without graphs from here on, "
        "with the same scores, and small ones slower",
        RuntimeWarning,
        stacklevel=2,
    )


def _reason(error: BaseException) -> str:
    """The first line of what it says."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
