"""What a device did, from torch.profiler's trace: how long it was busy, and with which ops."""

import bisect
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from packrank.bench.speed.profile import Op, added
from packrank_kernels import OpCall, observed

Event = dict[str, Any]
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver")
_RANGE = "packrank op "


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


def traced(call: Callable[[], object], order: list[Op]) -> list[Op]:
    """The ops of a call with how long the device took for each, added up, slowest first.

    Kernels outside any op go by their own names. Where there is no device, an op's seconds are the
    host's.

    Args:
        call: launches the ops; not from a graph, which launches none.
        order: those that `profile.counted` found in it.
    """
    turn = iter(order)

    def marking(op: OpCall) -> Any:
        with record_function(_RANGE + next(turn).name):
            return op()

    def marked() -> None:
        with observed(marking):
            call()

    return attributed(trace(marked, host=True), order)


def attributed(events: list[Event], order: list[Op]) -> list[Op]:
    """Ops with the time of the kernels that were launched in their ranges; see `traced`."""
    ranges = sorted(
        (e["ts"], e["ts"] + e["dur"], e["name"].removeprefix(_RANGE))
        for e in events
        if e.get("cat") == "user_annotation" and e["name"].startswith(_RANGE)
    )
    found = {op.name: op for op in added(order)}
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
        op = found.setdefault(name, Op(name, "outside of ops"))
        op.seconds += event["dur"] * 1e-6
        op.kernels.add(event["name"])
        op.calls += not inside
    if not on_device:
        for start, stop, name in ranges:
            found[name].seconds += (stop - start) * 1e-6
    return sorted(found.values(), key=lambda op: -op.seconds)
