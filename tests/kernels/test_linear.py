import numpy as np
import pytest
import torch

from packrank_kernels import linear, pack_linear, reference
from packrank_kernels.dispatch import TABLE
from packrank_kernels.packed import ACTIVATIONS
from packrank_kernels.testing import assert_close

OP = "linear"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [
    (0, 8, 8),
    (1, 1, 1),
    (3, 33, 7),  # odd inner size: the last bfloat16 pair is half empty
    (97, 384, 48),  # one row past a task, one whole panel
    (25, 64, 49),  # one row past a block, one column past a panel
    (200, 47, 96),
    (5, 3072, 80),
]


@pytest.fixture(autouse=True)
def _no_warnings_of_floats():
    """Triton's interpreter computes in numpy, which warns of infinities and NaN."""
    with np.errstate(all="ignore"):
        yield


def pack(backend, weight, bias=None, **options):
    """`pack_linear`, or a skip with the backend's reason."""
    [candidate] = [b for b in TABLE["linear"] if b.name == backend]
    reason = candidate.why_not(weight.device, weight.dtype, **options)
    if reason:
        pytest.skip(reason)
    return pack_linear(weight, bias, backend=backend, **options)


def make(shape, dtype, device, gated=False):
    t, k, n = shape
    rows = 2 * n if gated else n
    weight = (torch.randn(rows, k) / k**0.5).to(dtype)
    x, bias = torch.randn(t, k).to(dtype), torch.randn(rows)
    return x.to(device), weight.to(device), bias.to(device)


def definition(x, weight, bias, activation=None, gated=False):
    return reference.linear(x.double(), weight.double(), bias, activation, gated)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 33, 7), (19, 64, 96)])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_wide_results_are_not_rounded(backend, device, dtype, shape, activation):
    x, weight, bias = make(shape, dtype, device)
    packed = pack(backend, weight, bias, activation=activation, wide=True)
    got = linear(x, packed)
    assert got.dtype == torch.float32
    assert_close(got, definition(x, weight, bias, activation), tolerance=2e-5)
    narrow = linear(x, pack(backend, weight, bias, activation=activation))
    assert torch.equal(narrow, got.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "T{}-K{}-N{}".format(*s))
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_equals_definition(backend, device, dtype, shape, gated):
    if (backend, device.type) == ("triton", "cpu") and shape[1] > 1000:
        pytest.skip("the interpreter takes seconds for this, and the steps are those of smaller K")
    x, weight, bias = make(shape, dtype, device, gated)
    packed = pack(backend, weight, bias, gated=gated)
    assert_close(linear(x, packed), definition(x, weight, bias, gated=gated))


def test_every_activation_is_defined():
    assert tuple(reference.ACTIVATE) == ACTIVATIONS


@pytest.mark.parametrize("activation", reference.ACTIVATE)
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_activation(backend, device, activation, gated):
    x, weight, bias = make((26, 20, 50), torch.float32, device, gated)
    expected = definition(x * 4, weight, bias, activation, gated)
    packed = pack(backend, weight, bias, activation=activation, gated=gated)
    assert_close(linear(x * 4, packed), expected, tolerance=2e-6)


@pytest.mark.parametrize("activation", reference.ACTIVATE)
def test_activation_everywhere(backend, device, activation):
    if backend == "reference":
        pytest.skip("torch's GELU loses its tail in float32")
    far = torch.tensor([-3e38, -1e30, -90.0, -1e-30, 0.0, 1e-30, 90.0, 1e30])
    x = torch.cat([far, torch.linspace(-9, 9, 301)])[:, None]
    packed = pack(backend, torch.ones(1, 1, device=device), activation=activation)
    actual = linear(x.to(device), packed)[:, 0]
    expected = reference.ACTIVATE[activation](x[:, 0].double())
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("activation", [None, *reference.ACTIVATE])
def test_nan_propagates_within_its_row(backend, device, activation):
    x, weight, bias = make((30, 16, 50), torch.float32, device)
    x[7, 3] = float("nan")
    out = linear(x, pack(backend, weight, bias, activation=activation))
    assert out[7].isnan().all()
    assert out[[i for i in range(30) if i != 7]].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(200, 100, 98), (200, 64, 104)], ids=["odd", "aligned"])
def test_row_does_not_depend_on_company(backend, device, dtype, shape):
    if backend == "reference":
        pytest.skip("the definition promises values, not bits")
    x, weight, bias = make(shape, dtype, device)
    packed = pack(backend, weight, bias, activation="gelu", deterministic=True)
    whole = linear(x, packed)
    for start, stop in [(0, 1), (5, 12), (95, 98), (100, 200), (199, 200)]:
        part = linear(x[start:stop], packed)
        assert torch.equal(part, whole[start:stop])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ["every third", "not on 16 bytes", "one, many times"])
def test_strided_rows(backend, device, dtype, rows):
    values = torch.randn(40 * 3 * 32 + 1, device=device).to(dtype)
    x = {
        "every third": values[1:].view(40, 3, 32)[:, 1],
        "not on 16 bytes": values[1:].view(120, 32),
        "one, many times": values[:32].expand(40, 32),
    }[rows]
    weight = torch.randn(16, 32, device=device).to(dtype)
    packed = pack(backend, weight)
    assert_close(linear(x, packed), definition(x, weight, None))


