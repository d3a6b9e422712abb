"""Attention over pages, against the definition and, on a CPU, to the bit against `attention`."""

import numpy as np
import pytest
import torch

from packrank_kernels import Pages, attention, paged_attention, reference, set_num_threads
from packrank_kernels.dispatch import TABLE
from packrank_kernels.testing import assert_close, cu_seqlens

OP = "paged_attention"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Rotated queries and keys are rounded once more.
ROTATED = {torch.float32: 1e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}
NATIVE = ("avx512", "avx2", "scalar")

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


class Cache:
    """Sequences in pages of which nobody knows the order; what was not written is NaN.

    Args:
        lengths: tokens that each sequence may come to have.
        shape: heads of keys, their size, and tokens of a page.
        kind: dtype and device.
        seed: of the order of the pages.
    """

    def __init__(self, lengths, shape, kind, seed=0):
        key_heads, size, page = shape
        counts = [-(-length // page) for length in lengths]
        total, most = sum(counts) + 3, max(counts, default=0) + 1
        numbers = np.random.default_rng(seed).permutation(total).astype(np.int32)
        table = np.full((len(lengths), most), -7, dtype=np.int32)
        for row, count in zip(table, counts, strict=True):
            row[:count], numbers = numbers[:count], numbers[count:]
        dtype, device = kind
        pages = torch.full((2, total, key_heads, page, size), torch.nan, dtype=dtype)
        self.keys, self.values = pages.to(device).transpose(2, 3)
        self.table = torch.from_numpy(table).to(device)

    def attend(self, run, q, k, v, new_q, new_k, lengths, **options):
        """`run` of the next tokens; `new_q` and `new_k` say how many, `lengths` how many then."""
        lengths = torch.tensor(lengths, dtype=torch.int32, device=q.device)
        starts = (cu_seqlens(new).to(q.device) for new in (new_q, new_k))
        pages = Pages(self.keys, self.values, self.table, lengths)
        return run(q, k, v, pages, *starts, **options)


def ends(lengths, counts):
    """Rows of the last so many tokens of each of some packed sequences."""
    stops = np.cumsum(lengths)
    every = [np.arange(stop - n, stop) for stop, n in zip(stops, counts, strict=True)]
    return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *every]))


def draw(lengths, heads, key_heads, size, dtype):
    tokens = sum(lengths)
    q = torch.randn(tokens, heads, size).to(dtype)
    return (q, *torch.randn(2, tokens, key_heads, size).to(dtype))


def angles(positions, size):
    theta = torch.rand(positions, size // 2) * 6.3
    return theta.cos(), theta.sin()


def steps_of(rng, lengths, most):
    """How many tokens of each sequence go into each step, at random."""
    left, steps = np.array(lengths), []
    while left.any():
        now = np.minimum(left, rng.integers(0, most + 1, len(left)))
        left = left - now
        if now.any():
            steps.append(now.tolist())
    return steps


def grow(backend, lengths, tensors, shape, page, steps, options, device=None, seed=0):
    """[T, H, D]: what each token attends to as its sequence grows step by step."""
    q, k, v = (x.to(device or "cpu") for x in tensors)
    cache = Cache(lengths, (*shape, page), (q.dtype, q.device), seed)
    out = torch.full_like(q, torch.nan)
    so_far = np.zeros(len(lengths), dtype=int)
    begins = np.cumsum([0, *lengths])[:-1]
    for step in steps:
        rows = np.concatenate(
            [np.arange(b + s, b + s + n) for b, s, n in zip(begins, so_far, step, strict=True)]
        )
        so_far += step
        got = cache.attend(
            paged_attention,
            *(x[rows] for x in (q, k, v)),
            step,
            step,
            so_far.tolist(),
            backend=backend,
            **options,
        )
        out[rows] = got[: len(rows)]
    return out


def whole(lengths, tensors, options, backend=None):
    """The same by attention over whole sequences; in float64 unless a backend is named."""
    q, k, v = tensors
    cu = cu_seqlens(lengths)
    if backend is not None:
        return attention(q, k, v, cu, cu, causal=True, backend=backend, **options)
    scale = options.get("scale") or q.shape[2] ** -0.5
    return reference.attention(
        *(x.double() for x in (q, k, v)),
        cu,
        cu,
        scale,
        options.get("window"),
        options.get("rotary"),
        causal=True,
        softcap=options.get("softcap"),
    )


FORMS = {
    "plain": {},
    "window": {"window": 5},
    "softcap": {"softcap": 2.0, "scale": 0.5},
    "rotary": {"rotary": True},
    "all": {"rotary": True, "window": 9, "softcap": 3.0, "scale": 0.3},
}


def form_of(name, positions, size):
    options = dict(FORMS[name])
    if "rotary" in options:
        options["rotary"] = angles(positions, size)
    return options


def on(device, options):
    rotary = options.get("rotary")
    return options | ({} if rotary is None else {"rotary": tuple(x.to(device) for x in rotary)})


@dtypes
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("heads", "key_heads", "size", "page"), [(6, 2, 10, 3), (4, 4, 24, 16)])
def test_growing_sequences(backend, device, dtype, form, heads, key_heads, size, page):
    lengths = [33, 0, 1, 18, 47]
    tensors = draw(lengths, heads, key_heads, size, dtype)
    options = form_of(form, max(lengths), size)
    steps = steps_of(np.random.default_rng(0), lengths, 20)
    got = grow(
        backend, lengths, tensors, (key_heads, size), page, steps, on(device, options), device
    )
    tolerance = ROTATED[dtype] if "rotary" in options else None
    assert_close(got.cpu(), whole(lengths, tensors, options), tolerance=tolerance)


