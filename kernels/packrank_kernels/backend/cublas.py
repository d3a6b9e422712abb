"""Linear layers by cuBLASLt, through torch."""

import torch
from torch import Tensor
from torch.nn import functional as F

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_not(
    device: torch.device,
    dtype: torch.dtype,
    *,
    activation: str | None = None,
    gated: bool = False,
    wide: bool = False,
    deterministic: bool = False,
    **facts: object,
) -> str | None:
    """None where cuBLASLt computes such a layer in one pass."""
    if device.type != "cuda":
        return f"the tensors are on {device}, not on a CUDA device"
    if dtype not in _DTYPES:
        return f"the tensors are {dtype}, not torch.float32, torch.bfloat16 or torch.float16"
    if gated:
        return "cuBLASLt has no gated epilogue"
    if wide and dtype != torch.float32:
        return "torch has it round sums to the dtype of the weight"
    if activation is not None:  # its GELU is the tanh form, and what it makes of NaN is not told
        return f"cuBLASLt has no exact {activation} epilogue"
    if deterministic:
        return "cuBLAS sums in an order that depends on the number of rows"
    return None


def linear(
    x: Tensor, weight: Tensor, bias: Tensor, activation: None, gated: bool, wide: bool = False
) -> Tensor:
    """Products and bias, which is in the dtype of x; see `linear.linear`."""
    return F.linear(x, weight, bias)
