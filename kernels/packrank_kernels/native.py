"""The C++ module as functions on tensors: raw pointers and strides go no further than this file.

The module is optional: where it is not built, every call is refused with a sentence and the
reference runs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    from packrank_kernels import _cpu
except ImportError as error:  # pragma: no cover - depends on the build
    _cpu = None  # type: ignore[assignment]
    _missing = f"packrank_kernels._cpu is not built ({error}); reinstall with g++ present"

ISAS = ("avx512", "avx2", "scalar")
_DTYPES = {torch.float32: 0, torch.bfloat16: 1}


def op(name: str, isa: str) -> Callable[..., Any]:
    return lambda *a: None


def _unused(name: str, isa: str) -> Callable[..., Any]:
    raise AssertionError


def why_not(isa: str) -> Callable[[torch.device, torch.dtype], str | None]:
    return lambda device, dtype: "not built"


def pack_linear(isa: str, weight: Tensor, gated: bool) -> Tensor:
    raise NotImplementedError


def set_num_threads(num_threads: int) -> None:
    pass
