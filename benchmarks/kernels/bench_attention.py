"""Packed attention against torch's own, on sequences of one length (no padding for either)."""

import pytest
import torch

from packrank_kernels import attention, reference
from packrank_kernels.testing import assert_close, cu_seqlens

TOKENS, HEADS = 4096, 12


@pytest.mark.parametrize("length", [64, 128, 256, 512])
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def bench_attention(race, dtype, size, length):
    count = TOKENS // length
    qkv = torch.randn(TOKENS, 3, HEADS, size).to(dtype)
    q, k, v = qkv.unbind(1)
    cu = cu_seqlens([length] * count)
    batch = qkv.view(count, length, 3, HEADS, size).permute(2, 0, 3, 1, 4)

    def ours():
        return attention(q, k, v, cu, cu)

    def torch_sdpa():
        return torch.nn.functional.scaled_dot_product_attention(*batch)

    expected = reference.attention(q, k, v, cu, cu, size**-0.5, None, None)
    assert_close(ours(), expected)
    operations = 4 * count * length * length * HEADS * size
    case = f"{HEADS} heads x {size}, {count} x {length} tokens, {str(dtype)[6:]}"
    contestants = {"packrank": ours, "torch SDPA": torch_sdpa}
    race("attention", case, contestants, operations / 1e9, "GFLOP", rounds=15)
