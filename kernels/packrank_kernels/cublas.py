"""Linear layers by cuBLASLt, through torch."""

import torch
from torch import Tensor
from torch.nn import functional as F

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# What a cuBLASLt epilogue computes. Its GELU is the tanh form: an exact one would be another pass.
_EPILOGUES = (None, "relu", "gelu_tanh")


def why_not(
    device: torch.device,
    dtype: torch.dtype,
    *,
    activation: str | None = None,
    gated: bool = False,
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
    if activation not in _EPILOGUES:
        return f"cuBLASLt has no exact {activation} epilogue"
    if deterministic:
        return "cuBLAS sums in an order that depends on the number of rows"
    return None


def linear(x: Tensor, weight: Tensor, bias: Tensor, activation: str | None, gated: bool) -> Tensor:
    """activation(x weightᵀ + bias), bias in the dtype of x; see `linear.linear`."""
    if activation is None:
        return F.linear(x, weight, bias)
    # torch names no public function for the fused epilogue.
    out: Tensor = torch._addmm_activation(bias, x, weight.t(), use_gelu=activation != "relu")
    return out
