from itertools import pairwise

import numpy as np
import pytest
import torch

from packrank_kernels import maxsim
from packrank_kernels.dispatch import TABLE
from packrank_kernels.testing import cu_seqlens

BACKENDS = {b.name: b for b in TABLE["maxsim"]}
DTYPES = [torch.float32, torch.bfloat16]
LENGTHS = [3, 0, 1, 5, 17, 100, 301, 2, 12, 13]


@pytest.fixture(params=BACKENDS)
def backend(request):
    reason = BACKENDS[request.param].why_not(torch.device("cpu"), torch.float32)
    if reason:
        pytest.skip(reason)
    return request.param


def definition(query, docs, lengths):
    """MaxSim in float64 numpy."""
    q, d = query.double().numpy(), docs.double().numpy()
    starts = np.cumsum([0, *lengths])
    return np.array(
        [(q @ d[a:b].T).max(axis=1).sum() if b > a else -np.inf for a, b in pairwise(starts)]
    )


def bound(query, docs):
    """|error| <= Q * (D + Q) * 2^-24 * max|q| max|d|: one float32 rounding a product and a sum.

    bfloat16 inputs are exact in float32, so the bound is the same for both dtypes; the processor's
    bfloat16 dot product rounds twice a pair, hence the factor 2.
    """
    q_tokens, size = query.shape
    norms = query.float().norm(dim=1).max() * docs.float().norm(dim=1).max()
    return float(2 * q_tokens * (size + q_tokens) * 2**-24 * norms)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 13, 48, 128])
@pytest.mark.parametrize("query_tokens", [1, 5, 32, 50, 100])
def test_equals_float64(backend, dtype, size, query_tokens):
    query = torch.randn(query_tokens, size).to(dtype)
    docs = torch.randn(sum(LENGTHS), size).to(dtype)
    scores = maxsim(query, docs, cu_seqlens(LENGTHS, torch.int64), backend=backend)
    expected = definition(query, docs, LENGTHS)
    assert scores[1] == float("-inf"), "an empty document scores -inf"
    finite = np.isfinite(expected)
    error = np.abs(scores.numpy()[finite] - expected[finite])
    assert error.max() <= bound(query, docs)


def test_all_similarities_negative(backend):
    query, docs = torch.ones(5, 8), -torch.rand(30, 8) - 0.1
    lengths = [7, 20, 3]
    scores = maxsim(query, docs, cu_seqlens(lengths, torch.int64), backend=backend)
    np.testing.assert_allclose(scores.numpy(), definition(query, docs, lengths), rtol=1e-6)
    assert (scores < 0).all(), "padding would have lifted them to 0"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_order_and_company_do_not_move_bits(backend, dtype):
    query = torch.randn(32, 40).to(dtype)
    docs = torch.randn(sum(LENGTHS), 40).to(dtype)
    parts = docs.split(LENGTHS)
    scores = maxsim(query, docs, cu_seqlens(LENGTHS, torch.int64), backend=backend)
    order = torch.randperm(len(LENGTHS)).tolist()
    shuffled = maxsim(
        query,
        torch.cat([parts[i] for i in order]),
        cu_seqlens([LENGTHS[i] for i in order], torch.int64),
        backend=backend,
    )
    if backend == "reference":
        torch.testing.assert_close(shuffled, scores[order])
    else:
        assert torch.equal(shuffled, scores[order])


def test_more_documents_than_one_task(backend):
    lengths = [0, 0, 700, 1500, 3, 1, 0, 900, *[5] * 200, 0, 0]
    query, docs = torch.randn(7, 16), torch.randn(sum(lengths), 16)
    scores = maxsim(query, docs, cu_seqlens(lengths, torch.int64), backend=backend)
    np.testing.assert_allclose(scores.numpy(), definition(query, docs, lengths), rtol=1e-5)


def test_default_dtype_does_not_matter(backend):
    query, docs = torch.randn(7, 16), torch.randn(400, 16)
    cu = cu_seqlens([1] * 400, torch.int64)
    expected = maxsim(query, docs, cu, backend=backend)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        actual = maxsim(query, docs, cu, backend=backend)
    finally:
        torch.set_default_dtype(before)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("token", [0, 11, 12, 39])
def test_not_finite(backend, value, token):
    query, docs = torch.rand(20, 8) + 0.1, torch.rand(80, 8)
    docs[token, 2] = value
    scores = maxsim(query, docs, cu_seqlens([40, 40], torch.int64), backend=backend)
    assert scores[1].isfinite()
    if value == float("-inf"):
        assert scores[0].isfinite(), "another token has the maximum"
    else:
        assert scores[0].isnan() if value != value else scores[0] == value


def test_nan_in_the_query(backend):
    query, docs = torch.rand(20, 8), torch.rand(80, 8)
    query[19, 0] = float("nan")
    assert maxsim(query, docs, cu_seqlens([79, 1], torch.int64), backend=backend).isnan().all()


def test_refusals():
    query, docs = torch.rand(3, 8), torch.rand(5, 8)
    with pytest.raises(ValueError, match=r"cu_seqlens is torch.int32, expected torch.int64"):
        maxsim(query, docs, cu_seqlens([5]))
    with pytest.raises(ValueError, match="must rise from 0 to 5 without falling"):
        maxsim(query, docs, torch.tensor([0, 4, 3, 5]))
    with pytest.raises(ValueError, match=r"docs has shape \[5, 8\], expected \[T, 4\]"):
        maxsim(query[:, :4], docs, cu_seqlens([5], torch.int64))
