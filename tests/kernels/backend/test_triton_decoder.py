"""What decoders ask of the Triton kernels, against float64 in numpy; off a GPU, interpreted."""

import itertools

import numpy as np
import pytest
import torch

from packrank_kernels import add_rms_norm, attention
from packrank_kernels.dispatch import TABLE
from packrank_kernels.testing import assert_close, cu_seqlens

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
(BACKEND,) = (b for b in TABLE["attention"] if b.name == "triton")
pytestmark = [
    pytest.mark.skipif(BACKEND.why_not(DEVICE, torch.float32) is not None, reason="no Triton"),
    *([pytest.mark.gpu] if DEVICE.type == "cuda" else []),
]
DTYPES = [torch.float32, torch.float16]
# Rotated queries and keys are rounded once more.
ROTATED = {torch.float32: 1e-5, torch.float16: 2**-9}

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def rotated(x, positions, angles):
    """Complex numbers, halves apart, turned by position times angle."""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * positions[:, None] * angles)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def oracle(q, k, v, lengths_q, lengths_k, prefix_of, *, angles, window, softcap, scale):
    """Row by row and head by head, each over a whole sequence of its own."""
    q, k, v = (x.double().cpu().numpy() for x in (q, k, v))
    out = np.zeros(q.shape)
    ends_q, ends_k = np.cumsum(lengths_q), np.cumsum(lengths_k)
    rows = [np.arange(end - length, end) for end, length in zip(ends_k, lengths_k, strict=True)]
    for n, head in itertools.product(range(len(rows)), range(q.shape[1])):
        keys = rows[n] if prefix_of[n] < 0 else np.concatenate([rows[prefix_of[n]], rows[n]])
        of = head * k.shape[1] // q.shape[1]
        kn, vn, at = k[keys, of], v[keys, of], np.arange(len(keys))
        if angles is not None:
            kn = rotated(kn, at, angles)
        for i in range(lengths_q[n]):
            row, position = ends_q[n] - lengths_q[n] + i, len(keys) - lengths_q[n] + i
            seen = at <= position
            if window is not None:
                seen &= position - at <= window
            if not seen.any():
                continue
            one = q[row, head][None]
            if angles is not None:
                one = rotated(one, np.array([position]), angles)
            products = scale * (kn[seen] @ one[0])
            if softcap is not None:
                products = softcap * np.tanh(products / softcap)
            weights = np.exp(products - products.max())
            out[row, head] = weights @ vn[seen] / weights.sum()
    return torch.from_numpy(out)


def packed(heads, key_heads, size, lengths_q, lengths_k, dtype, extra=0):
    """q, k and v as slices of wider rows, `extra` rows more than the sequences have."""
    q = torch.randn(sum(lengths_q) + extra, heads + 1, size).to(DEVICE, dtype)[:, :heads]
    kv = torch.randn(sum(lengths_k) + extra, 2 * key_heads + 1, size).to(DEVICE, dtype)
    return q, kv[:, :key_heads], kv[:, key_heads : 2 * key_heads]


def attend(q, k, v, lengths_q, lengths_k, prefix_of, *, angles=None, positions=300, **options):
    rotary = None
    if angles is not None:
        turns = torch.arange(positions).double()[:, None] * torch.from_numpy(angles)
        rotary = (turns.cos().float().to(DEVICE), turns.sin().float().to(DEVICE))
    if prefix_of is not None:
        prefix_of = torch.tensor(prefix_of, dtype=torch.int32, device=DEVICE)
    cu_q, cu_k = cu_seqlens(lengths_q).to(DEVICE), cu_seqlens(lengths_k).to(DEVICE)
    return attention(
        q, k, v, cu_q, cu_k, rotary=rotary, causal=True, prefix_of=prefix_of, backend="triton",
        **options,
    )  # fmt: skip


def check(q, k, v, lengths_q, lengths_k, prefix_of, **options):
    """`attend`, after comparing its rows with the oracle's."""
    wanted = {"angles": None, "window": None, "softcap": None, "scale": q.shape[-1] ** -0.5}
    wanted |= {name: options[name] for name in wanted if name in options}
    owners = [-1] * len(lengths_k) if prefix_of is None else prefix_of
    expected = oracle(q, k, v, lengths_q, lengths_k, owners, **wanted)
    actual = attend(q, k, v, lengths_q, lengths_k, prefix_of, **options)
    rows = sum(lengths_q)
    tolerance = ROTATED[q.dtype] if wanted["angles"] is not None else None
    assert_close(actual[:rows].cpu(), expected[:rows], tolerance)
    return actual


