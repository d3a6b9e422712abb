"""What company does to a score on the device: nothing if deterministic, else a rounding."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from packrank import Reranker
from packrank.models import load_model
from packrank.request import Sequence
from packrank.runtime.graphs import PATIENCE
from packrank.runtime.runner import Runner

pytestmark = pytest.mark.gpu

BUDGETS = (1, 130, 777, 4096, 100_000)
HALVES = [torch.float16, torch.bfloat16]
every_half = pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])


@every_half
def test_deterministic_scores_have_the_same_bits_in_any_company(
    cuda: torch.device, folder: Path, sequences: list[Sequence], dtype: torch.dtype
) -> None:
    model = load_model(folder, device=cuda, dtype=dtype, deterministic=True)
    alone = np.concatenate([Runner(model, 1).logits([sequence]) for sequence in sequences])
    assert len(np.unique(alone, axis=0)) > len(sequences) // 2
    rng = np.random.default_rng(0)
    for budget in BUDGETS:
        runner = Runner(model, budget)
        for _ in range(PATIENCE + 2):
            order = rng.permutation(len(sequences))
            together = runner.logits([sequences[i] for i in order])
            np.testing.assert_array_equal(together, alone[order])


@every_half
def test_otherwise_company_moves_a_score_by_less_than_rounding_does(
    cuda: torch.device,
    folder: Path,
    sequences: list[Sequence],
    dtype: torch.dtype,
    oracle: Callable[..., np.ndarray],
    rms: Callable[[np.ndarray], float],
) -> None:
    exact = oracle(folder, sequences, "cpu", torch.float64)
    rounding = rms(oracle(folder, sequences, cuda, dtype) - exact)
    model = load_model(folder, device=cuda, dtype=dtype)
    alone = np.concatenate([Runner(model, 1).logits([sequence]) for sequence in sequences])
    for budget in BUDGETS[1:]:
        assert rms(Runner(model, budget).logits(sequences) - alone) <= 2 * rounding


@pytest.fixture(scope="module")
def reranker_folder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A cross-encoder with heads of 32 that reads the words a, b and c."""
    folder = tmp_path_factory.mktemp("reranker") / "model"
    options = {"hidden_size": 96, "num_attention_heads": 3}
    shutil.copytree(checkpoint("Bert", num_labels=1, **options), folder)
    save_tokenizer(folder, "a b c")
    return folder


def test_a_deterministic_reranker(
    cuda: torch.device,
    reranker_folder: Path,
    some_pairs: Callable[[int], list[tuple[str, str]]],
) -> None:
    pairs = [pair for seed in range(6) for pair in some_pairs(seed)]
    options = {"device": "cuda", "deterministic": True, "activation": "identity"}
    alone = [Reranker(reranker_folder, **options).score([pair])[0] for pair in pairs[:9]]
    for budget in (1, 64, None):
        model = Reranker(reranker_folder, budget_tokens=budget, **options)
        for _ in range(PATIENCE + 1):
            np.testing.assert_array_equal(model.score(pairs)[:9], alone)
            np.testing.assert_array_equal(model.score(pairs[::-1])[::-1][:9], alone)


def test_warming_up_changes_no_bit(
    cuda: torch.device,
    reranker_folder: Path,
    some_pairs: Callable[[int], list[tuple[str, str]]],
) -> None:
    cold, warm = (Reranker(reranker_folder, device="cuda") for _ in range(2))
    warm.warm_up((16, 40))
    np.testing.assert_array_equal(cold.score(some_pairs(0)), warm.score(some_pairs(0)))
