import pytest
import torch

from packrank_kernels import attention, reference
from packrank_kernels.dispatch import TABLE
from packrank_kernels.testing import assert_close, cu_seqlens

BACKENDS = {b.name: b for b in TABLE["attention"]}
DTYPES = [torch.float32, torch.bfloat16]
LENGTHS = [0, 1, 5, 17, 96, 241, 2]  # 241: one query past a task


@pytest.fixture(params=BACKENDS)
def backend(request):
    reason = BACKENDS[request.param].why_not(torch.device("cpu"), torch.float32)
    if reason:
        pytest.skip(reason)
    return request.param


def make(lengths, heads, size, dtype):
    qkv = torch.randn(sum(lengths), 3, heads, size).to(dtype)
    return qkv.unbind(1)


def angles(positions, size):
    theta = torch.rand(positions, size // 2) * 6.3
    return theta.cos(), theta.sin()


def definition(q, k, v, cu_q, cu_k, window=None, rotary=None):
    """In float64, so that the bound judges the kernel alone."""
    scale = q.shape[-1] ** -0.5
    return reference.attention(
        q.double(), k.double(), v.double(), cu_q, cu_k, scale, window, rotary
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [7, 8, 20, 32, 48, 64, 96, 128])
def test_head_sizes(backend, dtype, size):
    q, k, v = make(LENGTHS, 3, size, dtype)
    cu = cu_seqlens(LENGTHS)
    actual = attention(q, k, v, cu, cu, backend=backend)
    # bfloat16: weights and outputs are each rounded once (2^-9), against values of largest 1.
    assert_close(actual, definition(q, k, v, cu, cu))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [0, 3, 64, 500])
