"""Small models of PyLate, with seeded random weights."""

import shutil
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from packrank import LateInteraction

WORDS = "the red fox ran over a cold sea and nobody saw it ##es ##s ##side"


@pytest.fixture(scope="module")
def encoder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """encoder("Bert"): a folder with weights and a tokenizer, and nothing of late interaction."""

    def make(name: str, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp(name) / "encoder"
        if name == "Roberta":
            options["pad_token_id"] = 0
        shutil.copytree(checkpoint(name, "Model", **options), folder)
        save_tokenizer(folder, " ".join(dict.fromkeys([*WORDS.split(), *string.punctuation])))
        return folder

    return make


@pytest.fixture(scope="module")
def models(
    encoder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Any, LateInteraction]]:
    """models("Bert", query_length=12): PyLate's model, and Packrank's of the folder it saves."""
    from pylate.models import ColBERT

    def make(name: str = "Bert", **settings: Any) -> tuple[Any, LateInteraction]:
        torch.manual_seed(2)
        lengths = {"query_length": 12, "document_length": 20}
        late = ColBERT(str(encoder(name)), device="cpu", embedding_size=16, **lengths | settings)
        folder = tmp_path_factory.mktemp("late") / "model"
        late.save_pretrained(str(folder))
        return late, LateInteraction(folder, device="cpu")

    return make
