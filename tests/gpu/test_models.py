"""Whole models on the device against transformers in float64 on the CPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from packrank.models import load_model
from packrank.request import Sequence
from packrank.runtime.graphs import PATIENCE
from packrank.runtime.runner import Runner

pytestmark = pytest.mark.gpu

Oracle = Callable[..., np.ndarray]
Rms = Callable[[np.ndarray], float]
HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
@pytest.mark.parametrize("deterministic", [False, True], ids=["fastest", "deterministic"])
def test_halves_are_as_near_as_transformers_own(
    cuda: torch.device,
    folder: Path,
    sequences: list[Sequence],
    oracle: Oracle,
    rms: Rms,
    dtype: torch.dtype,
    deterministic: bool,
) -> None:
    exact = oracle(folder, sequences, "cpu", torch.float64)
    theirs = rms(oracle(folder, sequences, cuda, dtype) - exact)
    model = load_model(folder, device=cuda, dtype=dtype, deterministic=deterministic)
    for budget in (300, 100_000):
        runner = Runner(model, budget)
        for _ in range(PATIENCE + 2):  # as it is, then from a graph
            assert rms(runner.logits(sequences) - exact) <= 1.5 * theirs


def test_float32(
    cuda: torch.device, folder: Path, sequences: list[Sequence], oracle: Oracle
) -> None:
    exact = oracle(folder, sequences, "cpu", torch.float64)
    runner = Runner(load_model(folder, device=cuda, dtype=torch.float32), 700)
    for _ in range(PATIENCE + 2):
        error = np.abs(runner.logits(sequences) - exact).max()
        assert error <= 2e-5 * np.abs(exact).max()


def test_auto_is_float16(cuda: torch.device, folder: Path) -> None:
    assert load_model(folder, device=cuda, dtype=None).dtype == torch.float16
