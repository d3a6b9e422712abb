"""A forward as a CUDA graph, and order where there can be none."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

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
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = None

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
            try:
                return self._record(forward)
            except torch.OutOfMemoryError:
                if _broken is None:
                    torch.cuda.empty_cache()  # a capture cannot do that for itself
                    return self._record(forward)
                raise

    def _record(self, forward: Forward) -> Forward:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread may wait for a result meanwhile.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
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
            _stop(cause or error)
            pool, self._pool = self._pool, None
            index = self._stream.device_index
            # Up to 2.11 torch leaves its allocator in the capture; later ones have ended it.
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(index, pool)
                torch._C._cuda_releasePool(index, pool)
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
