"""Token vectors and MaxSim on the device against the same model on the CPU."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from packrank import LateInteraction

pytestmark = pytest.mark.gpu

QUERY = "a c b"


@pytest.fixture(scope="module")
def encoder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An encoder with heads of 32 that reads the words a, b and c."""
    folder = tmp_path_factory.mktemp("late") / "model"
    options = {"hidden_size": 96, "num_attention_heads": 3}
    shutil.copytree(checkpoint("Bert", "Model", **options), folder)
    save_tokenizer(folder, "a b c")
    return folder


@pytest.fixture
def texts(some_pairs: Callable[[int], list[tuple[str, str]]]) -> list[str]:
    return [document for seed in range(3) for _, document in some_pairs(seed)]


# Of unit vectors; float32 differs by the order of sums, halves by some roundings in each layer.
@pytest.mark.parametrize(
    ("dtype", "bound"), [("float32", 1e-5), ("float16", 2**-6), ("bfloat16", 2**-3)]
)
def test_vectors_and_scores(
    cuda: torch.device, encoder: Path, texts: list[str], dtype: str, bound: float
) -> None:
    exact = LateInteraction(encoder, device="cpu")
    model = LateInteraction(encoder, device="cuda", dtype=dtype)
    for ours, theirs in zip(
        model.encode_documents(texts), exact.encode_documents(texts), strict=True
    ):
        assert ours.device.type == "cuda"
        assert ours.shape == theirs.shape
        assert (ours.float().cpu() - theirs).norm(dim=1).max() <= bound
    pairs = [(QUERY, text) for text in texts]
    tokens = len(exact.encode_queries([QUERY])[0])
    difference = np.abs(model.score(pairs) - exact.score(pairs)).max()
    assert difference <= 2 * tokens * bound


def test_auto_is_float16(cuda: torch.device, encoder: Path) -> None:
    assert LateInteraction(encoder, device="cuda").encode_queries(["a"])[0].dtype == torch.float16


def test_company_moves_a_vector_by_a_rounding_at_most(
    cuda: torch.device, encoder: Path, texts: list[str]
) -> None:
    together = LateInteraction(encoder, device="cuda").encode_documents(texts)
    model = LateInteraction(encoder, device="cuda", budget_tokens=1)
    for text, vectors in zip(texts, together, strict=True):
        (alone,) = model.encode_documents([text])
        assert (alone.float() - vectors.float()).norm(dim=1).max() <= 2**-6
