"""Where the host would wait for a CUDA device, found without one: a model on the meta device."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
import torch
from source_tree import ENGINE, KERNELS
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from packrank.request import Int32
from packrank_kernels import dispatch
from packrank_kernels.packed import PackedHead

# They read what a device has computed, if only to know the shape of what they give.
READS = {
    f"aten::{name}"
    for name in (
        *("_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount"),
        *("_unique2", "unique_dim", "unique_consecutive"),
    )
}
# Of positions: a table, made when a sequence comes that is longer than all before it.
NOW_AND_THEN = {("models/layers.py", "_make"), ("models/relative.py", "_make")}


class SyncDetector(TorchDispatchMode):
    """Fails, on the way out, if the host had to wait for the device within, or copied to it.

    The device is "meta": what is there has a shape and no values, so nothing can be read either.

    Attributes:
        uploads: how often `upload` was called.
        faults: what else went from host to device or back, and where.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uploads = 0
        self.faults: list[str] = []
        self._numbers = _NumbersToDevice(self)

    def upload(self, arrays: dict[str, Int32]) -> dict[str, Tensor]:
        """Stands for `PackUploads`, the one way from host to device."""
        self.uploads += 1
        assert {(array.dtype, array.ndim) for array in arrays.values()} == {(np.dtype("int32"), 1)}
        return {
            name: torch.empty(len(array), dtype=torch.int32, device="meta")
            for name, array in arrays.items()
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if is_wait(name, args, kwargs):
            self.found(name)
        return func(*args, **kwargs)

    def found(self, name: str) -> None:
        """Note a wait, unless it may be there."""
        where = place()
        if where is not None:
            self.faults.append(f"{where}: {name}")

    def __enter__(self) -> "SyncDetector":
        super().__enter__()
        self._numbers.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._numbers.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)
        if self.faults:
            raise AssertionError("\n".join(self.faults)) from error


class _NumbersToDevice(TorchFunctionMode):
    """Finds torch.tensor(numbers, device=...), which copies without an op that is dispatched."""

    def __init__(self, detector: SyncDetector) -> None:
        super().__init__()
        self._detector = detector

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        device = torch.device(kwargs.get("device") or "cpu")
        if func in (torch.tensor, torch.as_tensor) and device.type == "meta":
            self._detector.found(f"torch.{func.__name__}")
        return func(*args, **kwargs)


def is_wait(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call of an op of torch copies between host and device, or reads what is there."""
    if name == "aten::_to_copy":
        return torch.device(kwargs.get("device") or args[0].device).type != args[0].device.type
    if name == "aten::copy_":
        return args[0].device.type != args[1].device.type
    there = [
        x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.device.type == "meta"
    ]
    if not there:
        return False
    if name == "aten::repeat_interleave":
        return kwargs.get("output_size") is None
    if name.startswith("aten::index"):  # by a mask, or by numbers that are still to be copied
        indices = [x for x in tree_leaves(args[1]) if isinstance(x, Tensor)]
        return any(x.dtype in (torch.bool, torch.uint8) or x.device.type == "cpu" for x in indices)
    return name in READS


def place() -> str | None:
    """The line of the project that is being run; None where it may wait now and then."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        for root in (ENGINE, KERNELS):
            if path.is_relative_to(root):
                name = path.relative_to(root).as_posix()
                known = (name, frame.f_code.co_name) in NOW_AND_THEN
                return None if known else f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def shapes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every op that a forward calls checks its arguments, and gives what has the right shape."""

    def add_norm(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x), torch.empty_like(x)

    def linear(x: Tensor, weight: Tensor, bias: Tensor, activation: Any, gated: bool) -> Tensor:
        return x.new_empty(len(x), len(weight) // (2 if gated else 1))

    def embed(ids: Tensor, positions: Any, types: Any, table: Tensor, *rest: Any) -> Tensor:
        return table.new_empty(len(ids), table.shape[1])

    def head(hidden: Tensor, rows: Tensor | None, head: PackedHead) -> Tensor:
        return head.out.new_empty(len(hidden if rows is None else rows), len(head.out))

    runs: dict[str, Callable[..., Any]] = {
        "attention": lambda q, *rest, **options: q.new_empty(q.shape),
        "linear": linear,
        "add_layer_norm": add_norm,
        "add_rms_norm": add_norm,
        "embed_layer_norm": embed,
        "score_head": head,
    }
    for op, run in runs.items():
        backend = dispatch.Backend("shapes", run, lambda device, dtype, **facts: None)
        monkeypatch.setitem(dispatch.TABLE, op, (backend,))
