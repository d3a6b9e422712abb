"""Where the Triton kernels run. Imports no Triton: that takes a while, and it may be missing."""

import functools
import sys
from importlib.util import find_spec

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_not(
    device: torch.device,
    dtype: torch.dtype,
    *,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    head_size: int = 1,
    **facts: object,
) -> str | None:
    """None where the Triton kernels take tensors of this device and dtype."""
    if not _is_installed():
        return "the package triton is not installed"
    kind = device.type
    if kind == "cuda":
        if _capability(device) < (8, 0):
            return "the device's compute capability is below 8.0"
    elif kind != "cpu" or not _is_interpreted():
        return f"the tensors are on {device}, not on a CUDA device"
    if dtype not in dtypes:
        return f"the tensors are {dtype}, not {' or '.join(map(str, dtypes))}"
    if head_size > 256:
        return f"the head size is {head_size}, more than 256"
    if kind == "cpu" and dtype == torch.bfloat16:
        return "Triton's interpreter computes bfloat16 wrongly"
    return None


@functools.cache
def _is_installed() -> bool:
    return find_spec("triton") is not None


def _is_interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter, on the CPU: only tests ask for that."""
    knobs = sys.modules.get("triton.knobs")
    return knobs is not None and knobs.runtime.interpret


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
