"""What a device did, from torch.profiler's trace: how long it was busy, and with which ops."""

import bisect
import functools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

import packrank_kernels

Event = dict[str, Any]
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver")
_RANGE = "packrank op "


@dataclass
class Work:
    """Calls of one op at one shape, by arithmetic and on the device.

    Attributes:
        operations: of all calls.
        moved: bytes that all calls must read and write.
        calls: how many there were.
        seconds: that their kernels ran.
        kernels: names of those.
    """

    operations: float = 0.0
    moved: float = 0.0
    calls: int = 0
    seconds: float = 0.0
    kernels: set[str] = field(default_factory=set)


def trace(call: Callable[[], object], *, host: bool) -> list[Event]:
    """The events of a call. `host` adds the host's, which cost it time."""
    on_device = torch.cuda.is_available()
    activities = [ProfilerActivity.CUDA] if on_device else []
    if host or not on_device:
        activities.append(ProfilerActivity.CPU)
    with profile(activities=activities) as profiler:
        call()
        if on_device:
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events: list[Event] = json.loads(path.read_text())["traceEvents"]
    return [event for event in events if event.get("ph") == "X"]


def busy_s(events: list[Event]) -> float:
    """Seconds in which the device did anything: overlapping kernels and copies count once."""
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") in _ON_DEVICE)
    total = end = 0.0
    for start, stop in spans:
        total += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return total * 1e-6


def count(call: Callable[[], object]) -> tuple[dict[str, Work], list[str]]:
    """What a call does, op by op and shape by shape, by arithmetic; and the ops in their order."""
    found: dict[str, Work] = {}
    order: list[str] = []

    def counting(function: Any, work_of: Any, *args: Any, **options: Any) -> Any:
        name, operations, moved = work_of(*args, **options)
        work = found.setdefault(name, Work())
        work.operations += operations
        work.moved += moved
        work.calls += 1
        order.append(name)
        return function(*args, **options)

    with _replaced(counting):
        call()
    return found, order


def add_times(call: Callable[[], object], found: dict[str, Work], order: list[str]) -> None:
    """Add to what `count` found how long it takes; kernels outside any op go by their own names.

    Counting asks the device for lengths, so the call that is traced does not count. Where there is
    no device, an op's seconds are the host's.
    """
    turn = iter(order)

    def marking(function: Any, work_of: Any, *args: Any, **options: Any) -> Any:
        with record_function(_RANGE + next(turn)):
            return function(*args, **options)

    with _replaced(marking):
        events = trace(call, host=True)
    attribute(events, found)


def attribute(events: list[Event], found: dict[str, Work]) -> None:
    """Add each kernel's time to the op in whose range it was launched."""
    ranges = sorted(
        (e["ts"], e["ts"] + e["dur"], e["name"].removeprefix(_RANGE))
        for e in events
        if e.get("cat") == "user_annotation" and e["name"].startswith(_RANGE)
    )
    starts = [start for start, *_ in ranges]
    launched = {
        e["args"]["correlation"]: e["ts"]
        for e in events
        if e.get("cat") in _LAUNCHES and "correlation" in e.get("args", {})
    }
    on_device = [e for e in events if e.get("cat") in _ON_DEVICE]
    for event in on_device:
        time = launched.get(event.get("args", {}).get("correlation"), -1.0)
        place = bisect.bisect_right(starts, time) - 1
        inside = place >= 0 and time < ranges[place][1]
        name = ranges[place][2] if inside else f"outside: {event['name'][:60]}"
        work = found.setdefault(name, Work())
        work.seconds += event["dur"] * 1e-6
        work.kernels.add(event["name"])
        work.calls += not inside
    if not on_device:
        for start, stop, name in ranges:
            found[name].seconds += (stop - start) * 1e-6


@contextmanager
def _replaced(instead: Callable[..., Any]) -> Iterator[None]:
    """Every op that the engine calls meanwhile goes through `instead(function, work_of, ...)`."""
    replaced = []
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("packrank."):
            for op, work_of in _WORK_OF.items():
                function = getattr(packrank_kernels, op)
                if getattr(module, op, None) is function:
                    replaced.append((module, op, function))
                    setattr(module, op, functools.partial(instead, function, work_of))
    try:
        yield
    finally:
        for module, op, function in replaced:
            setattr(module, op, function)


Counted = tuple[str, float, float]


def _bytes(*tensors: Any) -> float:
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)


def _linear(x: Any, layer: Any) -> Counted:
    wide = layer.out_features * (1 + layer.gated)
    what = f" {layer.activation}" if layer.activation else ""
    what += " gated" if layer.gated else ""
    name = f"linear {layer.in_features} -> {layer.out_features}{what}, {layer.backend}"
    out = len(x) * layer.out_features * x.element_size()
    return name, 2.0 * len(x) * layer.in_features * wide, _bytes(x, layer.data) + out


def _attention(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, **options: Any) -> Counted:
    window, prefix_of = options.get("window"), options.get("prefix_of")
    lengths_q, lengths_k = cu_q.diff().tolist(), cu_k.diff().tolist()
    owners = [-1] * len(lengths_k) if prefix_of is None else prefix_of.tolist()
    pairs = 0
    for queries, own, owner in zip(lengths_q, lengths_k, owners, strict=True):
        keys = own if owner < 0 else lengths_k[owner] + own
        behind = keys + queries if window is None else window
        causal = options.get("causal", False)
        first, ahead = (keys - queries, 0) if causal else (0, behind)
        pairs += sum(
            max(min(i + ahead, keys - 1) - max(i - behind, 0) + 1, 0)
            for i in range(first, first + queries)
        )
    heads, size = q.shape[1:]
    name = f"attention {heads} x {size}"
    name += "" if window is None else f", window {window}"
    name += "" if prefix_of is None else ", shared prefix"
    name += "" if sum(lengths_q) == sum(lengths_k) else ", a token a sequence"
    return name, 4.0 * pairs * heads * size, _bytes(q, k, v, q)


def _add_layer_norm(x: Any, residual: Any, *rest: Any, **options: Any) -> Counted:
    passes = 2 if residual is None else 4
    return f"add_layer_norm {x.shape[1]}, {len(x)} rows", 0.0, passes * _bytes(x)


def _add_rms_norm(x: Any, residual: Any, *rest: Any, **options: Any) -> Counted:
    passes = 2 if residual is None else 4
    return f"add_rms_norm {x.shape[1]}, {len(x)} rows", 0.0, passes * _bytes(x)


def _embed_layer_norm(ids: Any, positions: Any, types: Any, table: Any, *rest: Any) -> Counted:
    rows = 2 * len(ids) * table.shape[1] * table.element_size()
    return f"embed_layer_norm {table.shape[1]}", 0.0, _bytes(ids, positions, types) + rows


def _score_head(hidden: Any, head: Any, rows: Any = None) -> Counted:
    read = hidden if rows is None else hidden[: len(rows)]
    return "score_head", 0.0, _bytes(read, head.dense, head.out)


_WORK_OF = {
    "linear": _linear,
    "attention": _attention,
    "add_layer_norm": _add_layer_norm,
    "add_rms_norm": _add_rms_norm,
    "embed_layer_norm": _embed_layer_norm,
    "score_head": _score_head,
}
