import pytest
import torch

from packrank_kernels import pack_head, reference, score_head
from packrank_kernels.packed import PackedHead
from packrank_kernels.testing import assert_close

OP = "score_head"


def make_weights(size, inner, labels, device):
    dense = torch.randn(inner, size, device=device) / size**0.5
    out = torch.randn(labels, inner, device=device) / inner**0.5
    return dense, torch.randn(inner, device=device), out, torch.randn(labels, device=device)


def make_norm(inner, device):
    return torch.randn(inner, device=device), torch.randn(inner, device=device), 1e-5


def expect(hidden, rows, dense, dense_bias, activation, norm, out, out_bias):
    """The definition in float64."""
    pooled = hidden.double() if rows is None else hidden.double()[rows.long()]
    y = reference.linear(pooled, dense.double(), dense_bias, activation, False)
    if norm is not None:
        y, _ = reference.add_layer_norm(y, None, *norm)
    return reference.linear(y, out.double(), out_bias, None, False)


@pytest.mark.parametrize("of", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1), (48, 48, 1), (100, 37, 3), (384, 5, 2)], ids=str)
@pytest.mark.parametrize("normed", [False, True], ids=["plain", "norm"])
def test_equals_definition(backend, device, of, shape, normed):
    dense, dense_bias, out, out_bias = make_weights(*shape, device)
    norm = make_norm(shape[1], device) if normed else None
    hidden = torch.randn(21, shape[0], device=device).to(of)
    rows = torch.tensor([20, 0, 7, 7], dtype=torch.int32, device=device)
    head = pack_head(dense, dense_bias, "tanh", norm, out, out_bias, backend=backend)
    logits = score_head(hidden, head, rows)
    assert logits.dtype == torch.float32
    assert_close(logits, expect(hidden, rows, dense, dense_bias, "tanh", norm, out, out_bias))


@pytest.mark.parametrize("activation", [None, *reference.ACTIVATE])
def test_activation(backend, device, activation):
    dense, dense_bias, out, out_bias = make_weights(20, 30, 1, device)
    hidden = torch.randn(19, 20, device=device) * 4
    head = pack_head(dense, dense_bias, activation, None, out, out_bias, backend=backend)
    expected = expect(hidden, None, dense, dense_bias, activation, None, out, out_bias)
    assert_close(score_head(hidden, head), expected)


@pytest.mark.parametrize("activation", reference.ACTIVATE)
def test_activation_at_extremes(backend, device, activation):
    x = [-3e38, -1e30, -90.0, -6.5, -1.0, -0.1, -1e-30, 0.0, 1e-30, 0.2, 0.3, 6.5, 90.0, 1e30]
    hidden = torch.tensor(x, device=device)[:, None]
    one = torch.ones(1, 1, device=device)
    head = pack_head(one, None, activation, None, one, None, backend=backend)
    expected = reference.ACTIVATE[activation](hidden.double())
    logits = score_head(hidden, head)
    torch.testing.assert_close(logits.double(), expected, rtol=2e-6, atol=1e-7)


def test_tanh_of_little_is_not_cancelled(backend, device):
    hidden = torch.tensor([1e-30, 1e-6, 1e-3, 0.02, 0.24, -0.26, -1e-4], device=device)[:, None]
    one = torch.ones(1, 1, device=device)
    head = pack_head(one, None, "tanh", None, one, None, backend=backend)
    expected = torch.tanh(hidden.double())
    torch.testing.assert_close(score_head(hidden, head).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("activation", [None, *reference.ACTIVATE])
def test_nan_stays_in_its_row(backend, device, activation):
    dense, dense_bias, out, out_bias = make_weights(20, 30, 2, device)
    hidden = torch.randn(19, 20, device=device)
    hidden[7, 3] = float("nan")
    norm = make_norm(30, device)
    logits = score_head(
        hidden, pack_head(dense, dense_bias, activation, norm, out, out_bias, backend=backend)
    )
    assert logits[7].isnan().all()
    assert logits.isnan().sum() == 2


def test_missing_biases_are_zero(backend, device):
    dense, _, out, _ = make_weights(20, 30, 2, device)
    weight = torch.randn(30, device=device)
    hidden = torch.randn(5, 20, device=device)
    head = pack_head(dense, None, "gelu", (weight, None, 1e-5), out, None, backend=backend)
    expected = expect(hidden, None, dense, None, "gelu", (weight, None, 1e-5), out, None)
    assert_close(score_head(hidden, head), expected)


def test_row_does_not_depend_on_company(backend, device):
    if backend == "reference":
        pytest.skip("the definition promises values, not bits")
    dense, dense_bias, out, out_bias = make_weights(100, 30, 3, device)
    norm = make_norm(30, device)
    head = pack_head(dense, dense_bias, "gelu", norm, out, out_bias, backend=backend)
    hidden = torch.randn(20, 100, device=device)
    whole = score_head(hidden, head)
    for rows in ([0], [19], [3, 17, 18], list(range(19, -1, -1))):
        picked = torch.tensor(rows, dtype=torch.int32, device=device)
        assert torch.equal(score_head(hidden, head, picked), whole[rows])


def test_strided_rows(backend, device):
    dense, dense_bias, out, out_bias = make_weights(20, 30, 1, device)
    hidden = torch.randn(9, 3, 20, device=device)[:, 1]
    rows = torch.tensor([[8, 0], [2, 0]], dtype=torch.int32, device=device)[:, 0]
    head = pack_head(dense, dense_bias, "tanh", None, out, out_bias, backend=backend)
    expected = expect(hidden, rows, dense, dense_bias, "tanh", None, out, out_bias)
    assert_close(score_head(hidden, head, rows), expected)


def test_no_rows(backend, device):
    dense, dense_bias, out, out_bias = make_weights(20, 30, 2, device)
    head = pack_head(dense, dense_bias, None, None, out, out_bias, backend=backend)
    rows = torch.zeros(0, dtype=torch.int32, device=device)
    assert score_head(torch.randn(4, 20, device=device), head, rows).shape == (0, 2)


def test_refusals():
    dense, dense_bias, out, out_bias = make_weights(8, 6, 1, torch.device("cpu"))
    head = pack_head(dense, dense_bias, None, None, out, out_bias)
    assert isinstance(head, PackedHead)
    with pytest.raises(ValueError, match=r"hidden has shape \[2, 9\], expected \[T, 8\]"):
        score_head(torch.randn(2, 9), head)
    with pytest.raises(ValueError, match="rows of hidden must be contiguous"):
        score_head(torch.randn(8, 2).T, head)
    with pytest.raises(ValueError, match=r"rows is torch.int64, expected torch.int32"):
        score_head(torch.randn(2, 8), head, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"out has shape \[1, 5\], expected \[labels, 6\]"):
        pack_head(dense, dense_bias, None, None, out[:, :5], out_bias)
    with pytest.raises(ValueError, match="'swish' is none of gelu"):
        pack_head(dense, dense_bias, "swish", None, out, out_bias)