@dtypes
@pytest.mark.parametrize("size", [7, 64, 128])
@pytest.mark.parametrize("page", [1, 5, 64])
def test_a_token_at_a_time(backend, device, dtype, size, page):
    if backend == "triton" and (size, page) != (64, 5) and device.type == "cpu":
        pytest.skip("slow in the interpreter")
    lengths = [21, 4]
    tensors = draw(lengths, 6, 2, size, dtype)
    steps = [[17, 1], *[[1, 1]] * 3, [1, 0]]
    got = grow(backend, lengths, tensors, (2, size), page, steps, {"max_seqlen_q": 17}, device)
    assert_close(got.cpu(), whole(lengths, tensors, {}))


@dtypes
def test_queries_of_last_tokens_alone(backend, device, dtype):
    """All new keys are written, and who asks stands at the ends."""
    lengths, new_k, new_q = [40, 7, 23], [40, 3, 20], [1, 2, 0]
    tensors = draw(lengths, 4, 2, 16, dtype)
    options = form_of("rotary", 40, 16)
    q, k, v = (x.to(device) for x in tensors)
    cache = Cache(lengths, (2, 16, 4), (dtype, device))
    first = [n - new for n, new in zip(lengths, new_k, strict=True)]
    early = ends(first, first)  # of packs that hold the first tokens alone
    begins = np.repeat(np.cumsum([0, *lengths])[:-1] - np.cumsum([0, *first])[:-1], first)
    rows = early + torch.from_numpy(begins)
    some = on(device, options) | {"backend": backend}
    cache.attend(paged_attention, *(x[rows] for x in (q, k, v)), first, first, first, **some)
    asking, added = ends(lengths, new_q), ends(lengths, new_k)
    got = cache.attend(
        paged_attention, q[asking], k[added], v[added], new_q, new_k, lengths, **some
    )
    expected = whole(lengths, tensors, options)[asking]
    assert_close(got.cpu(), expected, tolerance=ROTATED[dtype])


@dtypes
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group", [1, 7])
def test_bits_of_attention_without_pages(backend, device, dtype, form, group):
    """On a CPU, however a sequence grows, in whichever pages, on any number of threads."""
    if backend not in NATIVE:
        pytest.skip("promises no equal bits")
    rng = np.random.default_rng(1)
    lengths = [1, 130, 67, 0, 301]
    tensors = draw(lengths, 2 * group, 2, 20, dtype)
    options = form_of(form, max(lengths), 20)
    want = whole(lengths, tensors, options, backend)
    for page, most, threads in ((1, 300, 1), (3, 60, 2), (16, 301, 2), (50, 20, 1)):
        set_num_threads(threads)
        steps = steps_of(rng, lengths, most)
        got = grow(backend, lengths, tensors, (2, 20), page, steps, options, seed=page)
        assert torch.equal(got, want)


@dtypes
def test_sequence_does_not_depend_on_company(backend, device, dtype):
    lengths = [33, 1, 70, 7]
    tensors = draw(lengths, 4, 2, 24, dtype)
    options = on(device, form_of("all", 70, 24)) | {"deterministic": backend not in NATIVE}
    steps = [[30, 1, 3, 7], [1, 0, 66, 0], [1, 0, 1, 0], [1, 0, 0, 0]]
    together = grow(backend, lengths, tensors, (2, 24), 5, steps, options, device)
    for n, (start, length) in enumerate(zip(np.cumsum([0, *lengths]), lengths, strict=False)):
        rows = slice(int(start), int(start) + length)
        mine = [[step[n]] for step in steps if step[n]]
        own = tuple(x[rows] for x in tensors)
        alone = grow(backend, [length], own, (2, 24), 5, mine, options, device, seed=n + 1)
        assert torch.equal(alone, together[rows])


@dtypes
def test_nan_stays_in_its_sequence(backend, device, dtype):
    lengths = [10, 20]
    q, k, v = draw(lengths, 2, 2, 8, dtype)
    k[15, 0] = torch.nan
    out = grow(backend, lengths, (q, k, v), (2, 8), 4, [lengths], {}, device).cpu()
    assert out[15:, 0].isnan().all()
    assert out[:15].isfinite().all()
    assert out[:, 1].isfinite().all()


