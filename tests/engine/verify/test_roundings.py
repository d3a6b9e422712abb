"""How far roundings may reach: measured where it can be worked out, and by the dtype."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from packrank.checkpoint.config import load_config
from packrank.request import Int32
from packrank.verify.reading import Float32, Pair, read
from packrank.verify.roundings import measured_spread, relative


class Product:
    """A model that is one product of a weight with what a text says."""

    name = "a product"

    def __init__(self, size: int) -> None:
        self.module = torch.nn.Linear(size, 5, bias=False)

    def tokens(self, query: str, document: str) -> tuple[Int32, ...]:
        return (np.array([len(query)], dtype=np.int32),)

    def values(self, query: str, document: str) -> tuple[Float32, ...]:
        generator = torch.Generator().manual_seed(int(query))
        x = torch.randn(self.module.in_features, generator=generator)
        return (self.module(x).numpy(),)

    def scores(self, values: tuple[Float32, ...]) -> Float32:
        return 3 * values[0]


def test_a_spread_is_the_root_of_the_squares_of_the_terms() -> None:
    model, pairs = Product(50), [(str(i), "") for i in range(40)]
    before = [read(model, pair, whole=True) for pair in pairs]
    inputs = [torch.randn(50, generator=torch.Generator().manual_seed(i)) for i in range(40)]
    terms = torch.stack([model.module.weight.detach() * x for x in inputs])
    want = float(terms.square().sum(2).mean().sqrt())
    found = measured_spread(model, pairs, before)
    assert found.values == pytest.approx(want, rel=0.2)
    assert found.scores == pytest.approx(3 * found.values, rel=1e-2)


def test_one_value_of_no_number_does_not_hide_the_others() -> None:
    model = Product(50)
    pairs: list[Pair] = [("1", ""), ("2", "")]
    before = [read(model, pair, whole=True) for pair in pairs]
    before[0].values[0][0] = np.nan  # type: ignore[index]
    assert 0 < measured_spread(model, pairs, before).values < np.inf


def test_roundings_follow_the_dtype(checkpoint: Callable[..., Path]) -> None:
    config = load_config(checkpoint("Bert", num_labels=1))
    half, brain = relative(torch.float16, config), relative(torch.bfloat16, config)
    assert brain == 8 * half
    assert 2**-26 < relative(torch.float32, config) < 2**-21
