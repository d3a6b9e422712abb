"""Activations against torch's, and the order that they keep."""

import typing

import numpy as np
import pytest
import torch

from packrank.checkpoint.config import Activation, activation_named
from packrank.errors import InputError, ModelError
from packrank.scoring.activations import (
    activate,
    best_first,
    check_activation,
    known_activation,
)

CLASSES = ["Identity", "Sigmoid", "Tanh", "Softmax", "ReLU", "LogSigmoid", "Softplus"]
EDGES = [3e38, 88.5, 20.5, 3.0, 1e-30, 0.0, -1e-9, -0.5, -17.0, -90.0, -3e38]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("labels", [1, 2, 3])
def test_it_is_torchs(name: str, labels: int) -> None:
    """As sentence-transformers applies it, to [N, labels]; the float64 of torch is the oracle."""
    edges = torch.tensor([*EDGES, *(torch.randn(21) * 4).tolist(), 1.0]).reshape(-1, 1)
    logits = torch.cat([edges.roll(place, 0) for place in range(labels)], dim=1)
    made = getattr(torch.nn, name)
    want = (made(dim=1) if name == "Softmax" else made())(logits.double()).float().numpy()
    chosen = known_activation(activation_named(f"torch.nn.modules.activation.{name}") or "", 2)
    got = activate(logits.numpy(), chosen)
    assert got.dtype == np.float32
    # torch takes the identity for a softplus from 20 on, which is 2e-9 less.
    np.testing.assert_allclose(got, want, rtol=2e-7, atol=1e-38)


def test_nan_stays_nan_and_alone() -> None:
    logits = np.array([[np.nan, np.nan], [1.0, 2.0]], dtype=np.float32)
    for name in typing.get_args(Activation):
        scores = activate(logits, name, 1.0)
        assert np.isnan(scores).tolist() == [[True, True], [False, False]]
        assert [index for index, _ in best_first(logits, 1, name)] == [1]


def test_normalized_is_the_sigmoid_about_a_middle() -> None:
    [[score]] = activate(np.array([[5.0]], dtype=np.float32), "normalized", 4.5)
    assert score == np.float32(1 / (1 + np.exp(-0.5)))


def test_what_an_activation_rounds_to_one_score_is_still_in_order() -> None:
    logits = np.array([[30.0, 0.0], [31.0, 0.0], [30.5, 0.0]], dtype=np.float32)
    for name in ("identity", "sigmoid", "tanh", "softmax", "logsigmoid", "softplus", "normalized"):
        assert [index for index, _ in best_first(logits, 0, name)] == [1, 2, 0], name
    ties = np.zeros((3, 1), dtype=np.float32)
    assert best_first(ties, 0, "tanh") == [(0, 0.0), (1, 0.0), (2, 0.0)]


def test_what_is_none_is_named() -> None:
    for path in ("torch.nn.GELU", "torch.nn.functional.relu", "torch.sigmoid", "torch.x.Sigmoid"):
        named = activation_named(path)
        assert named == path
        with pytest.raises(ModelError, match=f"activation_fn '{path}' is not supported; pass act"):
            known_activation(named, 1)


def test_a_softmax_of_one_label_is_refused() -> None:
    """It would be 1.0 for every pair, as it is in sentence-transformers."""
    assert torch.nn.Softmax(dim=1)(torch.randn(5, 1)).unique().tolist() == [1.0]
    assert known_activation("softmax", 2) == "softmax"
    check_activation("softmax", 3)
    check_activation(None, 1)
    message = "a softmax makes 1.0 of every score of a model that has one label"
    with pytest.raises(ModelError, match=f"{message}; pass activation=, another of 'identity'"):
        known_activation("softmax", 1)
    with pytest.raises(InputError, match=f"activation is 'softmax', and {message}; leave it out"):
        check_activation("softmax", 1)