def test_a_wrong_page_or_position_is_seen(backend, device):
    """The definition tells them apart, so the tests above would."""
    lengths = [9, 12]
    tensors = draw(lengths, 2, 1, 16, torch.float32)
    options = form_of("rotary", 13, 16)
    want = whole(lengths, tensors, options)

    def run(change):
        q, k, v = (x.to(device) for x in tensors)
        cache = Cache(lengths, (1, 16, 4), (q.dtype, device))
        some = on(device, options) | {"backend": backend}
        cache.attend(paged_attention, q, k, v, lengths, lengths, lengths, **some)
        change(cache)
        last = ends(lengths, [1, 1])
        return cache.attend(
            paged_attention, q[last], k[last], v[last], [1, 1], [1, 1], lengths, **some
        ).cpu()

    def swap(cache):
        cache.table[0, 0], cache.table[1, 0] = cache.table[1, 0].clone(), cache.table[0, 0].clone()

    last = ends(lengths, [1, 1])
    assert_close(run(lambda cache: None), want[last])
    assert (run(swap) - want[last]).abs().max() > 1e-3
    late = {"rotary": tuple(x[1:] for x in options["rotary"])}
    cache = Cache(lengths, (1, 16, 4), (torch.float32, device))
    q, k, v = (x.to(device) for x in tensors)
    one_on = lengths, [8, 11], [8, 11]
    early = ends(lengths, [8, 11]) - 1
    cache.attend(
        paged_attention, *(x[early] for x in (q, k, v)), *one_on[1:], [8, 11],
        **on(device, options), backend=backend,
    )  # fmt: skip
    moved = cache.attend(
        paged_attention, *(x[last] for x in (q, k, v)), [1, 1], [1, 1], lengths,
        **on(device, {"rotary": tuple(x.contiguous() for x in late["rotary"])}), backend=backend,
    )  # fmt: skip
    assert (moved.cpu() - want[last]).abs().max() > 1e-3


def test_nothing_to_do(backend, device):
    cache = Cache([], (2, 8, 4), (torch.float32, device))
    q, k, v = (x.to(device) for x in draw([], 2, 2, 8, torch.float32))
    assert len(cache.attend(paged_attention, q, k, v, [], [], [], backend=backend)) == 0


def test_refusals():
    lengths = [5, 9]
    q, k, v = draw(lengths, 4, 2, 8, torch.float32)

    def call(new=(5, 9), so_far=(5, 9), change=None, tensors=(q, k, v), **options):
        cache = Cache(lengths, (2, 8, 4), (torch.float32, "cpu"))
        if change is not None:
            change(cache)
        return cache.attend(paged_attention, *tensors, [5, 9], list(new), list(so_far), **options)

    def with_table(value):
        def change(cache):
            cache.table[1, 2] = value

        return change

    call()
    with pytest.raises(ValueError, match=r"pages.table spans -1\.\."):
        call(change=with_table(-1))
    with pytest.raises(ValueError, match=r"pages.table spans .*\.\.8, there are 8 pages"):
        call(change=with_table(8))
    with pytest.raises(ValueError, match=r"has 17 tokens, and its row of pages.table room for 16"):
        call(so_far=(5, 17))
    with pytest.raises(ValueError, match="sequence 1 has 9 queries, more than its 8 keys"):
        call(so_far=(5, 8))
    with pytest.raises(ValueError, match="cu_seqlens_k must rise from 0 to 14"):
        call(new=(5, 10))
    with pytest.raises(ValueError, match="cos has 8 positions, the pack needs 9"):
        call(rotary=angles(8, 8))
    with pytest.raises(ValueError, match="k has 2 heads, which do not divide the 3 of q"):
        call(tensors=(q[:, :3], k, v))
    with pytest.raises(ValueError, match=r"v has shape \[14, 1, 8\], expected \[14, 2, 8\]"):
        call(tensors=(q, k, v[:, :1]))
    with pytest.raises(ValueError, match=r"v is torch.bfloat16, expected torch.float32"):
        call(tensors=(q, k, v.bfloat16()))
    with pytest.raises(ValueError, match="window is -1"):
        call(window=-1)
    with pytest.raises(ValueError, match="softcap is 0"):
        call(softcap=0.0)
    with pytest.raises(ValueError, match="scale is 0"):
        call(scale=0.0)
    with pytest.raises(ValueError, match="max_seqlen_q is 8, but a sequence has 9"):
        call(max_seqlen_q=8)
    with pytest.raises(ValueError, match=r"cannot run this call: the tensors are torch.float64"):
        names = {b.name for b in TABLE[OP]}
        assert {"scalar", "triton", "reference"} <= names
        cache = Cache(lengths, (2, 8, 4), (torch.float64, "cpu"))
        wide = (x.double() for x in (q, k, v))
        cache.attend(paged_attention, *wide, lengths, lengths, lengths, backend="scalar")
