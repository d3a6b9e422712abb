"""A Hopper device for torch and Triton, in a process that has none.

Triton's own JIT, launcher and driver run, over libcuda.cpp, which checks and writes down what they
tell a device. Tensors lie in the host's memory and say that they are on the device: what torch
computes is computed, what a kernel should have written is left as it was.
"""

import contextlib
import ctypes
import json
import os
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from compiled import digest, kept
from torch.overrides import TorchFunctionMode

CAPABILITY, PROCESSORS = (9, 0), 132
DEVICE = torch.device("cuda", 0)
MEMORY = 1 << 60  # what an address of the device's has more than the host's
_SOURCE = Path(__file__).with_name("libcuda.cpp")


class DeviceTensor(torch.Tensor):
    """One that says it is on the device, as does all that is made of it."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def get_device(self) -> int:
        return 0

    def data_ptr(self) -> int:
        address = super().data_ptr()
        return address and address + MEMORY


class _Placement(TorchFunctionMode):
    """Has every function of torch that is told a device put there what it makes."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        places = [place for place in (*args, kwargs.get("device")) if _is_place(place)]
        if function in (torch.Tensor.cuda, torch.Tensor.cpu):
            places = ["cuda" if function is torch.Tensor.cuda else "cpu"]
            function = torch.clone
        if not places or function is torch.device:
            return function(*args, **kwargs)
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        args = ["cpu" if _is_place(argument) else argument for argument in args]
        out = function(*args, **kwargs)
        is_there = torch.device(places[0]).type == "cuda"
        return out.as_subclass(DeviceTensor if is_there else torch.Tensor)


def _is_place(value: object) -> bool:
    if isinstance(value, str):
        return value == "cpu" or value.startswith("cuda")
    return isinstance(value, torch.device)


class Device:
    """The device, from here on and in this process.

    Args:
        folder: where its library is kept.
    """

    def __init__(self, folder: Path) -> None:
        if torch.cuda.is_available():
            raise RuntimeError("there is a device, and no need to pretend one")
        library = build(folder)
        os.environ["TRITON_LIBCUDA_PATH"] = str(library.parent)
        # Whoever opens libcuda.so.1 by its name after this gets this one.
        self.library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        self.library.pretend_take_records.restype = ctypes.c_char_p
        _stand_in_for_torch()
        _Placement().__enter__()
        self._drive_triton()

    def _drive_triton(self) -> None:
        from triton.backends.nvidia.driver import CudaDriver
        from triton.runtime import driver

        driver.set_active(CudaDriver())
        driver.active.get_current_stream = lambda device: 1

    def take_records(self) -> list[dict[str, Any]]:
        """What it was told since this was asked last: kernels loaded, maps encoded, launches."""
        return [json.loads(line) for line in self.library.pretend_take_records().splitlines()]


def build(folder: Path) -> Path:
    """The library, compiled where it has changed."""
    [package] = find_spec("triton").submodule_search_locations  # type: ignore[union-attr]
    include = Path(package) / "backends/nvidia/include"
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    flags += ["-Wl,-soname,libcuda.so.1", f"-DDEVICE_MEMORY={MEMORY}", f"-DPROCESSORS={PROCESSORS}"]
    version = subprocess.check_output(["g++", "--version"], text=True)
    home = folder / f"libcuda-{digest(version, *flags, _SOURCE, include / 'cuda.h')}"
    home.mkdir(parents=True, exist_ok=True)
    return kept(
        home / "libcuda.so.1",
        lambda path: subprocess.run(
            ["g++", *flags, f"-I{include}", _SOURCE, "-o", path], check=True
        ),
    )


def _stand_in_for_torch() -> None:
    """What of torch.cuda is asked for on the way to a launch."""
    properties = SimpleNamespace(multi_processor_count=PROCESSORS, total_memory=80 << 30)
    stands: dict[str, Callable[..., Any]] = {
        "current_device": lambda: 0,
        "device": lambda device: contextlib.nullcontext(),
        "empty_cache": lambda: None,
        "get_device_capability": lambda device=None: CAPABILITY,
        "get_device_properties": lambda device=None: properties,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
    }
    for name, stand in stands.items():
        setattr(torch.cuda, name, stand)
