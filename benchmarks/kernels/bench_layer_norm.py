"""Residual + LayerNorm, and embedding sum + LayerNorm, against torch's own."""

import pytest
import torch
from torch.nn import functional as F

from packrank_kernels import add_layer_norm, embed_layer_norm, reference
from packrank_kernels.testing import assert_close

TOKENS = 4096


@pytest.mark.parametrize("size", [384, 768])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def bench_add_layer_norm(race, dtype, size):
    x, residual = torch.randn(2, TOKENS, size).to(dtype)
    weight, bias = torch.randn(2, size)
    narrow = weight.to(dtype), bias.to(dtype)

    def ours():
        return add_layer_norm(x, residual, weight, bias, 1e-12)

    def torch_norm():
        return F.layer_norm(x + residual, (size,), *narrow, 1e-12)

    assert_close(ours()[0], reference.add_layer_norm(x, residual, weight, bias, 1e-12)[0])
    moved = 4 * TOKENS * size * x.element_size()
    case = f"{TOKENS} x {size}, {str(dtype)[6:]}"
    contestants = {"packrank": ours, "torch": torch_norm}
    race("add_layer_norm", case, contestants, moved / 1e9, "GB", rounds=15)


@pytest.mark.parametrize("size", [384, 768])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def bench_embed_layer_norm(race, dtype, size):
    tables = [torch.randn(rows, size).to(dtype) for rows in (30522, 512, 2)]
    ids = [torch.randint(0, len(table), (TOKENS,), dtype=torch.int32) for table in tables]
    weight, bias = torch.randn(2, size)
    narrow = weight.to(dtype), bias.to(dtype)

    def ours():
        return embed_layer_norm(*ids, *tables, weight, bias, 1e-12)

    def torch_embed():
        total = sum(F.embedding(i, table) for i, table in zip(ids, tables, strict=True))
        return F.layer_norm(total, (size,), *narrow, 1e-12)

    assert_close(ours(), reference.embed_layer_norm(*ids, *tables, weight, bias, 1e-12))
    moved = 4 * TOKENS * size * tables[0].element_size()
    case = f"{TOKENS} x {size}, {str(dtype)[6:]}"
    contestants = {"packrank": ours, "torch": torch_embed}
    race("embed_layer_norm", case, contestants, moved / 1e9, "GB", rounds=15)
