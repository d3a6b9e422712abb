"""A step of one token a sequence over a cache in pages, against torch's attention over one without.

What bounds it is memory: keys and values are read once, from more of them than the caches hold.
"""

import numpy as np
import pytest
import torch

from packrank_kernels import Pages, paged_attention
from packrank_kernels.testing import assert_close, cu_seqlens

SEQUENCES, LENGTH, PAGE = 16, 1500, 16
LAYERS = 8  # of which each has a cache of its own


@pytest.mark.parametrize(
    ("model", "heads", "key_heads", "size"), [("Qwen2.5-0.5B", 14, 2, 64), ("Mistral", 32, 8, 128)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def bench_paged_attention(race, dtype, model, heads, key_heads, size):
    most = -(-LENGTH // PAGE)
    numbers = np.random.default_rng(0).permutation(SEQUENCES * most).astype(np.int32)
    table = torch.from_numpy(numbers).view(SEQUENCES, most)
    lengths = torch.full((SEQUENCES,), LENGTH, dtype=torch.int32)
    q = torch.randn(SEQUENCES, heads, size).to(dtype)
    k, v = torch.randn(2, SEQUENCES, key_heads, size).to(dtype)
    shape = (LAYERS, 2, SEQUENCES * most, key_heads, PAGE, size)
    caches = torch.randn(shape, dtype=dtype).transpose(3, 4)
    # [LAYERS, 2, N, Hk, L, D], without pages and with the newest token in its place.
    flat = caches[:, :, table.long()].flatten(3, 4)[:, :, :, :LENGTH].transpose(3, 4).contiguous()
    flat[..., -1, :] = torch.stack([k, v])
    cu = cu_seqlens([1] * SEQUENCES)

    def ours():
        pages = (Pages(keys, values, table, lengths) for keys, values in caches)
        return [paged_attention(q, k, v, each, cu, cu, max_seqlen_q=1) for each in pages][-1]

    def torch_sdpa():
        attend = torch.nn.functional.scaled_dot_product_attention
        return [attend(q[:, :, None], *each, enable_gqa=True)[:, :, 0] for each in flat][-1]

    assert_close(ours(), torch_sdpa())
    moved = flat.numel() * flat.element_size() / 1e9
    case = f"{model}, {SEQUENCES} x {LENGTH} tokens, {str(dtype)[6:]}"
    contestants = {"packrank": ours, "torch SDPA, no pages": torch_sdpa}
    race("paged attention", case, contestants, moved, "GB", rounds=9)
