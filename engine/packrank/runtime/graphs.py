"""Programs on a CUDA device: one graph of the whole forward a bucket of packs.

A launch costs the host about as long as a small kernel takes. A graph is launched once for all of
them, and wants the same shapes and addresses every time. So a pack is copied into the buffers of
its bucket, which has room for a little more: see `packrank.models.program`.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

import packrank_kernels
from packrank.models import CausalModel, Model
from packrank.models.program import Array, Extent, Program
from packrank.request import Int32
from packrank.runtime.capture import Capture, Forward
from packrank.runtime.streams import streams_of
from packrank.runtime.transfer import Fetch, Uploads, fetch, placed

# Packs of a bucket that run as they are before it is captured: many buckets see no more.
PATIENCE = 3
# A graph's nodes are memory of the driver's too. Beyond these the one longest unused makes room.
MAX_GRAPHS = 256
# Of a decoder's pack. Its forward of 24 layers takes the host 7 to 10 ms to launch, and a device at
# least 8 for as many tokens of half a billion weights (docs/gpu.md): the work of larger packs hides
# that, and what a bucket leaves empty costs them more. By arithmetic, not by measurement.
DECODER_TOKENS = 8192
# Of the device's memory, for activations that graphs hold on to.
MEMORY_SHARE = 0.25
# That forwards call.
_OPS = ("attention", "linear", "add_layer_norm", "add_rms_norm", "embed_layer_norm", "score_head")
_LEAST_TOKENS, _LEAST_SEQLEN, _LEAST_PREFIXED, _LEAST_SEQUENCES = 64, 64, 1024, 8

# Of the process: a capture fails when another thread waits for the whole device.
_TURN = threading.Lock()


def can_capture(model: Model) -> bool:
    """Whether no op of the model's forwards waits for its device."""
    return model.device.type == "cuda" and not ops_that_wait(model.device, model.dtype)


def ops_that_wait(device: torch.device, dtype: torch.dtype) -> list[str]:
    """Of the ops that forwards call, those without a backend there but the reference."""
    rows = packrank_kernels.backends(device, dtype)
    first = {op: next(name for name, reason in rows[op] if reason is None) for op in _OPS}
    return [op for op, name in first.items() if name == "reference"]


