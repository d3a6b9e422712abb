"""Causal attention in C++ with all that decoders add to it, against float64 in numpy, and to the
bit where a definition leaves no choice: shared prefixes, company, threads, single queries."""

import itertools

import numpy as np
import pytest
import torch

from packrank_kernels import attention, set_num_threads
from packrank_kernels.backend.native import ISAS
from packrank_kernels.dispatch import TABLE
from packrank_kernels.testing import assert_close, cu_seqlens

CPU = torch.device("cpu")
REFUSED = {b.name: b.why_not(CPU, torch.float32) for b in TABLE["attention"] if b.name in ISAS}
# Rotated queries and keys are rounded once more.
ROTATED = {torch.float32: 1e-5, torch.bfloat16: 2**-6}

dtypes = pytest.mark.parametrize("dtype", list(ROTATED), ids=str)
native = [
    pytest.param(isa, marks=[pytest.mark.skip(reason=reason)] if reason else [])
    for isa, reason in REFUSED.items()
]
isas = pytest.mark.parametrize("isa", native)
# The definition is judged too.
every = pytest.mark.parametrize("isa", [*native, "reference"])


def turned(x, positions, angles):
    """Halves of x as complex numbers, turned by position times angle."""
    half = x.shape[-1] // 2
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * np.outer(positions, angles))
    return np.concatenate([z.real, z.imag], axis=-1)


def oracle(q, k, v, lengths_q, lengths_k, prefix_of, scale, window, softcap, angles):
    """Each sequence with its prefix before it, head by head."""
    q, k, v = (x.double().numpy() for x in (q, k, v))
    out = np.zeros(q.shape)
    rows_q, rows_k = (
        np.split(np.arange(sum(x)), np.cumsum(x)[:-1]) for x in (lengths_q, lengths_k)
    )
    for n, head in itertools.product(range(len(lengths_q)), range(q.shape[1])):
        keys = rows_k[n] if prefix_of[n] < 0 else np.append(rows_k[prefix_of[n]], rows_k[n])
        j, of = np.arange(len(keys)), head // (q.shape[1] // k.shape[1])
        i = np.arange(lengths_q[n]) + len(keys) - lengths_q[n]
        qn, kn = q[rows_q[n], head], k[keys, of]
        if angles is not None:
            qn, kn = turned(qn, i, angles), turned(kn, j, angles)
        s = scale * qn @ kn.T
        s = s if softcap is None else softcap * np.tanh(s / softcap)
        behind = i[:, None] - j
        seen = (behind >= 0) & (behind <= (len(keys) if window is None else window))
        weights = np.where(seen, np.exp(s - s.max(initial=0.0)), 0.0)
        out[rows_q[n], head] = weights @ v[keys, of] / np.maximum(weights.sum(-1), 1e-300)[:, None]
    return torch.from_numpy(out)


def make(lengths_q, lengths_k, heads, key_heads, size, dtype):
    """q, k and v as slices of wider rows."""
    q = torch.randn(sum(lengths_q), heads + 1, size).to(dtype)[:, 1:]
    return q, *torch.randn(sum(lengths_k), 2 * key_heads, size).to(dtype).chunk(2, dim=1)


def angles_of(size):
    return 100.0 ** (-np.arange(size // 2) / size)


def attend(isa, q, k, v, lengths_q, lengths_k, prefix_of=None, *, angles=None, **options):
    if angles is not None:
        turns = torch.from_numpy(np.outer(np.arange(300), angles))
        options["rotary"] = turns.cos().float(), turns.sin().float()
    if prefix_of is not None:
        options["prefix_of"] = torch.tensor(prefix_of, dtype=torch.int32)
    cu_q, cu_k = cu_seqlens(lengths_q), cu_seqlens(lengths_k)
    return attention(q, k, v, cu_q, cu_k, causal=True, backend=isa, **options)


def check(isa, inputs, lengths_q, lengths_k, prefix_of, *, scale=0.3, **options):
    actual = attend(isa, *inputs, lengths_q, lengths_k, prefix_of, scale=scale, **options)
    owners = [-1] * len(lengths_q) if prefix_of is None else prefix_of
    wanted = [options.get(name) for name in ("window", "softcap", "angles")]
    expected = oracle(*inputs, lengths_q, lengths_k, owners, scale, *wanted)
    assert_close(actual, expected, ROTATED[actual.dtype] if wanted[2] is not None else None)
    return actual


# Prefixes without queries, with some, empty, after their users; sequences of nothing, of one token,
# of fewer queries than keys, of more rows than a task takes.
LENGTHS_Q = [0, 90, 0, 5, 3, 0, 1, 0, 21, 0, 1]
LENGTHS_K = [37, 90, 0, 5, 3, 0, 61, 13, 21, 0, 0]
PREFIX_OF = [-1, 0, -1, 7, 2, 8, 0, -1, -1, 0, 8]


@every
@dtypes
@pytest.mark.parametrize("shares", [True, False], ids=["prefix", "whole"])
@pytest.mark.parametrize("rotates", [True, False], ids=["rotary", "plain"])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (0, 1.5), (29, None)])
def test_forms(isa, dtype, shares, rotates, window, softcap):
    lengths_k = (
        LENGTHS_K if shares else [max(pair) for pair in zip(LENGTHS_K, LENGTHS_Q, strict=True)]
    )
    inputs = make(LENGTHS_Q, lengths_k, 6, 2, 20, dtype)
    angles = angles_of(20) if rotates else None
    prefix_of = PREFIX_OF if shares else None
    check(
        isa, inputs, LENGTHS_Q, lengths_k, prefix_of, angles=angles, window=window, softcap=softcap
    )


