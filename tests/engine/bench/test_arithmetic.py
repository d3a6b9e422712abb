"""Operations and bytes by hand, by brute force, and of a whole forward."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from packrank.bench.speed.arithmetic import seen_keys, work_of
from packrank.bench.speed.profile import added, counted
from packrank_kernels import (
    OpCall,
    TokenEmbeddings,
    add_layer_norm,
    attention,
    linear,
    maxsim,
    pack_linear,
)
from packrank_kernels.testing import cu_seqlens


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 0, 1, 3, 100])
@pytest.mark.parametrize(
    ("queries", "keys"), [([5], [5]), ([1], [5]), ([0, 3], [2, 3]), ([2, 3], [7, 3])]
)
def test_the_keys_that_are_seen_are_those_that_rules_allow(
    queries: list[int], keys: list[int], causal: bool, window: int | None
) -> None:
    expected = 0
    for count, most in zip(queries, keys, strict=True):
        for q, k in product(range(count), range(most)):
            place = q + (most - count if causal else 0)
            near = window is None or abs(place - k) <= window
            expected += near and not (causal and k > place)
    found = seen_keys(np.array(queries), np.array(keys), causal=causal, window=window)
    assert found == expected


@pytest.mark.parametrize(
    ("queries", "keys", "prefix_of", "window", "pairs"),
    [([5], [5], None, None, 15), ([5], [5], None, 1, 9), ([1], [5], None, None, 5),
     ([2, 3], [2, 3], [-1, 0], None, 15), ([0, 3], [2, 3], [-1, 0], 1, 6)],
)  # fmt: skip
def test_the_pairs_of_a_decoder(
    queries: list[int], keys: list[int], prefix_of: Any, window: Any, pairs: int
) -> None:
    q, k = torch.zeros(sum(queries), 2, 8), torch.zeros(sum(keys), 1, 8)
    owners = None if prefix_of is None else torch.tensor(prefix_of)
    options = {"causal": True, "prefix_of": owners, "window": window}
    args = q, k, k, cu_seqlens(queries), cu_seqlens(keys)
    work = work_of(OpCall("attention", "any", attention, args, options))
    assert work.operations == 4 * pairs * 2 * 8


def test_ops_of_one_shape_are_added_up() -> None:
    x, norm = torch.randn(6, 16), torch.ones(16)
    layer = pack_linear(torch.randn(8, 16), activation="gelu")
    gated = pack_linear(torch.randn(8, 16), activation="silu", gated=True)
    cu = cu_seqlens([2, 4])

    def call() -> None:
        linear(x, layer)
        linear(x[:3], layer)
        linear(x, gated)
        add_layer_norm(x, x, norm, None, 1e-5)
        q = x.view(6, 2, 8)
        attention(q, q, q, cu, cu)

    found = {op.name.split(",")[0]: op for op in added(counted(call))}
    assert list(found) == [
        "linear 16 -> 8 gelu", "linear 16 -> 4 silu gated", "add_layer_norm 16", "attention 2 x 8"
    ]  # fmt: skip
    assert [op.calls for op in found.values()] == [2, 1, 1, 1]
    assert found["linear 16 -> 8 gelu"].operations == 2 * (6 + 3) * 16 * 8
    assert found["linear 16 -> 4 silu gated"].operations == 2 * 6 * 16 * 8
    assert found["attention 2 x 8"].operations == 4 * (2 * 2 + 4 * 4) * 16
    assert found["add_layer_norm 16"].moved == 4 * 6 * 16 * 4
    weight_and_bias = 4 * layer.data.numel() + 4 * 8
    assert found["linear 16 -> 8 gelu"].moved == 2 * weight_and_bias + 4 * (6 + 3) * (16 + 8)


@pytest.mark.parametrize(
    ("candidates", "pairs", "tokens"),
    [(None, 5 * 6, 6), (torch.tensor([2, 0]), 5 * 5, 5),
     ([torch.tensor([1]), torch.tensor([2, 2])], 2 * 1 + 3 * 6, 7)],
)  # fmt: skip
def test_every_token_of_a_query_meets_every_token_of_its_documents(
    candidates: Any, pairs: int, tokens: int
) -> None:
    """Two queries of 2 and 3 tokens, three documents of 2, 1 and 3."""
    queries = [torch.randn(2, 8), torch.randn(3, 8)]
    documents = TokenEmbeddings.encode([torch.randn(n, 8) for n in (2, 1, 3)], "float16")
    [op] = counted(lambda: maxsim(queries, documents, candidates))
    assert (op.name, op.part, op.operations) == ("maxsim 8", "products", 2 * 8 * pairs)
    assert op.moved == 2 * 8 * tokens + 2 * 8 * 5


def test_an_op_that_is_not_known_counts_with_its_bytes() -> None:
    x, out = torch.zeros(3, dtype=torch.float16), torch.zeros(5)
    work = work_of(OpCall("sort", "any", torch.sort, (x, [x, None]), {"to": x}), out)
    assert (work.operations, work.moved) == (0.0, 3 * 6 + 20)
