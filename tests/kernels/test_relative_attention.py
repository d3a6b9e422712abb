"""Attention with relative positions: what a distance adds to the product of a query and a key."""

import math
from dataclasses import replace

import pytest
import torch

from packrank_kernels import RelativePositions, attention, reference
from packrank_kernels.dispatch import TABLE
from packrank_kernels.testing import assert_close, cu_seqlens

OP = "attention"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

# Tables of keys, of queries and of biases: DeBERTa has the first two, T5 the last.
HAS = [(True, True), (True, False), (False, True), (False, False, True), (True, True, True)]
BIAS = HAS[3]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
either = pytest.mark.parametrize("has", [HAS[0], BIAS], ids=str)


def require(backend, device, dtype):
    """Skips where the backend takes no relative positions."""
    (found,) = [one for one in TABLE[OP] if one.name == backend]
    if reason := found.why_not(device, dtype, relative=True):
        pytest.skip(reason)


def make(lengths, heads, size, dtype, device):
    return torch.randn(sum(lengths), 3, heads, size).to(device, dtype).unbind(1)


def tables(heads, size, dtype, device, *, rows=9, positions=300, has=(True, True, False)):
    """Rows in any order, each of several distances; of keys, of queries and of biases."""
    shapes = (rows, heads, size), (rows, heads, size), (rows, heads)
    dtypes = dtype, dtype, torch.float32
    keys, queries, bias = (
        torch.randn(shape).to(device, kind) if one else None
        for shape, kind, one in zip(shapes, dtypes, (*has, False)[:3], strict=True)
    )
    chosen = torch.randint(rows, (2 * positions - 1,), dtype=torch.int32)
    return RelativePositions(keys, queries, chosen.to(device), bias)


def definition(q, k, v, cu_q, cu_k, relative, scale=None, causal=False):
    doubled = (None if x is None else x.double() for x in (relative.keys, relative.queries))
    exact = RelativePositions(*doubled, relative.rows, relative.bias)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return reference.attention(
        *(q.double(), k.double(), v.double(), cu_q, cu_k, scale, None, None),
        causal=causal,
        relative=exact,
    )


def lengths_of(backend, device):
    is_interpreted = backend == "triton" and device.type == "cpu"
    return [0, 1, 40, 2] if is_interpreted else [0, 1, 5, 17, 96, 241, 2]


def test_the_definition_by_hand():
    """One head, written out in numbers of Python."""
    q, k, v = make([3], 1, 2, torch.float64, "cpu")
    relative = tables(1, 2, torch.float64, "cpu", rows=4, positions=3, has=(True, True, True))
    cu = cu_seqlens([3])
    found = reference.attention(q, k, v, cu, cu, 0.5, None, None, relative=relative)
    dot = lambda a, b: sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))  # noqa: E731
    for i in range(3):
        row = [int(relative.rows[2 + i - j]) for j in range(3)]
        weights = [
            math.exp(
                0.5
                * (
                    dot(q[i, 0], k[j, 0])
                    + dot(q[i, 0], relative.keys[row[j], 0])
                    + dot(k[j, 0], relative.queries[row[j], 0])
                )
                + float(relative.bias[row[j], 0])
            )
            for j in range(3)
        ]
        for d in range(2):
            expected = sum(w * float(v[j, 0, d]) for j, w in enumerate(weights)) / sum(weights)
            assert float(found[i, 0, d]) == pytest.approx(expected, rel=1e-12)


@dtypes
@pytest.mark.parametrize("size", [7, 32, 64, 96])
@pytest.mark.parametrize("has", HAS, ids=str)
def test_each_table(backend, device, dtype, size, has):
    require(backend, device, dtype)
    lengths = lengths_of(backend, device)
    q, k, v = make(lengths, 2, size, dtype, device)
    cu = cu_seqlens(lengths).to(device)
    relative = tables(2, size, dtype, device, has=has)
    actual = attention(q, k, v, cu, cu, scale=0.3, relative=relative, backend=backend)
    assert_close(actual, definition(q, k, v, cu, cu, relative, 0.3))


@dtypes
@either
def test_fewer_queries_than_keys_and_more(backend, device, dtype, has):
    require(backend, device, dtype)
    lengths_q, lengths_k = [1, 1, 0, 32, 5, 50], [17, 90, 4, 9, 0, 33]
    q = make(lengths_q, 2, 16, dtype, device)[0]
    _, k, v = make(lengths_k, 2, 16, dtype, device)
    cu_q, cu_k = cu_seqlens(lengths_q).to(device), cu_seqlens(lengths_k).to(device)
    relative = tables(2, 16, dtype, device, has=has)
    actual = attention(q, k, v, cu_q, cu_k, relative=relative, backend=backend)
    assert_close(actual, definition(q, k, v, cu_q, cu_k, relative))


@dtypes
@either
def test_one_query_a_sequence(backend, device, dtype, has):
    require(backend, device, dtype)
    lengths_q, lengths_k = [1] * 5, [3, 70, 1, 16, 33]
    q = make(lengths_q, 3, 32, dtype, device)[0]
    _, k, v = make(lengths_k, 3, 32, dtype, device)
    cu_q, cu_k = cu_seqlens(lengths_q).to(device), cu_seqlens(lengths_k).to(device)
    relative = tables(3, 32, dtype, device, positions=70, has=has)
    options = {"max_seqlen_q": 1, "max_seqlen_k": 70, "relative": relative}
    actual = attention(q, k, v, cu_q, cu_k, backend=backend, **options)
    assert_close(actual, definition(q, k, v, cu_q, cu_k, relative))


