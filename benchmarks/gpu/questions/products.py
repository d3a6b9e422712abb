"""Linear layers."""

import torch

from packrank_kernels import linear, pack_linear, reference
from questions.asking import Device, check, told


def linear_layers(at: Device) -> None:
    """By the copy engine and tensor cores where there are any, and by cuBLASLt."""
    for inputs, outputs, activation, gated in (
        (384, 1536, "gelu", False), (1536, 384, None, False), (768, 1152, "gelu", True),
    ):  # fmt: skip
        weight = at.draw(outputs * (1 + gated), inputs) / inputs**0.5
        bias = torch.randn(len(weight), device=at.device)
        for rows in (1000, 33):
            x = at.draw(rows, inputs)
            expected = reference.linear(x.float(), weight.float(), bias, activation, gated)
            for name in ("triton",) if activation else ("triton", "cublas"):
                packed = pack_linear(
                    weight, bias, activation=activation, gated=gated,
                    backend=at.named("linear", name),
                )  # fmt: skip
                check(lambda x=x, packed=packed: linear(x, packed), expected)


def wide_layers(at: Device) -> None:
    """Of a bfloat16 weight the sums as they are: a vocabulary's, for a few rows and for many."""
    dtype, (inputs, outputs) = torch.bfloat16, (64, 99) if at.dry else (896, 4999)
    backend = at.named("linear", "triton", dtype)
    weight = at.draw(outputs, inputs, dtype=dtype) / inputs**0.5
    layer = pack_linear(weight, wide=True, backend=backend)
    for rows in (1, 16, 33, 300):
        x = at.draw(rows, inputs, dtype=dtype)
        expected = reference.linear(x.double(), weight.double(), None, None, False)
        with told(f"{rows} rows"):
            assert linear(x, layer).dtype == torch.float32
            check(lambda x=x: linear(x, layer), expected)
