"""Where a model runs and in what precision: the caller's words as torch's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from packrank.errors import InputError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


Device = str | torch.device
Devices = Device | list[Device] | tuple[Device, ...]


def choose_devices(
    device: Devices, dtype: str | torch.dtype
) -> tuple[list[torch.device], torch.dtype | None]:
    """What `choose_device` makes of each of several names, or of the one.

    Raises:
        InputError: as there; or no name at all, or a CUDA device named twice.
    """
    names = list(device) if isinstance(device, list | tuple) else [device]
    if not names:
        raise InputError("device names no device; pass 'auto', 'cpu', 'cuda' or several 'cuda:N'")
    chosen = [choose_device(name, dtype) for name in names]
    places = [place.index or 0 for place, _ in chosen if place.type == "cuda"]
    if len(set(places)) < len(places):
        raise InputError(f"device is {names!r}, which names a device twice")
    if len({place.type for place, _ in chosen}) > 1:
        raise InputError(f"device is {names!r}; name CUDA devices only, or the CPU only")
    return [place for place, _ in chosen], chosen[0][1]


def choose_device(
    device: Device, dtype: str | torch.dtype
) -> tuple[torch.device, torch.dtype | None]:
    """What "auto" stands for on this machine, and what a name stands for anywhere.

    Args:
        device: "auto" (a CUDA device if torch sees one, else the CPU), or a name such as "cpu",
            "cuda" or "cuda:1"; or torch's own object.
        dtype: "auto", "float32", "bfloat16" or, on a CUDA device, "float16"; or torch's own.

    Returns:
        The device, and the dtype; None for "auto" on a CUDA device, where it depends on the model.

    Raises:
        InputError: no such device here, or another dtype.
    """
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    forked = torch.cuda._is_in_bad_fork()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(
            f"device is {device!r}, expected 'auto', 'cpu', 'cuda' or 'cuda:N'"
        ) from None
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device {device!r} is not supported; there are 'cpu' and 'cuda'")
    if chosen.type == "cuda" and forked:
        raise InputError(
            "CUDA was used before this process was forked, and cannot be used after; start the "
            'process by "spawn", fork before anything is loaded on the device, or use device "cpu"'
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {device!r} is not here: {cuda_devices()}; use 'cpu' or 'auto'")
    if dtype == "auto":
        return chosen, torch.float32 if chosen.type == "cpu" else None
    if dtype not in _DTYPES:
        names = ", ".join(f"'{name}'" for name in _DTYPES)
        raise InputError(f"dtype is {dtype!r}, expected 'auto' or one of {names}")
    if chosen.type == "cpu" and dtype == "float16":
        raise InputError("dtype 'float16' is for CUDA devices; on the CPU use 'bfloat16'")
    return chosen, _DTYPES[dtype]


def cuda_devices() -> str:
    """What torch knows of CUDA devices, in words."""
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) is built without CUDA"
    return f"torch sees {torch.cuda.device_count()} CUDA devices"


@contextmanager
def suppress_out_of_memory() -> Iterator[None]:
    """End the block, and no more, where a device or the machine has no memory left."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:  # torch has no type of its own for the CPU's, nor for a driver's
        if not any(words in str(error) for words in ("can't allocate memory", "out of memory")):
            raise