# Triton's forms and tiles, those too that the sizes above do not choose. The interpreter knows no
# capability and has descriptors.
TRITON = [("cpu", torch.float16)]
if torch.cuda.is_available():
    TRITON = [
        pytest.param("cuda", dtype, marks=pytest.mark.gpu)
        for dtype in (torch.float16, torch.bfloat16)
    ]


def tiles_of(triton_linear, form):
    if form == "descriptors":
        return triton_linear.DESCRIPTOR_TILES
    return triton_linear.POINTER_TILES + triton_linear.ODD_TILES


@pytest.mark.parametrize(("device", "dtype"), TRITON)
@pytest.mark.parametrize("form", ["descriptors", "pointers"])
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_every_triton_tile(device, dtype, form, gated):
    triton_linear = pytest.importorskip("packrank_kernels.backend.triton.linear")
    if form == "descriptors" and device == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("descriptors are for compute capability 9.0")
    x, weight, bias = make((130, 72, 72 if gated else 136), dtype, device, gated)
    expected = definition(x, weight, bias, "gelu", gated)
    data = triton_linear.pack_linear(weight, gated)
    outs = [
        getattr(triton_linear, f"by_{form}")(x, data, bias, "gelu", gated, tile)
        for tile in tiles_of(triton_linear, form)
    ]
    for out in outs:
        assert_close(out, expected)
        if device == "cuda":  # in the interpreter sums are those of a library
            assert torch.equal(out, outs[0])


@pytest.mark.parametrize(("device", "dtype"), TRITON)
@pytest.mark.parametrize("form", ["descriptors", "pointers"])
def test_triton_reaches_every_tile(device, dtype, form):
    """Ten tiles of rows, in groups of eight and two, by two of columns, of which one is narrow."""
    triton_linear = pytest.importorskip("packrank_kernels.backend.triton.linear")
    if form == "descriptors" and device == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("descriptors are for compute capability 9.0")
    x, weight, bias = make((600, 16, 40), dtype, device)
    tile = tiles_of(triton_linear, form)[-1]
    out = getattr(triton_linear, f"by_{form}")(x, weight, bias, None, False, tile)
    assert_close(out, definition(x, weight, bias))


@pytest.mark.parametrize(("device", "dtype"), TRITON)
@pytest.mark.parametrize("activation", reference.ACTIVATE)
def test_triton_activation_of_infinity(device, dtype, activation):
    x = torch.full((1, 1), float("inf"), device=device, dtype=dtype)
    out = linear(x, pack("triton", torch.ones_like(x), activation=activation))
    assert out.item() == (1 if activation == "tanh" else float("inf"))


def test_triton_tile_follows_the_rows():
    """By hand: 132 processors, 768 -> 3072; 1 and 48 tiles of 64 rows leave most idle."""
    triton_linear = pytest.importorskip("packrank_kernels.backend.triton.linear")

    def chosen(rows, columns=3072, k=768):
        tile = triton_linear.choose_tile(
            triton_linear.DESCRIPTOR_TILES, rows, columns, k, torch.float16, 132
        )
        return tile.m, tile.n

    assert chosen(1) == (64, 32)
    assert chosen(8192) == (128, 256)
    assert chosen(8192, columns=1536, k=384) == (128, 128)  # the epilogue is as long as the sums


def test_triton_variants_name_every_tile():
    triton_linear = pytest.importorskip("packrank_kernels.backend.triton.linear")
    variants = list(triton_linear.variants())
    assert len({variant.name for variant in variants}) == len(variants)
    for form in ("descriptor", "pointer"):
        shapes = {
            (v.constexprs["BLOCK_M"], v.constexprs["BLOCK_N"], v.num_warps, v.num_stages)
            for v in variants
            if v.matrix and f"linear {form}" in v.name
        }
        tiles = tiles_of(triton_linear, f"{form}s")
        assert shapes == {(tile.m, tile.n, tile.warps, tile.stages) for tile in tiles}


def test_refusals():
    packed = pack_linear(torch.randn(4, 8))
    with pytest.raises(ValueError, match="rows of x must be contiguous"):
        linear(torch.randn(8, 4).T, packed)
    with pytest.raises(ValueError, match=r"x has shape \[2, 9\], expected \[T, 8\]"):
        linear(torch.randn(2, 9), packed)
    with pytest.raises(ValueError, match=r"x is torch.bfloat16, expected torch.float32"):
        linear(torch.randn(2, 8).bfloat16(), packed)
    with pytest.raises(ValueError, match="'swish' is none of gelu"):
        pack_linear(torch.randn(4, 8), activation="swish")
    with pytest.raises(ValueError, match="even number of rows, got 3"):
        pack_linear(torch.randn(3, 8), gated=True)
    with pytest.raises(ValueError, match=r"bias has shape \[3\], expected \[4\]"):
        pack_linear(torch.randn(4, 8), torch.zeros(3))
    with pytest.raises(ValueError, match="no backend 'mkl'; there are: auto, amx"):
        pack_linear(torch.randn(4, 8), backend="mkl")