def bucket_of(extent: Extent, longest: int) -> Extent:
    """What a graph has room for that runs a pack of this extent.

    Tokens are at most an eighth more, from 64 on; sequences at most twice as many, from 8 on, since
    an empty one costs next to nothing; lengths are powers of two from 64 on, or `longest`, of
    which the model takes sequences. Behind a prefix kernels differ by whether there are more than
    64 queries, and by no other length: from there on the least is 1024, so that the many lengths of
    candidates share graphs.
    """
    tokens = max(extent.tokens, _LEAST_TOKENS)
    step = 1 << max((tokens - 1).bit_length() - 4, 0)

    is_prefixed = extent.max_seqlen_k > extent.max_seqlen

    def length(tokens: int) -> int:
        least = _LEAST_PREFIXED if is_prefixed and tokens > _LEAST_SEQLEN else _LEAST_SEQLEN
        return max(min(max(_power_of_two(tokens), least), longest), tokens)

    return Extent(
        tokens=-(-tokens // step) * step,
        sequences=max(_power_of_two(extent.sequences), _LEAST_SEQUENCES),
        max_seqlen=length(extent.max_seqlen),
        max_seqlen_k=length(extent.max_seqlen_k),
    )


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


class Graphs:
    """A model's programs on its device, graph by graph. Threads may share it; they take turns.

    A bucket's first packs run as they are, which compiles what is not compiled yet; then it is
    captured, unless graphs already hold their share of memory. Either way the same kernels run at
    the same shapes, on one stream for all models. What fits in no bucket, and a decoder's large
    packs, run as they are on the caller's.

    Args:
        model: whose programs they are.
        capture: forward -> the same, recorded; CUDA's unless a test brings its own.
    """

    def __init__(self, model: Model, capture: Callable[[Forward], Forward] | None = None) -> None:
        self.model = model
        self._capture = capture or Capture(model.device)
        self._stream = None
        if model.device.type == "cuda":
            self._stream = streams_of(model.device).packs
            # The weights may still be on their way.
            self._stream.wait_stream(torch.cuda.current_stream(model.device))
        self._uploads = Uploads(model.device)
        self._most_tokens = DECODER_TOKENS if isinstance(model, CausalModel) else None
        self._lanes: dict[tuple[object, ...], _Lane] = {}
        self._num_graphs = 0
        self._num_bytes = 0

    @property
    def num_graphs(self) -> int:
        """Graphs captured so far."""
        return self._num_graphs

    @property
    def num_bytes(self) -> int:
        """Of the device's memory that graphs hold on to."""
        return self._num_bytes

    def submit(self, program: Program) -> Fetch:
        """Start a program; what is returned waits, when called, for its float32 result.

        Raises:
            torch.OutOfMemoryError: the device has no room; nothing was started.
        """
        if not self._has_bucket(program):
            return fetch(self.model.run(program))
        with _TURN, self._on_stream():
            return fetch(self._run(program))

    def run(self, program: Program) -> Tensor:
        """The result of a program, for what the caller's stream does next.

        A copy: what a graph gives lies where the next replay of any graph may write.

        Raises:
            torch.OutOfMemoryError: the device has no room.
        """
        if not self._has_bucket(program):
            return self.model.run(program)
        with _TURN:
            with self._on_stream():
                found = self._run(program)
            kept = torch.empty(found.shape, dtype=found.dtype, device=found.device)
            if self._stream is None:
                return kept.copy_(found)
            caller = torch.cuda.current_stream(self.model.device)
            caller.wait_stream(self._stream)
            kept.copy_(found)
            self._stream.wait_stream(caller)
            return kept

    def _has_bucket(self, program: Program) -> bool:
        fits = self._most_tokens is None or program.extent.tokens <= self._most_tokens
        return program.may_have_room and fits

    def _run(self, program: Program) -> Tensor:
        """The program's own rows, which the next program may overwrite."""
        bucket = bucket_of(program.extent, self.model.config.max_length)
        key = program.kind, tuple(program.arrays), bucket
        # Buffers that were made in a caller's inference mode can be written in no other.
        with torch.inference_mode():
            lane = self._lanes.pop(key, None) or _Lane(program, bucket, self.model.device)
            self._lanes[key] = lane  # the last is the one used last
            lane.load(self._uploads, program.arrays)
            lane.uses += 1
            if lane.uses > PATIENCE and lane.replay is None and lane.may_capture:
                self._record(lane)
            return (lane.replay or lane.forward)()[program.own]

    def clear(self) -> None:
        """Give back all memory but the weights'."""
        with _TURN, self._on_stream():
            if self._stream is not None:
                self._stream.synchronize()  # graphs may still run
            self._lanes.clear()
            self._uploads = Uploads(self.model.device)
            self._num_graphs = self._num_bytes = 0
            if self._stream is not None:
                torch.cuda.empty_cache()

    def _record(self, lane: "_Lane") -> None:
        """Capture a lane's forward; where that cannot be, leave it as it is for good."""
        lane.may_capture = False
        device = self.model.device
        if self._num_bytes >= _total_memory(device) * MEMORY_SHARE:
            return
        if self._num_graphs >= MAX_GRAPHS:
            self._forget_one()
        before = _reserved_memory(device)
        try:
            lane.replay = self._capture(lane.forward)
        except RuntimeError:  # there is no room; or capture.broken() says what it is, once for all
            return
        self._num_graphs += 1
        self._num_bytes += max(_reserved_memory(device) - before, 0)

    def _forget_one(self) -> None:
        """Drop the graph that has not been used for longest; its memory stays in the pool."""
        oldest = next(lane for lane in self._lanes.values() if lane.replay is not None)
        if self._stream is not None:
            self._stream.synchronize()
        oldest.replay, oldest.uses, oldest.may_capture = None, 0, True
        self._num_graphs -= 1

    def _on_stream(self) -> AbstractContextManager[object]:
        """The stream that packs run on, and with it its device, as the current one."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


class _Lane:
    """The buffers of a bucket, and what runs on them."""

    def __init__(self, program: Program, bucket: Extent, device: torch.device) -> None:
        self.uses = 0
        self.may_capture = True
        self.replay: Forward | None = None
        rooms = {name: array.room(bucket) for name, array in program.arrays.items()}
        self._places, size = placed(rooms)
        self._buffer = torch.zeros(size, dtype=torch.int32, device=device)
        there = {name: self._buffer[place] for name, place in self._places.items()}
        self.forward: Forward = partial(program.forward, there, bucket)

    def load(self, uploads: Uploads, arrays: dict[str, Array]) -> None:
        """Copy a program's arrays into the buffers."""

        def fill_all(host: Int32) -> None:
            for name, place in self._places.items():
                arrays[name].fill(host[place])

        uploads.send(fill_all, self._buffer)


def _total_memory(device: torch.device) -> float:
    if device.type != "cuda":
        return float("inf")
    return float(torch.cuda.get_device_properties(device).total_memory)


def _reserved_memory(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
