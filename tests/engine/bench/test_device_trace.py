"""A device's time, op by op, from the events of a profiler."""

from typing import Any

import pytest
import torch

from packrank.bench.speed.device_trace import attributed, busy_s, traced
from packrank.bench.speed.profile import Op, counted
from packrank_kernels import linear, pack_linear


def event(category: str, name: str, start: float, length: float, **arguments: Any) -> Any:
    return {"cat": category, "name": name, "ts": start, "dur": length, "args": arguments}


def test_kernels_count_for_the_op_that_launched_them() -> None:
    """Wherever and whenever they ran; what no op launched goes by its own name."""
    events = [
        event("user_annotation", "packrank op linear", 10.0, 5.0),
        event("user_annotation", "packrank op attention", 20.0, 5.0),
        event("user_annotation", "another's", 0.0, 99.0),
        event("cuda_runtime", "cudaLaunchKernel", 11.0, 1.0, correlation=1),
        event("cuda_driver", "cuLaunchKernelEx", 14.0, 1.0, correlation=2),
        event("cuda_driver", "cuLaunchKernelEx", 21.0, 1.0, correlation=3),
        event("cuda_runtime", "cudaLaunchKernel", 17.0, 1.0, correlation=4),
        event("kernel", "gemm", 30.0, 7.0, correlation=1),
        event("kernel", "gelu", 40.0, 2.0, correlation=2),
        event("kernel", "tiles", 42.0, 4.0, correlation=3),
        event("kernel", "fill", 46.0, 1.0, correlation=4),
    ]
    order = [Op("linear", "products", 1), Op("attention", "attention", 1)]
    found = attributed(events, order)
    microseconds = [(op.name, op.calls, round(op.seconds * 1e6, 6)) for op in found]
    assert microseconds == [("linear", 1, 9.0), ("attention", 1, 4.0), ("outside: fill", 1, 1.0)]
    assert found[0].kernels == {"gemm", "gelu"}


def test_a_device_is_busy_once_however_many_streams_are() -> None:
    events = [
        event("kernel", "a", 0.0, 10.0),
        event("gpu_memcpy", "b", 2.0, 3.0),
        event("kernel", "c", 8.0, 6.0),
        event("kernel", "d", 20.0, 1.0),
        event("cpu_op", "e", 0.0, 100.0),
    ]
    assert busy_s(events) == pytest.approx(15e-6)


def test_without_a_device_an_op_takes_what_it_takes_the_host() -> None:
    layer, x = pack_linear(torch.randn(8, 16)), torch.randn(4, 16)

    def call() -> None:
        linear(x, layer)
        linear(x, layer)

    [op] = traced(call, counted(call))
    assert op.calls == 2
    assert op.seconds > 0
    assert op.operations == 2 * 2 * 4 * 16 * 8