@dtypes
@pytest.mark.parametrize("causal", [False, True])
def test_causal_bias_counts_from_the_end(backend, device, dtype, causal):
    require(backend, device, dtype)
    # Fewer queries than keys, as many, and more: the first of those see nothing.
    lengths_q, lengths_k = [3, 40, 0, 4, 9, 1], [70, 40, 4, 4, 5, 33]
    q = make(lengths_q, 2, 16, dtype, device)[0]
    _, k, v = make(lengths_k, 2, 16, dtype, device)
    cu_q, cu_k = cu_seqlens(lengths_q).to(device), cu_seqlens(lengths_k).to(device)
    relative = tables(2, 16, dtype, device, positions=70, has=BIAS)
    options = {"scale": 1.0, "causal": causal, "relative": relative}
    actual = attention(q, k, v, cu_q, cu_k, backend=backend, **options)
    assert_close(actual, definition(q, k, v, cu_q, cu_k, relative, 1.0, causal))
    assert bool((actual[-10:-6] == 0).all()) == causal


@dtypes
def test_a_bias_is_what_a_whole_matrix_would_add(backend, device, dtype):
    """As T5 has it: torch's own attention with the matrix, a scale of 1."""
    require(backend, device, dtype)
    q, k, v = make([37], 3, 16, dtype, device)
    relative = tables(3, 16, dtype, device, positions=37, has=BIAS)
    i, j = torch.meshgrid(torch.arange(37), torch.arange(37), indexing="ij")
    matrix = relative.bias.cpu()[relative.rows.cpu().long()[36 + i - j]].permute(2, 0, 1).double()
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.cpu().double().transpose(0, 1) for x in (q, k, v)), attn_mask=matrix, scale=1.0
    )
    cu = cu_seqlens([37]).to(device)
    actual = attention(q, k, v, cu, cu, scale=1.0, relative=relative, backend=backend)
    assert_close(actual.cpu(), expected.transpose(0, 1))


@dtypes
@either
def test_company_changes_no_bit(backend, device, dtype, has):
    require(backend, device, dtype)
    lengths = [40, 3, 77] if backend != "triton" else [20, 3, 17]
    q, k, v = make(lengths, 2, 24, dtype, device)
    relative = tables(2, 24, dtype, device, has=has)
    cu = cu_seqlens(lengths).to(device)
    together = attention(
        q, k, v, cu, cu, relative=relative, deterministic=True, backend=backend
    ).split(lengths)
    apart = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    for found, (one_q, one_k, one_v) in zip(together, apart, strict=True):
        alone = cu_seqlens([len(one_q)]).to(device)
        expected = attention(
            one_q, one_k, one_v, alone, alone,
            relative=relative, deterministic=True, backend=backend,
        )  # fmt: skip
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"keys": None, "queries": None}, "have neither keys nor queries nor bias"),
        ({"bias": torch.zeros(9, 3)}, "relative.bias"),
        ({"bias": torch.zeros(9, 2).double()}, "relative.bias"),
        ({"bias": torch.zeros(8, 2)}, "relative.queries has 9 rows, relative.bias 8"),
        ({"bias": torch.zeros(2, 9).mT}, "relative.bias must be contiguous"),
        ({"keys": torch.zeros(9, 2, 7)}, "relative.keys"),
        ({"keys": torch.zeros(8, 2, 8)}, "relative.keys has 8 rows, relative.queries 9"),
        ({"keys": torch.zeros(9, 2, 8).double()}, "relative.keys"),
        ({"keys": torch.zeros(9, 8, 2).mT}, "relative.keys must be contiguous"),
        ({"rows": torch.zeros(4, dtype=torch.int32)}, "and an odd number"),
        ({"rows": torch.zeros(7, dtype=torch.int32)}, "has 4 positions, the pack needs 5"),
        ({"rows": torch.full((9,), 9, dtype=torch.int32)}, "spans 9..9, the tables have 9"),
        ({"rows": torch.full((9,), -1, dtype=torch.int32)}, "spans -1..-1, the tables have 9"),
        ({"rows": torch.zeros(9, dtype=torch.int64)}, "relative.rows"),
    ],
)
def test_bad_tables_are_refused(change, sentence):
    q, k, v = make([5], 2, 8, torch.float32, "cpu")
    cu = cu_seqlens([5])
    relative = replace(tables(2, 8, torch.float32, "cpu", positions=5), **change)
    with pytest.raises(ValueError, match=sentence):
        attention(q, k, v, cu, cu, relative=relative)


def test_causal_attention_takes_a_bias_alone():
    q, k, v = make([5], 2, 8, torch.float32, "cpu")
    cu = cu_seqlens([5])
    for has in HAS[:3]:
        relative = tables(2, 8, torch.float32, "cpu", has=has)
        with pytest.raises(ValueError, match="causal attention takes a bias alone"):
            attention(q, k, v, cu, cu, relative=relative, causal=True)


NONE = torch.full((1,), -1, dtype=torch.int32)


@pytest.mark.parametrize(
    "option", [{"window": 3}, {"causal": True, "prefix_of": NONE}, {"softcap": 2.0}], ids=str
)
@either
def test_what_it_is_not_combined_with(option, has):
    q, k, v = make([5], 2, 8, torch.float32, "cpu")
    cu = cu_seqlens([5])
    relative = tables(2, 8, torch.float32, "cpu", has=has)
    with pytest.raises(ValueError, match="cannot be combined with grouped heads, window"):
        attention(q, k, v, cu, cu, relative=relative, **option)
    with pytest.raises(ValueError, match="cannot be combined with grouped heads, window"):
        attention(q, k[:, :1], v[:, :1], cu, cu, relative=relative)
