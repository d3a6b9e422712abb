import pytest
import torch

from packrank_kernels import reference
from packrank_kernels.backend import cublas
from packrank_kernels.backend.triton import availability
from packrank_kernels.dispatch import choose
from packrank_kernels.testing import assert_close

CUDA = torch.device("cuda")
HALF = torch.float16


@pytest.mark.parametrize(
    ("device", "dtype", "facts", "reason"),
    [
        ("cpu", HALF, {}, "the tensors are on cpu, not on a CUDA device"),
        ("cuda", torch.float64, {}, "the tensors are torch.float64, not torch.float32"),
        ("cuda", HALF, {"gated": True}, "cuBLASLt has no gated epilogue"),
        ("cuda", HALF, {"activation": "gelu"}, "cuBLASLt has no exact gelu epilogue"),
        ("cuda", HALF, {"activation": "silu"}, "cuBLASLt has no exact silu epilogue"),
        ("cuda", HALF, {"deterministic": True}, "depends on the number of rows"),
    ],
)
def test_says_why_not(device, dtype, facts, reason):
    assert reason in cublas.why_not(torch.device(device), dtype, **facts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, HALF], ids=str)
def test_accepts_a_plain_layer(dtype):
    facts = {"activation": None, "gated": False, "deterministic": False, "in_features": 3}
    assert cublas.why_not(CUDA, dtype, **facts) is None


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({}, "cublas"),
        ({"activation": "gelu_tanh"}, "triton"),
        ({"activation": "gelu"}, "triton"),
        ({"gated": True}, "triton"),
        ({"deterministic": True}, "triton"),
    ],
    ids=str,
)
def test_linear_goes_to_triton_where_cublas_refuses(monkeypatch, facts, name):
    pytest.importorskip("triton")
    monkeypatch.setattr(availability, "_capability", lambda device: (9, 0))
    assert choose("linear", "auto", CUDA, HALF, **facts).name == name


def test_named_refusal_gives_the_reason():
    message = "linear: backend 'cublas' cannot run this call: cuBLASLt has no exact gelu epilogue"
    with pytest.raises(ValueError, match=message):
        choose("linear", "cublas", CUDA, HALF, activation="gelu")


DEVICES = ["cpu"]
if torch.cuda.is_available():
    DEVICES.append(pytest.param("cuda", marks=pytest.mark.gpu))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, HALF], ids=str)
@pytest.mark.parametrize("shape", [(0, 8, 8), (33, 64, 48), (7, 24, 1)], ids=str)
def test_equals_definition(device, dtype, shape):
    t, k, n = shape
    x, weight = (torch.randn(size).to(device, dtype) for size in ((t, k), (n, k)))
    bias = torch.randn(n, device=device)
    out = cublas.linear(x, weight / k**0.5, bias.to(x.dtype), None, False)
    expected = reference.linear(x.double(), (weight / k**0.5).double(), bias, None, False)
    assert out.dtype == dtype
    assert_close(out, expected)
