import importlib
import itertools

import pytest
import torch

from packrank_kernels import attention, reference
from packrank_kernels.dispatch import TABLE
from packrank_kernels.testing import assert_close, cu_seqlens

OP = "attention"
BACKENDS = {b.name: b for b in TABLE[OP]}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Rotated queries and keys are rounded once more.
ROTATED = {torch.float32: None, torch.bfloat16: 2**-6, torch.float16: 2**-9}

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def require(backend, device, dtype, **facts):
    """Skips where the backend refuses such a call."""
    reason = BACKENDS[backend].why_not(device, dtype, **facts)
    if reason:
        pytest.skip(reason)


def attend(q, k, v, cu_q, cu_k, *, backend, **options):
    """`attention`, or a skip with the reason of a backend that refuses."""
    has = {name: options.get(name) is not None for name in ("window", "rotary")}
    known = ("max_seqlen_q", "max_seqlen_k")
    require(
        backend,
        q.device,
        q.dtype,
        head_size=q.shape[2],
        heads_per_key=q.shape[1] // k.shape[1],
        unequal=cu_q is not cu_k,
        positional=has["window"] or has["rotary"],
        rotary=has["rotary"],
        causal=options.get("causal", False),
        deterministic=options.get("deterministic", False),
        **{name: options.get(name) for name in known},
    )
    return attention(q, k, v, cu_q, cu_k, backend=backend, **options)


def is_interpreted(backend, device):
    return backend == "triton" and device.type == "cpu"


def some_lengths(backend, device):
    if is_interpreted(backend, device):
        return [0, 1, 40, 2]  # 40: a second tile; the interpreter is slow
    return [0, 1, 5, 17, 96, 241, 2]  # 241: one query past a task


def make(lengths, heads, size, dtype, device, key_heads=None):
    """q, k and v as slices of one projection."""
    key_heads = heads if key_heads is None else key_heads
    qkv = torch.randn(sum(lengths), heads + 2 * key_heads, size).to(device, dtype)
    return qkv.split([heads, key_heads, key_heads], dim=1)


def starts(lengths, device):
    return cu_seqlens(lengths).to(device)


