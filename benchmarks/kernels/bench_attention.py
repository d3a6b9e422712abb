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


CANDIDATES, PREFIX, OWN = 20, 60, 100


@pytest.mark.parametrize(
    ("model", "heads", "key_heads", "size"),
    [("Qwen2.5-0.5B", 14, 2, 64), ("MiniCPM-2B", 36, 36, 64), ("Gemma-2B", 8, 1, 256)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def bench_shared_prefix(race, dtype, model, heads, key_heads, size):
    """Causal; torch's has the prefix in every sequence, as ours has without sharing it."""
    tokens = PREFIX + CANDIDATES * OWN
    shared = torch.randn(tokens, heads + 2 * key_heads, size).to(dtype)
    parts = shared.split([PREFIX, *[OWN] * CANDIDATES])
    whole = torch.stack([torch.cat([parts[0], own]) for own in parts[1:]])
    split = [heads, key_heads, key_heads]
    prefix_of = torch.tensor([-1] + [0] * CANDIDATES, dtype=torch.int32)
    cu_shared = cu_seqlens([PREFIX] + [OWN] * CANDIDATES)
    cu_whole = cu_seqlens([PREFIX + OWN] * CANDIDATES)

    def ours():
        q, k, v = shared.split(split, dim=1)
        return attention(q, k, v, cu_shared, cu_shared, causal=True, prefix_of=prefix_of)

    def ours_whole():
        q, k, v = whole.flatten(0, 1).split(split, dim=1)
        return attention(q, k, v, cu_whole, cu_whole, causal=True)

    def torch_sdpa():
        q, k, v = whole.transpose(1, 2).split(split, dim=1)
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True
        )

    expected = torch_sdpa().transpose(1, 2)[:, PREFIX:].flatten(0, 1)
    assert_close(ours()[PREFIX:], expected)
    own = ours_whole().unflatten(0, (CANDIDATES, -1))[:, PREFIX:].flatten(0, 1)
    assert torch.equal(ours()[PREFIX:], own)
    case = f"{model}, {CANDIDATES} x {OWN} tokens after {PREFIX}, {str(dtype)[6:]}"
    contestants = {"packrank": ours, "packrank, not shared": ours_whole, "torch SDPA": torch_sdpa}
    race("attention of a shared prefix", case, contestants, CANDIDATES, "sequence", rounds=15)
