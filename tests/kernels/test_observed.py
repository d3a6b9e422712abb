"""Ops seen by who measures them: each once, with what it was given, and nothing of it changed."""

import pytest
import torch

from packrank_kernels import add_layer_norm, linear, observed, pack_linear


def test_an_observer_sees_every_op_and_its_result_stands() -> None:
    x, weight, ones = torch.randn(5, 8), torch.randn(3, 8), torch.ones(8)
    layer = pack_linear(weight)
    expected = linear(x, layer), add_layer_norm(x, x, ones, None, 1e-5)[0]
    seen = []

    def observe(call):
        seen.append((call.op, call.backend, call.args[0].shape))
        return call()

    with observed(observe):
        found = linear(x, layer), add_layer_norm(x, x, ones, None, 1e-5)[0]
    linear(x, layer)
    assert [op for op, *_ in seen] == ["linear", "add_layer_norm"]
    assert seen[0][1:] == (layer.backend, (5, 8))
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(mine, other)


def test_an_observer_may_stand_in_for_an_op() -> None:
    layer = pack_linear(torch.randn(3, 8))
    with observed(lambda call: call.op):
        assert linear(torch.randn(5, 8), layer) == "linear"


def test_one_observer_at_a_time_and_none_after_an_error() -> None:
    with (
        pytest.raises(ValueError, match="observed already"),
        observed(lambda call: None),
        observed(lambda call: None),
    ):
        pass
    assert linear(torch.randn(2, 8), pack_linear(torch.randn(3, 8))).shape == (2, 3)