def some_angles(size):
    return 10000.0 ** (-2 * np.arange(size // 2) / size)


# A prefix with queries, without, and empty; sequences of it before and after; one of nothing; more
# than a tile of queries, fewer queries than keys; blocks that end inside either part.
LENGTHS_Q = [5, 0, 3, 0, 40, 1, 0, 0, 9]
LENGTHS_K = [5, 37, 3, 0, 40, 70, 4, 0, 9]
PREFIX_OF = [-1, -1, 1, -1, 1, 0, 1, -1, 3]


@pytest.mark.parametrize(
    ("dtype", "rotates"),
    [(torch.float32, True), (torch.float32, False), (torch.float16, True)],
    ids=["float32 rotary", "float32", "float16 rotary"],
)
@pytest.mark.parametrize("shares", [True, False], ids=["prefix", "whole"])
@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_forms(dtype, shares, window, softcap, rotates, thorough):
    if not (thorough or shares or (window and softcap)):
        pytest.skip("its long form alone: make proofs")
    size = 20
    check(
        *packed(2, 1, size, LENGTHS_Q, LENGTHS_K, dtype), LENGTHS_Q, LENGTHS_K,
        PREFIX_OF if shares else None,
        window=window, softcap=softcap, angles=some_angles(size) if rotates else None,
    )  # fmt: skip


@dtypes
@pytest.mark.parametrize(
    ("heads", "key_heads", "size", "window", "softcap"),
    [(3, 1, 64, None, None), (2, 1, 128, None, None), (2, 1, 256, 10, 50.0), (3, 3, 6, 0, None)],
)
def test_shapes_of_models(dtype, heads, key_heads, size, window, softcap):
    lengths_q, lengths_k = [0, 2, 19], [23, 2, 19]
    check(
        *packed(heads, key_heads, size, lengths_q, lengths_k, dtype), lengths_q, lengths_k,
        [-1, 0, 0], angles=some_angles(size), window=window, softcap=softcap, scale=0.2,
    )  # fmt: skip


@dtypes
@pytest.mark.parametrize("bounded", [True, False])
def test_one_query_a_sequence(dtype, bounded):
    lengths_q, lengths_k = [0, 1, 1, 0, 1, 1], [70, 64, 1, 33, 0, 5]
    bounds = {"max_seqlen_q": 1, "max_seqlen_k": 134} if bounded else {}
    prefix_of = [-1, 0, 3, -1, 0, -1]
    check(
        *packed(4, 1, 16, lengths_q, lengths_k, dtype), lengths_q, lengths_k, prefix_of,
        angles=some_angles(16), **bounds,
    )  # fmt: skip


@dtypes
@pytest.mark.parametrize("bound", [64, 128, 256])
def test_bounded_queries(dtype, bound):
    """Tilings that bounds on lengths lead to."""
    lengths = [60, 50, 3]
    bounds = {"max_seqlen_q": bound, "max_seqlen_k": 2 * bound}
    inputs = packed(2, 1, 64, lengths, lengths, dtype)
    check(*inputs, lengths, lengths, [-1, 0, 0], angles=some_angles(64), **bounds)


@dtypes
def test_padded_bucket(dtype):
    """As a graph has it: rows that belong to no sequence, sequences that have no rows."""
    lengths_q, lengths_k, prefix_of = [0, 20, 7], [11, 20, 7], [-1, 0, 0]
    q, k, v = packed(2, 1, 16, lengths_q, lengths_k, dtype, extra=50)
    k[sum(lengths_k) :] = v[sum(lengths_k) :] = torch.nan
    options = {"angles": some_angles(16), "max_seqlen_q": 64, "max_seqlen_k": 64}
    more = [0] * 13
    actual = check(q, k, v, lengths_q + more, lengths_k + more, prefix_of + [-1] * 13, **options)
    plain = attend(q[:27], k[:38], v[:38], lengths_q, lengths_k, prefix_of, **options)
    assert torch.equal(actual[:27], plain)


@dtypes
def test_what_a_prefix_has_in_common(dtype):
    """Whole sequences and shared prefixes, within rounding; the same prefix in whole or in part."""
    size, common, tails = 32, 45, [17, 1, 30]
    q, k, v = packed(2, 2, size, [common + sum(tails)], [common + sum(tails)], dtype)
    angles = some_angles(size)
    shared = attend(q, k, v, [common, *tails], [common, *tails], [-1, 0, 0, 0], angles=angles)
    rows, start = [], common
    for length in tails:
        rows += [*range(common), *range(start, start + length)]
        start += length
    lengths = [common + length for length in tails]
    whole = attend(*(x[rows] for x in (q, k, v)), lengths, lengths, None, angles=angles)
    ends = np.cumsum(lengths)
    own = [i for end, n in zip(ends, tails, strict=True) for i in range(end - n, end)]
    assert_close(shared[common:], whole[own])
    assert_close(shared[:common], whole[:common])


@dtypes
@pytest.mark.parametrize("window", [None, 25])
def test_bits_do_not_depend_on_other_sequences(dtype, window):
    lengths = [40, 33, 1, 37, 7]
    prefix_of = [-1, 0, 0, -1, 3]
    size = 16 if dtype == torch.float32 else 128  # of which tilings differ in their blocks of keys
    inputs = packed(1, 1, size, lengths, lengths, dtype)
    starts = np.cumsum([0, *lengths])
    options = {"angles": some_angles(size), "deterministic": True, "window": window}
    together = attend(
        *inputs, lengths, lengths, prefix_of, max_seqlen_q=999, max_seqlen_k=999, **options
    )
    for n, owner in enumerate(prefix_of):
        few = [n] if owner < 0 else [owner, n]
        rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in few])
        some = [lengths[i] for i in few]
        bounds = {"max_seqlen_q": max(some), "max_seqlen_k": sum(some)}
        alone = attend(
            *(x[rows] for x in inputs), some, some, [-1, 0][: len(few)], **bounds, **options
        )
        assert torch.equal(alone[-lengths[n] :], together[starts[n] : starts[n + 1]])