@pytest.mark.parametrize("with_rotary", [False, True], ids=["plain", "rotary"])
def test_window_and_rotary(backend, dtype, window, with_rotary):
    q, k, v = make(LENGTHS, 2, 20, dtype)
    cu = cu_seqlens(LENGTHS)
    rotary = angles(300, 20) if with_rotary else None
    actual = attention(q, k, v, cu, cu, window=window, rotary=rotary, backend=backend)
    # bfloat16: rotated queries and keys are rounded once more.
    assert_close(
        actual,
        definition(q, k, v, cu, cu, window, rotary),
        tolerance=2**-6 if dtype == torch.bfloat16 else None,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fewer_queries_than_keys(backend, dtype):
    lengths_q, lengths_k = [1, 1, 0, 32, 5], [17, 300, 4, 9, 0]
    q = make(lengths_q, 2, 32, dtype)[0]
    _, k, v = make(lengths_k, 2, 32, dtype)
    cu_q, cu_k = cu_seqlens(lengths_q), cu_seqlens(lengths_k)
    actual = attention(q, k, v, cu_q, cu_k, backend=backend)
    assert_close(actual, definition(q, k, v, cu_q, cu_k))
    assert (actual[-5:] == 0).all(), "queries without keys get zeros"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_query_beyond_every_key_of_its_window(backend, dtype):
    q = make([20], 1, 8, dtype)[0]
    _, k, v = make([6], 1, 8, dtype)
    cu_q, cu_k = cu_seqlens([20]), cu_seqlens([6])
    actual = attention(q, k, v, cu_q, cu_k, window=4, backend=backend)
    assert_close(actual, definition(q, k, v, cu_q, cu_k, window=4))
    assert (actual[10:] == 0).all()
    assert (actual[9] != 0).any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blocks_of_queries_beyond_every_key(backend, dtype):
    q = make([300], 1, 8, dtype)[0]
    _, k, v = make([16], 1, 8, dtype)
    cu_q, cu_k = cu_seqlens([300]), cu_seqlens([16])
    actual = attention(q, k, v, cu_q, cu_k, window=4, backend=backend)
    assert_close(actual, definition(q, k, v, cu_q, cu_k, window=4))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scale(backend, dtype):
    q, k, v = make(LENGTHS, 2, 20, dtype)
    cu = cu_seqlens(LENGTHS)
    expected = reference.attention(q.double(), k.double(), v.double(), cu, cu, 0.7, None, None)
    assert_close(attention(q, k, v, cu, cu, scale=0.7, backend=backend), expected)


def test_widest_window_is_no_window(backend):
    q, k, v = make(LENGTHS, 2, 20, torch.float32)
    cu = cu_seqlens(LENGTHS)
    everything = attention(q, k, v, cu, cu, backend=backend)
    for window in (2**31 - 1, 2**63 - 1):
        assert_close(attention(q, k, v, cu, cu, window=window, backend=backend), everything)


def test_long_sequence(backend):
    if backend in ("reference", "scalar"):
        pytest.skip("slow at this length")
    q, k, v = make([4100], 1, 32, torch.float32)
    cu = cu_seqlens([4100])
    assert_close(attention(q, k, v, cu, cu, backend=backend), definition(q, k, v, cu, cu))


def test_large_scores_do_not_overflow(backend):
    q, k, v = make([50], 2, 16, torch.float32)
    cu = cu_seqlens([50])
    assert attention(q * 1e8, k * 1e8, v, cu, cu, backend=backend).isfinite().all()
    actual = attention(q * 300, k * 300, v, cu, cu, backend=backend)
    # Scores of about 4e5 are known to 4e5 * 2^-22 = 0.1 in float32.
    assert_close(actual, definition(q * 300, k * 300, v, cu, cu), tolerance=0.2)
    assert actual.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sequence_does_not_depend_on_company(backend, dtype):
    lengths = [33, 250, 7]
    q, k, v = make(lengths, 2, 20, dtype)
    cu = cu_seqlens(lengths)
    rotary = angles(250, 20)
    together = attention(q, k, v, cu, cu, window=40, rotary=rotary, backend=backend)
    for n, length in enumerate(lengths):
        rows = slice(int(cu[n]), int(cu[n + 1]))
        one = cu_seqlens([length])
        alone = attention(
            q[rows], k[rows], v[rows], one, one, window=40, rotary=rotary, backend=backend
        )
        assert torch.equal(alone, together[rows])


def test_nan_stays_in_its_sequence(backend):
    lengths = [10, 20]
    q, k, v = (x.clone() for x in make(lengths, 2, 8, torch.float32))
    k[3, 0] = float("nan")
    cu = cu_seqlens(lengths)
    out = attention(q, k, v, cu, cu, backend=backend)
    assert out[:10, 0].isnan().all()
    assert out[:10, 1].isfinite().all()
    assert out[10:].isfinite().all()


def test_refusals():
    q, k, v = make([4], 2, 8, torch.float32)
    cu = cu_seqlens([4])
    with pytest.raises(ValueError, match="cu_seqlens_q is on meta, expected cpu"):
        attention(q, k, v, cu.to("meta"), cu)
    with pytest.raises(ValueError, match="cos is on meta, expected cpu"):
        attention(q, k, v, cu, cu, rotary=tuple(x.to("meta") for x in angles(4, 8)))
    with pytest.raises(ValueError, match="the head size is 0, expected at least 1"):
        attention(q[..., :0], k[..., :0], v[..., :0], cu, cu)
    with pytest.raises(ValueError, match="cu_seqlens_q must rise from 0 to 4 without falling"):
        attention(q, k, v, cu_seqlens([5]), cu)
    with pytest.raises(ValueError, match=r"cu_seqlens_k is torch.int64, expected torch.int32"):
        attention(q, k, v, cu, cu.long())
    with pytest.raises(ValueError, match=r"k has shape \[4, 1, 8\], expected \[Tk, 2, 8\]"):
        attention(q, k[:, :1], v, cu, cu)
    with pytest.raises(ValueError, match="last dimension of q, k and v must be contiguous"):
        attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), cu, cu)
    with pytest.raises(ValueError, match="cos has 3 positions, the pack needs 4"):
        attention(q, k, v, cu, cu, rotary=angles(3, 8))
    with pytest.raises(ValueError, match="window is -1"):
        attention(q, k, v, cu, cu, window=-1)
    with pytest.raises(ValueError, match="scale is 0"):
        attention(q, k, v, cu, cu, scale=0.0)
    with pytest.raises(ValueError, match=r"cannot run this call: the tensors are torch.float64"):
        attention(q.double(), k.double(), v.double(), cu, cu, backend="scalar")
