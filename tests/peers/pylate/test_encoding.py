"""A folder that PyLate saved: token embeddings and scores are PyLate's own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from packrank import LateInteraction

# The encoders have 40 positions; queries are cut to 12 tokens and documents to 20.
TEXTS = [
    "the red fox",
    "",
    " ",
    "foxes, seas: nobody?",
    "...!",
    "?",
    "Nobody saw it; it ran over the cold seaside and the sea.",
    "the " * 10,
    "the " * 17,
    "sea " * 60,
    "unknown words here",
    "the [SEP] sea [MASK] [PAD]",
    "[Q] the [D] sea",
    "SEA\u00e9 \u6d77 \U0001f98a\tfox\n",
]
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "not expanded": {"do_query_expansion": False},
    "attended": {"attend_to_expansion_tokens": True},
    "no prefixes": {"query_prefix": "", "document_prefix": ""},
    "prefixes in the vocabulary": {"query_prefix": "red", "document_prefix": "cold"},
    "nothing skipped": {"skiplist_words": []},
    "unknown words skipped": {"skiplist_words": ["the", "nowhere"]},
    "words skipped": {"skiplist_words": ["the", "##es", ".", "[SEP]"]},
    "prompts": {
        "prompts": {"query": "it saw", "say": "over it, "},
        "default_prompt_name": "say",
    },
    "a prompt of blanks": {"prompts": {"say": "  it "}, "default_prompt_name": "say"},
    "longest": {"query_length": 40, "document_length": 40},
}

Models = tuple[Any, LateInteraction]


def check_vectors(found: list[torch.Tensor], expected: list[NDArray[np.float32]]) -> None:
    assert [len(vectors) for vectors in found] == [len(vectors) for vectors in expected]
    for vectors, peers in zip(found, expected, strict=True):
        np.testing.assert_allclose(vectors.numpy(), peers, rtol=0, atol=1e-5)


def check_both_sides(late: Any, model: LateInteraction) -> None:
    check_vectors(model.encode_queries(TEXTS), late.encode(TEXTS, is_query=True))
    check_vectors(model.encode_documents(TEXTS), late.encode(TEXTS, is_query=False))


@pytest.mark.parametrize("case", SETTINGS)
def test_vectors_are_pylates_under_every_setting(models: Callable[..., Models], case: str) -> None:
    late, model = models(**SETTINGS[case])
    assert model.settings.kind == "PyLate"
    check_both_sides(late, model)


@pytest.mark.parametrize("name", ["DistilBert", "Electra", "ModernBert", "Roberta"])
def test_vectors_are_pylates_of_every_encoder(models: Callable[..., Models], name: str) -> None:
    check_both_sides(*models(name))


def test_what_a_folder_does_not_say_is_pylates_default(
    encoder: Callable[..., Path], tmp_path: Path
) -> None:
    from pylate.models import ColBERT

    base = str(encoder("Bert", max_position_embeddings=180))
    ColBERT(base, device="cpu", embedding_size=16).save_pretrained(str(tmp_path))
    config = {"model_type": "ColBERT"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(config))
    late, model = ColBERT(str(tmp_path), device="cpu"), LateInteraction(tmp_path, device="cpu")
    check_both_sides(late, model)
    [document] = model.encode_documents(["sea " * 400])
    check_vectors([document], [late.encode("sea " * 400, is_query=False)])
    assert len(document) == 180


def test_every_dense_is_run_as_pylate_does(encoder: Callable[..., Path], tmp_path: Path) -> None:
    from pylate.models import ColBERT, Dense
    from sentence_transformers.models import Transformer

    torch.manual_seed(2)
    first = Dense(60, 24, bias=True, activation_function=torch.nn.GELU(), use_residual=True)
    modules = [Transformer(str(encoder("Bert"))), first, Dense(24, 16, bias=False)]
    late = ColBERT(modules=modules, device="cpu", query_length=12, document_length=20)
    late.save_pretrained(str(tmp_path))
    check_both_sides(late, LateInteraction(tmp_path, device="cpu"))


def test_a_word_of_the_skiplist_that_is_no_token_skips_unknown_words(
    models: Callable[..., Models],
) -> None:
    """As it has the id of one."""
    late, model = models(skiplist_words=["nowhere"])
    assert late.skiplist == [late.tokenizer.unk_token_id]
    [found] = model.encode_documents(["unknown fox"])
    assert len(found) == 4
    check_vectors([found], late.encode(["unknown fox"], is_query=False))


def test_a_folder_of_stanford_colbert_is_read_alike(
    encoder: Callable[..., Path], tmp_path: Path
) -> None:
    from pylate.models import ColBERT

    folder = tmp_path / "colbert"
    shutil.copytree(encoder("Bert"), folder)
    weights = load_file(folder / "model.safetensors")
    weights = {f"bert.{name}": weight for name, weight in weights.items()}
    save_file(weights | {"linear.weight": torch.randn(16, 60)}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["HF_ColBERT"]}))
    asked = {"query_maxlen": 12, "doc_maxlen": 20, "dim": 16}
    markers = {"query_token_id": "red", "doc_token_id": "cold"}
    (folder / "artifact.metadata").write_text(json.dumps(asked | markers))
    late, model = ColBERT(str(folder), device="cpu"), LateInteraction(folder, device="cpu")
    assert model.settings.kind == "Stanford ColBERT"
    texts = [text for text in TEXTS if "[PAD]" not in text]  # where ColBERT's own code is followed
    check_vectors(model.encode_queries(texts), late.encode(texts, is_query=True))
    check_vectors(model.encode_documents(texts), late.encode(texts, is_query=False))