def test_nan_stays_with_those_who_see_it():
    lengths = [20, 10, 20, 10]
    q, k, v = packed(1, 1, 16, lengths, lengths, torch.float32)
    k[13] = torch.nan
    out = attend(q, k, v, lengths, lengths, [-1, 0, -1, 2], softcap=30.0)
    assert out[13:30].isnan().all()
    assert out[:13].isfinite().all()
    assert out[30:].isfinite().all()


def test_capped_products_of_any_size():
    """Beyond the cap only the sign of a product counts."""
    lengths = [3]
    q, k, v = (
        torch.tensor(values, device=DEVICE)[:, None, None].repeat(1, 1, 16)
        for values in ([1.0, 1.0, 1.0], [1.0, -1e30, 1e30], [0.0, 0.0, 1.0])
    )
    out = attend(q, k, v, lengths, lengths, None, softcap=2.0, scale=1.0)
    weights = np.exp([2.0, -2.0, 2.0])
    assert_close(out[2].cpu(), torch.full((1, 16), weights[2] / weights.sum()).double())


@dtypes
@pytest.mark.parametrize("size", [64, 128, 900, 2304, 4608])
def test_scaled_residual_norm(dtype, size):
    x, residual = (torch.randn(5, size, device=DEVICE).to(dtype) for _ in range(2))
    weight = torch.randn(size, device=DEVICE)
    scale = 1.4 / 40**0.5
    normed, total = add_rms_norm(x, residual, weight, 1e-6, scale=scale, backend="triton")
    wide = scale * x.double() + residual.double()
    assert_close(total, wide)
    assert_close(normed, wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight)


@dtypes
@pytest.mark.parametrize("size", [64, 128])
def test_norm_of_heads(dtype, size):
    """As Qwen3 normalizes queries and keys: a row a head."""
    x = torch.randn(37 * 3, size, device=DEVICE).to(dtype)
    weight = torch.randn(size, device=DEVICE)
    normed, total = add_rms_norm(x, None, weight, 1e-6, backend="triton")
    wide = x.double()
    assert_close(normed, wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight)
    assert torch.equal(total, x)
