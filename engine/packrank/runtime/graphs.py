"""Logits of packs on a CUDA device: one graph of the whole forward a bucket of packs.

A launch costs the host about as long as a small kernel takes. A graph is launched once for all of
them, and wants the same shapes and addresses every time. So a pack is copied into the buffers of
its bucket, which has room for a little more: the tokens past its own belong to no sequence, and
the sequences past its own are empty. Nobody reads what becomes of them.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import packrank_kernels
from packrank.models import CausalModel, Model
from packrank.models.base import Inputs
from packrank.models.layers import Spans
from packrank.request import Int32, Pack
from packrank.runtime.capture import Capture, Forward
from packrank.runtime.transfer import Fetch, Uploads, fetch

# Packs of a bucket that run as they are before it is captured: many buckets see no more.
PATIENCE = 3
# A graph's nodes are memory of the driver's too. Beyond these the one longest unused makes room.
MAX_GRAPHS = 256
# Of the device's memory, for activations that graphs hold on to.
MEMORY_SHARE = 0.25
_LEAST_TOKENS, _LEAST_SEQLEN, _LEAST_SEQUENCES = 64, 64, 8

# Of the process: a capture fails when another thread waits for the whole device.
_TURN = threading.Lock()


def can_capture(model: Model) -> bool:
    """Whether every op has a backend on the model's device that does not wait for it.

    A decoder's packs run as they are: they are larger, and its layers' work hides the launches.
    """
    if model.device.type != "cuda" or isinstance(model, CausalModel):
        return False
    rows = packrank_kernels.backends(model.device, model.dtype)
    ops = ("attention", "linear", "add_layer_norm", "embed_layer_norm", "score_head")
    chosen = (next(name for name, reason in rows[op] if reason is None) for op in ops)
    return "reference" not in chosen


@dataclass(frozen=True)
class Bucket:
    """What a graph has room for.

    Attributes:
        tokens: T; at most an eighth more than a pack's, from 64 on.
        sequences: N; at most twice a pack's, from 8 on. An empty sequence costs next to nothing.
        max_seqlen: at least the longest of a pack.
    """

    tokens: int
    sequences: int
    max_seqlen: int

    @classmethod
    def of(cls, pack: Pack, longest: int) -> "Bucket":
        """The bucket of a pack, for a model that takes sequences of up to `longest` tokens."""
        tokens = max(len(pack.token_ids), _LEAST_TOKENS)
        step = 1 << max((tokens - 1).bit_length() - 4, 0)
        seqlen = max(_power_of_two(pack.max_seqlen), _LEAST_SEQLEN)
        return cls(
            tokens=-(-tokens // step) * step,
            sequences=max(_power_of_two(pack.num_sequences), _LEAST_SEQUENCES),
            max_seqlen=max(min(seqlen, longest), pack.max_seqlen),
        )


def _power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


class Graphs:
    """A model's forward on its device, graph by graph. Threads may share it; they take turns.

    A bucket's first packs run as they are, which compiles what is not compiled yet; then it is
    captured, unless graphs already hold their share of memory. Either way the same kernels run at
    the same shapes, on a stream of this object's own.

    Args:
        model: with a scoring head.
        capture: forward -> the same, recorded; CUDA's unless a test brings its own.
    """

    def __init__(self, model: Model, capture: Callable[[Forward], Forward] | None = None) -> None:
        self.model = model
        self._capture = capture or Capture(model.device)
        self._stream = None
        if model.device.type == "cuda":
            self._stream = torch.cuda.Stream(model.device)  # type: ignore[no-untyped-call]
            # The weights may still be on their way.
            self._stream.wait_stream(torch.cuda.current_stream(model.device))
        self._uploads = Uploads(model.device)
        self._lanes: dict[Bucket, _Lane] = {}
        self._num_graphs = 0
        self._num_bytes = 0

    @property
    def num_graphs(self) -> int:
        """Graphs captured so far."""
        return self._num_graphs

    def submit(self, pack: Pack) -> Fetch:
        """Start a pack; the result, when asked for, waits for its [N, num_labels] float32.

        Raises:
            torch.OutOfMemoryError: the device has no room; nothing was started.
        """
        bucket = Bucket.of(pack, self.model.config.max_length)
        arrays = self.model.arrays(pack)
        with _TURN, self._on_stream():
            lane = self._lanes.pop(bucket, None) or _Lane(self.model, bucket)
            self._lanes[bucket] = lane  # the last is the one used last
            lane.load(self._uploads, arrays, pack.cu_seqlens)
            lane.uses += 1
            if lane.uses > PATIENCE and lane.replay is None and lane.may_capture:
                self._record(lane)
            run = lane.replay or lane.forward
            return fetch(run()[: pack.num_sequences])

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
        """This object's stream, and with it its device, as the current one."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


class _Lane:
    """The buffers of a bucket, and what runs on them."""

    def __init__(self, model: Model, bucket: Bucket) -> None:
        self._model, self._bucket = model, bucket
        self.uses = 0
        self.may_capture = True
        self.replay: Forward | None = None
        nobody = np.zeros(0, dtype=np.int32)
        self._names = list(model.arrays(Pack(nobody, nobody, np.zeros(1, dtype=np.int32))))
        tokens, sequences = bucket.tokens, bucket.sequences
        sizes = [tokens] * len(self._names) + [sequences + 1]
        self._buffer = torch.zeros(sum(sizes), dtype=torch.int32, device=model.device)
        *arrays, self._cu_seqlens = torch.split(self._buffer, sizes)
        self._arrays = dict(zip(self._names, arrays, strict=True))

    def load(self, uploads: Uploads, arrays: dict[str, Int32], cu_seqlens: Int32) -> None:
        """Copy a pack into the buffers; ids past its own are 0, sequences past its own empty."""
        tokens = self._bucket.tokens

        def fill(host: Int32) -> None:
            for place, name in enumerate(self._names):
                _fill(host[place * tokens : (place + 1) * tokens], arrays[name], 0)
            _fill(host[len(self._names) * tokens :], cu_seqlens, cu_seqlens[-1])

        uploads.send(fill, self._buffer)

    def forward(self) -> Tensor:
        """[N, num_labels] float32 of what the buffers hold."""
        bucket = self._bucket
        inputs = Inputs(
            token_ids=self._arrays["token_ids"],
            positions=self._arrays.get("positions"),
            token_types=self._arrays.get("token_types"),
            spans=Spans.of(self._cu_seqlens, bucket.tokens, bucket.max_seqlen),
        )
        return self._model.score(inputs)


def _fill(target: Int32, values: Int32, rest: "int | np.int32") -> None:
    target[: len(values)] = values
    target[len(values) :] = rest


def _total_memory(device: torch.device) -> float:
    if device.type != "cuda":
        return float("inf")
    return float(torch.cuda.get_device_properties(device).total_memory)


def _reserved_memory(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