@every
@dtypes
@pytest.mark.parametrize(
    ("heads", "key_heads", "size"),
    [(3, 1, 1), (2, 2, 17), (5, 1, 33), (14, 2, 64), (36, 36, 64), (12, 2, 128), (8, 1, 256)],
)
def test_shapes(isa, dtype, heads, key_heads, size):
    lengths = [11, 50, 3]
    inputs = make(lengths, lengths, heads, key_heads, size, dtype)
    angles = angles_of(size) if size % 2 == 0 else None
    check(isa, inputs, lengths, lengths, [-1, 0, 0], scale=size**-0.5, angles=angles, window=40)


@every
@dtypes
def test_queries_before_every_key_see_nothing(isa, dtype):
    lengths_q, lengths_k = [70, 9, 2], [5, 0, 3]
    inputs = make(lengths_q, lengths_k, 2, 1, 8, dtype)
    out = check(isa, inputs, lengths_q, lengths_k, [-1, -1, 0], window=3)
    assert (out[:65] == 0).all()
    assert (out[70:79] == 0).all()


@isas
@dtypes
@pytest.mark.parametrize("prefix", [1, 2, 47])
@pytest.mark.parametrize("rotates", [True, False], ids=["rotary", "plain"])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (20, 2.0)])
def test_shared_prefix_has_the_bits_of_an_own_one(isa, dtype, prefix, rotates, window, softcap):
    tails = [1, 2, 40, 95]
    total = prefix + sum(tails)
    inputs = q, _, v = make([total], [total], 6, 2, 18, dtype)
    # Equal weights over values that cancel: what is left tells in which order they were added.
    q[:, 0] = 0.0
    v[:, 0] = torch.where(torch.rand(total, 18) < 0.5, v[:, 0], 2.0**30 * v[:, 0].sign())
    options = {"window": window, "softcap": softcap, "angles": angles_of(18) if rotates else None}
    shared = attend(isa, *inputs, [prefix, *tails], [prefix, *tails], [-1, 0, 0, 0, 0], **options)
    own = torch.arange(prefix, total).split(tails)
    rows = torch.cat([torch.cat([torch.arange(prefix), rest]) for rest in own])
    lengths = [prefix + length for length in tails]
    whole = attend(isa, *(x[rows] for x in inputs), lengths, lengths, **options)
    for n, part in enumerate(whole.split(lengths)):
        assert torch.equal(part[:prefix], shared[:prefix])
        assert torch.equal(part[prefix:], shared[own[n]])


@isas
@dtypes
@pytest.mark.parametrize("window", [None, 33])
def test_bits_depend_on_nothing_else(isa, dtype, window):
    """Not on company, on the number of threads, or on how many queries of a sequence are asked."""
    inputs = make(LENGTHS_K, LENGTHS_K, 6, 2, 20, dtype)
    options = {"window": window, "softcap": 3.0, "angles": angles_of(20)}
    together = attend(isa, *inputs, LENGTHS_K, LENGTHS_K, PREFIX_OF, **options)
    before = torch.get_num_threads()
    try:
        set_num_threads(3)
        again = attend(isa, *inputs, LENGTHS_K, LENGTHS_K, PREFIX_OF, **options)
    finally:
        set_num_threads(before)
    assert torch.equal(together, again)
    rows = torch.arange(sum(LENGTHS_K)).split(LENGTHS_K)
    for n, owner in enumerate(PREFIX_OF):
        few = [n] if owner < 0 else [owner, n]
        lengths, owners = [LENGTHS_K[i] for i in few], [-1, 0][: len(few)]
        q, k, v = (x[torch.cat([rows[i] for i in few])] for x in inputs)
        alone = attend(isa, q, k, v, lengths, lengths, owners, **options)
        assert torch.equal(alone[sum(lengths) - LENGTHS_K[n] :], together[rows[n]])
        for asked in {min(1, LENGTHS_K[n]), LENGTHS_K[n] // 2}:
            lengths_q = [*[0] * (len(few) - 1), asked]
            last = attend(isa, q[len(q) - asked :], k, v, lengths_q, lengths, owners, **options)
            assert torch.equal(last, together[rows[n]][LENGTHS_K[n] - asked :])


@isas
def test_softcap_is_accurate(isa):
    small = torch.logspace(-6, 1, 200)
    huge = torch.tensor([1e30, -1e30, torch.inf, -torch.inf])
    products = torch.cat([torch.linspace(-300, 300, 999), small, -small, huge])
    # Two keys a query, of products p and 0; the logarithm of what their weights are apart is the
    # capped p.
    count = len(products)
    q, k = torch.ones(count, 1, 2), torch.zeros(2 * count, 1, 2)
    k[::2, 0, 0] = products
    v = torch.eye(2).repeat(count, 1)[:, None]
    out = attend(isa, q, k, v, [1] * count, [2] * count, softcap=50.0, scale=1.0)
    first, second = out.double().log().unbind(-1)
    expected = 50.0 * (products.double() / 50.0).tanh()
    error = ((first - second).flatten() - expected).abs()
    assert (error <= 4e-7 * expected.abs() + 4e-7).all()


@isas
def test_nan_stays_with_those_who_see_it(isa):
    lengths, prefix_of = [20, 30, 50, 10], [-1, 0, 0, -1]
    q, k, v = (x.clone() for x in make(lengths, lengths, 2, 1, 8, torch.float32))
    k[75] = torch.nan
    out = attend(isa, q, k, v, lengths, lengths, prefix_of, softcap=2.0)
    assert out[75:100].isnan().all()
    assert out[:50].isfinite().all()
    assert out[100:].isfinite().all()
    k[75] = 0.0
    k[19] = torch.nan
    out = attend(isa, q, k, v, lengths, lengths, prefix_of, softcap=2.0)
    assert out[20:100].isnan().all()
    assert out[100:].isfinite().all()
