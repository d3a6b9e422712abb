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
    Pages,
    RelativePositions,
    TokenEmbeddings,
    add_layer_norm,
    attention,
    linear,
    maxsim,
    pack_linear,
    paged_attention,
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


@pytest.mark.parametrize(
    ("tables", "bias", "operations", "said"),
    [("keys queries", False, 8, ", relative positions"), ("queries", False, 6, ", relative pos"),
     ("", True, 4, ", biases of distances"),
     ("keys", True, 6, ", relative positions, biases of distances")],
)  # fmt: skip
def test_a_table_of_distances_has_as_many_products_as_the_keys(
    tables: str, bias: bool, operations: int, said: str
) -> None:
    """Two sequences of 2 and 3 tokens, 4 heads of 8; tables of 7 rows."""
    q, cu, table = torch.randn(5, 4, 8), cu_seqlens([2, 3]), torch.randn(7, 4, 8)
    keys, queries = (table if name in tables else None for name in ("keys", "queries"))
    rows, biases = torch.arange(5, dtype=torch.int32), torch.randn(7, 4)
    relative = RelativePositions(keys, queries, rows, biases if bias else None)
    [op] = counted(lambda: attention(q, q, q, cu, cu, relative=relative))
    assert op.name.startswith(f"attention 4 x 8{said}")
    assert op.operations == operations * (2 * 2 + 3 * 3) * 4 * 8
    assert op.moved == 4 * (4 * q.numel() + len(tables.split()) * 7 * 32 + bias * 7 * 4)


def test_queries_of_other_sequences_are_no_first_tokens() -> None:
    """An encoder-decoder's two of its own beside each sequence."""
    q, k = torch.randn(4, 1, 8), torch.randn(5, 1, 8)
    [op] = counted(lambda: attention(q, k, k, cu_seqlens([2, 2]), cu_seqlens([2, 3])))
    assert op.name == "attention 1 x 8, of other sequences"
    [op] = counted(lambda: attention(q[:2], k, k, cu_seqlens([1, 1]), cu_seqlens([2, 3])))
    assert op.name == "attention 1 x 8, a token a sequence"


@pytest.mark.parametrize(
    ("asking", "new", "window", "pairs", "read"),
    [([1, 1], [1, 1], None, 9 + 5, 9 + 5), ([3, 1], [3, 1], None, 7 + 8 + 9 + 5, 9 + 5),
     ([3, 1], [3, 1], 2, 3 * 3 + 3, 5 + 3), ([1, 0], [3, 1], None, 9, 9)],
)  # fmt: skip
def test_what_is_read_of_pages_is_what_their_sequences_have(
    asking: list[int], new: list[int], window: int | None, pairs: int, read: int
) -> None:
    """Of 9 and 5 tokens, whose pages have room for more; two heads of 8 share keys."""
    q, k = torch.randn(sum(asking), 2, 8), torch.randn(sum(new), 1, 8)
    pages = torch.zeros(2, 6, 4, 1, 8)
    table = torch.arange(6, dtype=torch.int32).view(2, 3)
    lengths = torch.tensor([9, 5], dtype=torch.int32)

    def call() -> None:
        paged_attention(
            q, k, k, Pages(*pages, table, lengths), cu_seqlens(asking), cu_seqlens(new),
            window=window,
        )  # fmt: skip

    [op] = counted(call)
    said = "" if window is None else f", window {window}"
    said += "" if max(asking) > 1 else ", a token a sequence"
    assert (op.name, op.part) == (f"paged attention 2 x 8{said}", "attention")
    assert op.operations == 4 * pairs * 2 * 8
    assert op.moved == 4 * (2 * q.numel() + 2 * 8 * (2 * sum(new) + read))


def test_a_wide_layer_writes_float32() -> None:
    layer = pack_linear(torch.randn(8, 16, dtype=torch.bfloat16), wide=True)
    x = torch.randn(6, 16, dtype=torch.bfloat16)
    [op] = counted(lambda: linear(x, layer))
    assert op.name == f"linear 16 -> 8 float32, {layer.backend}"
    assert op.operations == 2 * 6 * 16 * 8
    assert op.moved == 2 * x.numel() + 2 * layer.data.numel() + 4 * 8 + 4 * 6 * 8


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
