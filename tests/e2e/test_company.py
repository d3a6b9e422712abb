"""A score does not depend on company: not on the pack, the order, the budget or the threads."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from packrank.models import load_model
from packrank.request import Sequence
from packrank.runtime.runner import Runner
from packrank_kernels import set_num_threads

# Lengths on both sides of what a kernel takes at once, and repeated, so that packs differ.
LENGTHS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 40, 5, 5, 1]
MODELS = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", {}),
    "electra": ("Electra", {}),
    "distilbert": ("DistilBert", {}),
    "modernbert-cls": ("ModernBert", {}),
    "modernbert-mean": ("ModernBert", {"classifier_pooling": "mean"}),
    "deberta-convolved": ("DebertaV2", {"conv_kernel_size": 3}),
    "gte": ("Gte", {}),
}

LARGE = {
    "minilm": (
        "Bert",
        {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    ),
    "modernbert-mean": (
        "ModernBert",
        {
            "hidden_size": 512,
            "num_attention_heads": 8,
            "intermediate_size": 768,
            "local_attention": 128,
            "classifier_pooling": "mean",
        },
    ),
}
LARGE_LENGTHS = [300, 1, 17, 129, 64, 255, 300, 31, 96, 5]

every_model = pytest.mark.parametrize("name", MODELS)
both_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"]
)


@pytest.fixture
def sequences(make_sequences: Callable[..., list[Sequence]], name: str) -> list[Sequence]:
    return make_sequences(MODELS[name][0], LENGTHS)


@pytest.fixture
def folder(checkpoint: Callable[..., Path], name: str) -> Path:
    architecture, options = MODELS[name]
    return checkpoint(architecture, num_labels=3, **options)


@every_model
@both_dtypes
def test_logits(
    folder: Path, sequences: list[Sequence], dtype: torch.dtype, restored_threads: None
) -> None:
    model = load_model(folder, device="cpu", dtype=dtype)
    alone = np.concatenate([Runner(model, 1).logits([sequence]) for sequence in sequences])
    rng = np.random.default_rng(0)
    for threads, budget_tokens in ((1, 1), (1, 50), (2, 97), (3, 10_000)):
        set_num_threads(threads)
        order = rng.permutation(len(sequences))
        together = Runner(model, budget_tokens).logits([sequences[i] for i in order])
        np.testing.assert_array_equal(together, alone[order], strict=True)


@every_model
@both_dtypes
def test_hidden_states(
    folder: Path, sequences: list[Sequence], dtype: torch.dtype, restored_threads: None
) -> None:
    model = load_model(folder, device="cpu", dtype=dtype, head=False)
    num_keys = np.array([(length + 1) // 2 for length in LENGTHS], dtype=np.int32)
    order = np.random.default_rng(0).permutation(len(sequences))
    shuffled = [sequences[i] for i in order]
    for keys in (None,) if model.config.family == "deberta-v2" else (None, num_keys):
        alone = [
            Runner(model, 1).hidden_states([sequence], None if keys is None else keys[i : i + 1])[0]
            for i, sequence in enumerate(sequences)
        ]
        for threads, budget_tokens in ((1, 60), (2, 10_000)):
            set_num_threads(threads)
            together = Runner(model, budget_tokens).hidden_states(
                shuffled, None if keys is None else keys[order]
            )
            assert all(torch.equal(rows, alone[i]) for i, rows in zip(order, together, strict=True))


@pytest.mark.parametrize("name", LARGE)
@both_dtypes
def test_logits_at_the_size_of_real_models(
    checkpoint: Callable[..., Path],
    make_sequences: Callable[..., list[Sequence]],
    name: str,
    dtype: torch.dtype,
    restored_threads: None,
    thorough: bool,
) -> None:
    """Where products are split into blocks and among threads as they are in use."""
    architecture, options = LARGE[name]
    sizes = {"num_hidden_layers": 2, "max_position_embeddings": 300, "num_labels": 1}
    folder = checkpoint(architecture, **sizes, **options)
    sequences = make_sequences(architecture, LARGE_LENGTHS)
    model = load_model(folder, device="cpu", dtype=dtype)
    set_num_threads(1)
    alone = np.concatenate([Runner(model, 1).logits([sequence]) for sequence in sequences])
    assert len(np.unique(alone)) == len(sequences)
    rng = np.random.default_rng(0)
    ways = [(2, 700), (5, 10_000)]
    if thorough:
        ways += [(1, 10_000), (3, 10_000), (5, 400)]
    for threads, budget_tokens in ways:
        set_num_threads(threads)
        order = rng.permutation(len(sequences))
        together = Runner(model, budget_tokens).logits([sequences[i] for i in order])
        np.testing.assert_array_equal(together, alone[order], strict=True)