def angles(positions, size, device):
    theta = torch.rand(positions, size // 2) * 6.3
    return theta.cos().to(device), theta.sin().to(device)


def definition(q, k, v, cu_q, cu_k, window=None, rotary=None, causal=False, scale=None):
    """In float64, so that the bound judges the kernel alone."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return reference.attention(
        q.double(), k.double(), v.double(), cu_q, cu_k, scale, window, rotary, causal
    )


@dtypes
@pytest.mark.parametrize("size", [7, 8, 20, 32, 48, 64, 96, 128])
def test_head_sizes(backend, device, dtype, size):
    lengths = some_lengths(backend, device)
    q, k, v = make(lengths, 2, size, dtype, device)
    cu = starts(lengths, device)
    actual = attend(q, k, v, cu, cu, backend=backend)
    # bfloat16: weights and outputs are each rounded once (2^-9), against values of largest 1.
    assert_close(actual, definition(q, k, v, cu, cu))
    assert actual.is_contiguous()


@dtypes
def test_largest_head(backend, device, dtype):
    lengths = [40, 3]
    q, k, v = make(lengths, 1, 256, dtype, device)
    cu = starts(lengths, device)
    assert_close(attend(q, k, v, cu, cu, backend=backend), definition(q, k, v, cu, cu))


@dtypes
@pytest.mark.parametrize("window", [0, 3, 64, 500])
@pytest.mark.parametrize("with_rotary", [False, True], ids=["plain", "rotary"])
def test_window_and_rotary(backend, device, dtype, window, with_rotary):
    lengths = some_lengths(backend, device)
    q, k, v = make(lengths, 1, 24, dtype, device)
    cu = starts(lengths, device)
    rotary = angles(300, 24, device) if with_rotary else None
    actual = attend(q, k, v, cu, cu, window=window, rotary=rotary, backend=backend)
    assert_close(actual, definition(q, k, v, cu, cu, window, rotary), tolerance=ROTATED[dtype])


@dtypes
@pytest.mark.parametrize("size", [6, 64, 96])
def test_rotary_head_sizes(backend, device, dtype, size):
    lengths = [40, 9]
    q, k, v = make(lengths, 1, size, dtype, device)
    cu = starts(lengths, device)
    rotary = angles(40, size, device)
    actual = attend(q, k, v, cu, cu, rotary=rotary, backend=backend)
    assert_close(actual, definition(q, k, v, cu, cu, rotary=rotary), tolerance=ROTATED[dtype])


@dtypes
@pytest.mark.parametrize("longest", [20, 64, 65, 200])
def test_known_bounds(backend, device, dtype, longest):
    lengths = [1, longest, 0, longest // 2]
    q, k, v = make(lengths, 1, 32, dtype, device)
    cu = starts(lengths, device)
    expected = definition(q, k, v, cu, cu)
    bounds = {"max_seqlen_q": longest, "max_seqlen_k": longest}
    assert_close(attend(q, k, v, cu, cu, **bounds, backend=backend), expected)


@dtypes
@pytest.mark.parametrize("is_bounded", [False, True])
def test_fewer_queries_than_keys(backend, device, dtype, is_bounded):
    lengths_q, lengths_k = [1, 1, 0, 32, 5], [17, 200, 4, 9, 0]
    q = make(lengths_q, 1, 32, dtype, device)[0]
    _, k, v = make(lengths_k, 1, 32, dtype, device)
    cu_q, cu_k = starts(lengths_q, device), starts(lengths_k, device)
    bounds = {"max_seqlen_q": 32, "max_seqlen_k": 200} if is_bounded else {}
    actual = attend(q, k, v, cu_q, cu_k, **bounds, backend=backend)
    assert_close(actual, definition(q, k, v, cu_q, cu_k))
    assert (actual[-5:] == 0).all(), "queries without keys get zeros"


@dtypes
@pytest.mark.parametrize("with_rotary", [False, True], ids=["plain", "rotary"])
def test_one_query_a_sequence(backend, device, dtype, with_rotary):
    lengths_q, lengths_k = [1] * 18 + [0] * 3, [3, 70, *range(4, 20), 0, 0, 0]
    lengths_k[7] = 0
    q = make(lengths_q, 1, 32, dtype, device)[0]
    _, k, v = make(lengths_k, 1, 32, dtype, device)
    cu_q, cu_k = starts(lengths_q, device), starts(lengths_k, device)
    rotary = angles(70, 32, device) if with_rotary else None
    bounds = {"max_seqlen_q": 1, "max_seqlen_k": 70}
    actual = attend(q, k, v, cu_q, cu_k, rotary=rotary, **bounds, backend=backend)
    expected = definition(q, k, v, cu_q, cu_k, rotary=rotary)
    assert_close(actual, expected, tolerance=ROTATED[dtype] if with_rotary else None)
    assert (actual[7] == 0).all()


@dtypes
@pytest.mark.parametrize(("window", "bound"), [(None, None), (30, None), (30, 131)])
def test_causal(backend, device, dtype, window, bound):
    # Fewer queries than keys, as many, and more: the first of those see nothing.
    lengths_q, lengths_k = [3, 131, 0, 20, 9], [70, 131, 4, 20, 5]
    q = make(lengths_q, 1, 16, dtype, device)[0]
    _, k, v = make(lengths_k, 1, 16, dtype, device)
    cu_q, cu_k = starts(lengths_q, device), starts(lengths_k, device)
    actual = attend(
        q, k, v, cu_q, cu_k, causal=True, window=window, max_seqlen_k=bound, backend=backend
    )
    assert_close(actual, definition(q, k, v, cu_q, cu_k, window, causal=True))
    assert torch.equal(actual[3], v[70]), "the first token sees itself alone"
    assert (actual[-9:-5] == 0).all()


@dtypes
def test_causal_rotary_counts_from_the_end(backend, device, dtype):
    lengths_q, lengths_k = [3, 40], [70, 40]
    q = make(lengths_q, 2, 16, dtype, device)[0]
    _, k, v = make(lengths_k, 2, 16, dtype, device)
    cu_q, cu_k = starts(lengths_q, device), starts(lengths_k, device)
    rotary = angles(70, 16, device)
    actual = attend(q, k, v, cu_q, cu_k, causal=True, rotary=rotary, backend=backend)
    expected = definition(q, k, v, cu_q, cu_k, rotary=rotary, causal=True)
    assert_close(actual, expected, tolerance=ROTATED[dtype])


@dtypes
@pytest.mark.parametrize("key_heads", [1, 2])
def test_grouped_queries(backend, device, dtype, key_heads):
    lengths = [9, 2, 0]
    q, k, v = make(lengths, 6, 16, dtype, device, key_heads)
    cu = starts(lengths, device)
    actual = attend(q, k, v, cu, cu, backend=backend)
    shared = [x.repeat_interleave(6 // key_heads, dim=1) for x in (k, v)]
    assert_close(actual, definition(q, *shared, cu, cu))


@dtypes
def test_any_layout_is_read_in_place(backend, device, dtype):
    lengths = [33, 7]
    q, k, v = make(lengths, 3, 16, dtype, device)
    cu = starts(lengths, device)
    by_head = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, v))
    actual = attend(*by_head, cu, cu, backend=backend)
    assert actual.is_contiguous()
    assert_close(actual, definition(q, k, v, cu, cu))


@dtypes
def test_padded_sequences_change_nothing(backend, device, dtype):
    lengths = [5, 40, 0]
    q, k, v = make(lengths, 2, 16, dtype, device)
    bounds = {"max_seqlen_q": 64, "max_seqlen_k": 64}
    plain, padded = starts(lengths, device), starts(lengths + [0] * 9, device)
    actual = attend(q, k, v, padded, padded, **bounds, backend=backend)
    assert torch.equal(actual, attend(q, k, v, plain, plain, **bounds, backend=backend))


def test_many_short_sequences(backend, device):
    lengths = (torch.rand(70 if is_interpreted(backend, device) else 1100) < 0.3).int().tolist()
    lengths[-30] = 40
    q, k, v = make(lengths, 1, 8, torch.float32, device)
    cu = starts(lengths, device)
    assert_close(attend(q, k, v, cu, cu, backend=backend), definition(q, k, v, cu, cu))


@dtypes
def test_query_beyond_every_key_of_its_window(backend, device, dtype):
    q = make([20], 1, 8, dtype, device)[0]
    _, k, v = make([6], 1, 8, dtype, device)
    cu_q, cu_k = starts([20], device), starts([6], device)
    actual = attend(q, k, v, cu_q, cu_k, window=4, backend=backend)
    assert_close(actual, definition(q, k, v, cu_q, cu_k, window=4))
    assert (actual[10:] == 0).all()
    assert (actual[9] != 0).any()


@dtypes
def test_blocks_of_queries_beyond_every_key(backend, device, dtype):
    q = make([150], 1, 8, dtype, device)[0]
    _, k, v = make([16], 1, 8, dtype, device)
    cu_q, cu_k = starts([150], device), starts([16], device)
    actual = attend(q, k, v, cu_q, cu_k, window=4, backend=backend)
    assert_close(actual, definition(q, k, v, cu_q, cu_k, window=4))


@dtypes
def test_scale(backend, device, dtype):
    lengths = [1, 50]
    q, k, v = make(lengths, 2, 24, dtype, device)
    cu = starts(lengths, device)
    expected = definition(q, k, v, cu, cu, scale=0.7)
    assert_close(attend(q, k, v, cu, cu, scale=0.7, backend=backend), expected)


def test_widest_window_is_no_window(backend, device):
    lengths = some_lengths(backend, device)
    q, k, v = make(lengths, 1, 20, torch.float32, device)
    cu = starts(lengths, device)
    everything = attend(q, k, v, cu, cu, backend=backend)
    for window in (2**31 - 1, 2**63 - 1):
        assert_close(attend(q, k, v, cu, cu, window=window, backend=backend), everything)


def test_long_sequence(backend, device):
    if backend in ("reference", "scalar") or is_interpreted(backend, device):
        pytest.skip("slow at this length")
    q, k, v = make([4100], 1, 32, torch.float32, device)
    cu = starts([4100], device)
    assert_close(attend(q, k, v, cu, cu, backend=backend), definition(q, k, v, cu, cu))


def test_large_scores_do_not_overflow(backend, device):
    q, k, v = make([50], 2, 16, torch.float32, device)
    cu = starts([50], device)
    assert attend(q * 1e8, k * 1e8, v, cu, cu, backend=backend).isfinite().all()
    actual = attend(q * 300, k * 300, v, cu, cu, backend=backend)
    # Scores of about 4e5 are known to 4e5 * 2^-22 = 0.1 in float32.
    assert_close(actual, definition(q * 300, k * 300, v, cu, cu), tolerance=0.2)
    assert actual.isfinite().all()


@dtypes
def test_sequence_does_not_depend_on_company(backend, device, dtype):
    lengths = [33, 1, 140, 7]
    q, k, v = make(lengths, 1, 24, dtype, device)
    cu = starts(lengths, device)
    options = {
        "window": 40,
        "rotary": angles(140, 24, device),
        # Kernels for the CPU promise it unasked.
        "deterministic": backend not in ("avx512", "avx2", "scalar"),
        "backend": backend,
    }
    together = attend(q, k, v, cu, cu, max_seqlen_q=140, max_seqlen_k=140, **options)
    for n, length in enumerate(lengths):
        rows = slice(int(cu[n]), int(cu[n + 1]))
        one = starts([length], device)
        bounds = {"max_seqlen_q": length, "max_seqlen_k": length}
        alone = attend(q[rows], k[rows], v[rows], one, one, **bounds, **options)
        assert torch.equal(alone, together[rows])


def test_deterministic_tiling_looks_at_no_length():
    tiling = pytest.importorskip("packrank_kernels.backend.triton.attention").configuration
    for size, dtype in itertools.product((32, 64, 128, 256), DTYPES):
        bounds = itertools.product((None, 1, 64), (None, 1, 64, 128, 1000))
        assert len({tiling(size, dtype, *bound, deterministic=True) for bound in bounds}) == 1
    assert tiling(32, torch.float16, 64, 64) != tiling(32, torch.float16, 64, 128)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_tiling_for_smaller_devices(backend, device, size, monkeypatch):
    if backend != "triton":
        pytest.skip("has no tiling")
    kernel = importlib.import_module("packrank_kernels.backend.triton.attention")
    monkeypatch.setattr(kernel, "_is_hopper", lambda device: False)
    q, k, v = make([70], 1, size, torch.float16, device)
    cu = starts([70], device)
    assert_close(attend(q, k, v, cu, cu, backend=backend), definition(q, k, v, cu, cu))


@dtypes
@pytest.mark.parametrize("bound", [None, 20])
def test_nan_stays_in_its_sequence(backend, device, dtype, bound):
    lengths = [10, 20, 3]
    q, k, v = (x.clone() for x in make(lengths, 2, 8, dtype, device))
    k[10, 0] = v[29, 0] = float("nan")
    cu = starts(lengths, device)
    out = attend(q, k, v, cu, cu, max_seqlen_k=bound, backend=backend)
    assert out[10:30, 0].isnan().all()
    assert out[:, 1].isfinite().all()
    assert out[:10].isfinite().all()
    assert out[30:].isfinite().all()


@dtypes
@pytest.mark.parametrize("bound", [None, 20])
def test_nan_key_reaches_every_query(backend, device, dtype, bound):
    q, k, v = (x.clone() for x in make([20], 2, 8, dtype, device))
    k[13, 0] = float("nan")
    cu = starts([20], device)
    out = attend(q, k, v, cu, cu, max_seqlen_k=bound, backend=backend)
    assert out[:, 0].isnan().all()
    assert out[:, 1].isfinite().all()


def test_refusals():
    cpu = torch.device("cpu")
    q, k, v = make([4], 2, 8, torch.float32, cpu)
    cu = cu_seqlens([4])
    with pytest.raises(ValueError, match="cu_seqlens_q is on meta, expected cpu"):
        attention(q, k, v, cu.to("meta"), cu)
    with pytest.raises(ValueError, match="cos is on meta, expected cpu"):
        attention(q, k, v, cu, cu, rotary=tuple(x.to("meta") for x in angles(4, 8, cpu)))
    with pytest.raises(ValueError, match="the head size is 0, expected at least 1"):
        attention(q[..., :0], k[..., :0], v[..., :0], cu, cu)
    with pytest.raises(ValueError, match="cu_seqlens_q must rise from 0 to 4 without falling"):
        attention(q, k, v, cu_seqlens([5]), cu)
    with pytest.raises(ValueError, match=r"cu_seqlens_k is torch.int64, expected torch.int32"):
        attention(q, k, v, cu, cu.long())
    with pytest.raises(ValueError, match="cu_seqlens_q has 2 entries, cu_seqlens_k 3"):
        attention(q, k, v, cu, cu_seqlens([4, 0]))
    with pytest.raises(ValueError, match=r"k has shape \[4, 2, 7\], expected \[Tk, Hk, 8\]"):
        attention(q, k[..., :7], v, cu, cu)
    with pytest.raises(ValueError, match=r"v has shape \[4, 1, 8\], expected \[4, 2, 8\]"):
        attention(q, k, v[:, :1], cu, cu)
    with pytest.raises(ValueError, match="k has 2 heads, which do not divide the 3 of q"):
        attention(q.repeat(1, 2, 1)[:, :3], k, v, cu, cu)
    with pytest.raises(ValueError, match="last dimension of q, k and v must be contiguous"):
        attention(q.mT.contiguous().mT, k, v, cu, cu)
    with pytest.raises(ValueError, match="cos has 3 positions, the pack needs 4"):
        attention(q, k, v, cu, cu, rotary=angles(3, 8, cpu))
    with pytest.raises(ValueError, match="window is -1"):
        attention(q, k, v, cu, cu, window=-1)
    with pytest.raises(ValueError, match="scale is 0"):
        attention(q, k, v, cu, cu, scale=0.0)
    with pytest.raises(ValueError, match="max_seqlen_q is 3, but a sequence has 4"):
        attention(q, k, v, cu, cu, max_seqlen_q=3)
    with pytest.raises(ValueError, match="max_seqlen_k is 3, but a sequence has 4"):
        attention(q, k, v, cu, cu, max_seqlen_q=4, max_seqlen_k=3)
    with pytest.raises(ValueError, match=r"cannot run this call: the tensors are torch.float64"):
        attention(q.double(), k.double(), v.double(), cu, cu, backend="scalar")
