"""Linear layers of the usual encoders, with and without exact GELU, against torch's own."""

import pytest
import torch
from torch.nn import functional as F

from packrank_kernels import linear, pack_linear, reference
from packrank_kernels.testing import assert_close

TOKENS = 2048


@pytest.mark.parametrize("shape", [(384, 1152), (384, 1536), (1536, 384), (768, 3072), (3072, 768)])
@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def bench_linear(race, dtype, activation, shape):
    inputs, outputs = shape
    x = torch.randn(TOKENS, inputs).to(dtype)
    weight = (torch.randn(outputs, inputs) / inputs**0.5).to(dtype)
    bias = torch.randn(outputs)
    layer, narrow_bias = pack_linear(weight, bias, activation=activation), bias.to(dtype)

    def ours():
        return linear(x, layer)

    def torch_linear():
        y = F.linear(x, weight, narrow_bias)
        return F.gelu(y) if activation else y

    assert_close(ours(), reference.linear(x, weight, bias, activation, False))
    operations = 2 * TOKENS * inputs * outputs
    case = f"{TOKENS} x {inputs} -> {outputs}, {activation or 'bias'}, {str(dtype)[6:]}"
    contestants = {"packrank": ours, "torch": torch_linear}
    race("linear", case, contestants, operations / 1e9, "GFLOP", rounds=15)
