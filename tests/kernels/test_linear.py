import pytest
import torch

from packrank_kernels import linear, pack_linear, reference
from packrank_kernels.dispatch import TABLE
from packrank_kernels.testing import assert_close

BACKENDS = [b.name for b in TABLE["linear"]]
DTYPES = [torch.float32, torch.bfloat16]


def make(shape, dtype, gated=False):
    t, k, n = shape
    rows = 2 * n if gated else n
    weight = (torch.randn(rows, k) / k**0.5).to(dtype)
    return torch.randn(t, k).to(dtype), weight, torch.randn(rows)


@pytest.fixture(params=BACKENDS)
def backend(request):
    reason = TABLE["linear"][BACKENDS.index(request.param)].why_not(
        torch.device("cpu"), torch.float32
    )
    if reason:
        pytest.skip(reason)
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        (0, 8, 8),
        (1, 1, 1),
        (3, 33, 7),  # odd inner size: the last bfloat16 pair is half empty
        (97, 384, 48),  # one row past a task, one whole panel
        (25, 64, 49),  # one row past a block, one column past a panel
        (200, 47, 96),
        (5, 3072, 80),
    ],
    ids=lambda s: "T{}-K{}-N{}".format(*s),
)
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_equals_definition(backend, dtype, shape, gated):
    x, weight, bias = make(shape, dtype, gated)
    packed = pack_linear(weight, bias, gated=gated, backend=backend)
    assert_close(linear(x, packed), reference.linear(x, weight, bias, None, gated))


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_activation(backend, activation, gated):
    x, weight, bias = make((26, 20, 50), torch.float32, gated)
    x, weight = x.double(), weight.double()
    expected = reference.linear(x * 4, weight, bias, activation, gated)
    packed = pack_linear(weight.float(), bias, gated=gated, backend=backend)
    actual = linear(x.float() * 4, packed, activation=activation)
    assert_close(actual, expected, tolerance=2e-6)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu", "relu", "tanh"])
def test_activation_at_extremes(backend, activation):
    x = torch.tensor([-3e38, -1e30, -90.0, -6.5, -1e-30, 0.0, 1e-30, 6.5, 90.0, 1e30])[:, None]
    packed = pack_linear(torch.ones(1, 1), backend=backend)
    actual = linear(x, packed, activation=activation)[:, 0]
    expected = reference.ACTIVATIONS[activation](x[:, 0].double())
    torch.testing.assert_close(actual.double(), expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("activation", [None, *reference.ACTIVATIONS])
def test_nan_propagates_within_its_row(backend, activation):
    x, weight, bias = make((30, 16, 50), torch.float32)
    x[7, 3] = float("nan")
    out = linear(x, pack_linear(weight, bias, backend=backend), activation=activation)
    assert out[7].isnan().all()
    assert out[[i for i in range(30) if i != 7]].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_row_does_not_depend_on_company(backend, dtype):
    if backend == "reference":
        pytest.skip("the definition promises values, not bits")
    x, weight, bias = make((300, 100, 130), dtype)
    packed = pack_linear(weight, bias, backend=backend)
    whole = linear(x, packed, activation="gelu")
    for start, stop in [(0, 1), (5, 12), (95, 98), (100, 300), (299, 300)]:
        part = linear(x[start:stop], packed, activation="gelu")
        assert torch.equal(part, whole[start:stop])


def test_strided_rows(backend):
    x = torch.randn(40, 3, 32)
    weight = torch.randn(9, 32)
    packed = pack_linear(weight, backend=backend)
    assert_close(linear(x[:, 1], packed), reference.linear(x[:, 1], weight, None, None, False))


def test_refusals():
    packed = pack_linear(torch.randn(4, 8))
    with pytest.raises(ValueError, match="rows of x must be contiguous"):
        linear(torch.randn(8, 4).T, packed)
    with pytest.raises(ValueError, match=r"x has shape \[2, 9\], expected \[T, 8\]"):
        linear(torch.randn(2, 9), packed)
    with pytest.raises(ValueError, match=r"x is torch.bfloat16, expected torch.float32"):
        linear(torch.randn(2, 8).bfloat16(), packed)
    with pytest.raises(ValueError, match="'swish' is none of gelu"):
        linear(torch.randn(2, 8), packed, activation="swish")
    with pytest.raises(ValueError, match="even number of rows, got 3"):
        pack_linear(torch.randn(3, 8), gated=True)
    with pytest.raises(ValueError, match=r"bias has shape \[3\], expected \[4\]"):
        pack_linear(torch.randn(4, 8), torch.zeros(3))
    with pytest.raises(ValueError, match="no backend 'mkl'; there are: auto, avx512"):
        pack_linear(torch.randn(4, 8), backend="mkl")
