"""Poolings of a pack by hand in float64, in buckets with room to spare, and layers after them."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from packrank.checkpoint.scoring_modules import (
    ACTIVATIONS,
    DenseModule,
    NormalizeModule,
    ScoringModules,
)
from packrank.checkpoint.weights import Weights
from packrank.errors import ModelError
from packrank.models.base import Parameters
from packrank.models.modular_head import ModularHead

LENGTHS = [4, 1, 7, 2, 3]
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
PARAMETERS = Parameters(Weights({}), "", torch.device("cpu"), torch.float32)


def pooled(mode: str, skipped: int, hidden: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """What a head that only pools says, every vector at length 1."""
    unit = NormalizeModule("sentence_embedding", "scores")
    modules = ScoringModules((), (mode,), (unit,), hidden.shape[1], skipped=skipped)
    return ModularHead(modules, PARAMETERS).of_all(hidden, cu_seqlens)


def by_hand(mode: str, rows: np.ndarray) -> np.ndarray:
    """sentence-transformers' rules, for the rows of a sequence that are pooled."""
    places = np.arange(len(rows))[:, None] + 1.0
    return {
        "cls": rows[0],
        "max": rows.max(0),
        "mean": rows.mean(0),
        "mean_sqrt_len_tokens": rows.sum(0) / len(rows) ** 0.5,
        "weightedmean": (rows * places).sum(0) / places.sum(),
        "lasttoken": rows[-1],
    }[mode]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_poolings(mode: str, dtype: torch.dtype) -> None:
    cu_seqlens = torch.tensor([0, *np.cumsum(LENGTHS)], dtype=torch.int32)
    hidden = torch.randn(sum(LENGTHS), 9).to(dtype)
    got = pooled(mode, 0, hidden, cu_seqlens)
    assert got.dtype == torch.float32
    for n, (start, stop) in enumerate(pairwise(cu_seqlens.tolist())):
        want = by_hand(mode, hidden[start:stop].double().numpy())
        np.testing.assert_allclose(got[n], want / np.linalg.norm(want), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("skipped", [0, 2])
def test_room_to_spare_changes_no_bit(mode: str, skipped: int) -> None:
    """Tokens that belong to no sequence, and sequences at the end that are empty."""
    ends = np.cumsum([0, *LENGTHS])
    hidden = torch.randn(sum(LENGTHS), 9)
    exact = pooled(mode, skipped, hidden, torch.tensor(ends, dtype=torch.int32))
    wider = torch.cat([hidden, torch.full((5, 9), 1e9)])
    padded = torch.tensor([*ends, ends[-1], ends[-1]], dtype=torch.int32)
    got = pooled(mode, skipped, wider, padded)
    np.testing.assert_array_equal(got[: len(LENGTHS)], exact)


def dense(folder: Path, activation: str, **tensors: torch.Tensor) -> ScoringModules:
    weights = {"linear.weight": torch.randn(5, 9), "linear.bias": torch.randn(5)} | tensors
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"activation_function": activation}))
    module = DenseModule(folder, "sentence_embedding", "scores", 9, 5, True, activation, False)
    return ScoringModules((), ("cls",), (module,), 5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs_whatever_the_company(name: str, tmp_path: Path) -> None:
    extra = {"activation_function.weight": torch.tensor([0.3])} if name == "PReLU" else {}
    modules = dense(tmp_path, name, **extra)
    head, x = ModularHead(modules, PARAMETERS), 3 * torch.randn(37, 9)
    made: Any = torch.nn.PReLU(init=0.3) if name == "PReLU" else getattr(torch.nn, name)()
    if "oftm" in name:
        made.dim = 1
    weights = Weights.open(tmp_path)
    weight, bias = weights.take("linear.weight", (5, 9)), weights.take("linear.bias", (5,))
    with torch.no_grad():
        want = made.eval().double()(x.double() @ weight.double().T + bias.double())
    np.testing.assert_allclose(head(x), want, rtol=0, atol=2e-5)
    assert torch.equal(torch.cat([head(row[None]) for row in x]), head(x))


def test_weights_are_those_that_the_config_implies(tmp_path: Path) -> None:
    more = dense(tmp_path, "Tanh", **{"residual.weight": torch.randn(5, 9)})
    with pytest.raises(ModelError, match=r"has an unexpected tensor residual.weight; its config"):
        ModularHead(more, PARAMETERS)
    with pytest.raises(ModelError, match=r"has a tensor missing; its config.json implies act"):
        ModularHead(dense(tmp_path, "PReLU"), PARAMETERS)
