"""Sequences past max_position_embeddings, which ends nothing where there is no table of positions.

Beside transformers, sentence-transformers and its MultiVectorEncoder, none of which stop there.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import decoders
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from sentence_transformers import CrossEncoder, MultiVectorEncoder

from packrank import InputError, LateInteraction, Reranker
from packrank.models import CausalSettings, load_model
from packrank.request import Pack, Sequence

# Positions are 40 and 64; the longest is past the rows of distances, or the rotary table, that are
# made at first.
LONGEST = {"DebertaV2": 520, "Gte": 1030, "ModernBert": 1030}
WORDS = "red blue fox owl dog snake"
LONG = [("red owl", "blue fox dog " * 40), ("red owl", "blue fox dog " * 30 + "red owl"), ("", "")]
IDENTITY = "torch.nn.modules.linear.Identity"
ENDLESS = {
    "distances in buckets": ("DebertaV2", {}),
    "a row a distance": ("DebertaV2", {"position_buckets": -1, "max_relative_positions": 12}),
    "distances of positions": ("DebertaV2", {"position_buckets": -1}),
    "no distances": ("DebertaV2", {"relative_attention": False}),
    "rotary": ("Gte", {}),
    "rotary in windows": ("ModernBert", {}),
}

Checkpoint = Callable[..., Path]


@pytest.mark.parametrize("kind", ENDLESS)
def test_logits_of_encoders(
    checkpoint: Checkpoint, make_sequences: Callable[..., list[Sequence]], kind: str
) -> None:
    name, options = ENDLESS[kind]
    folder = checkpoint(name, num_labels=3, **options)
    sequences = make_sequences(name, [90, 3, LONGEST[name]])
    model = load_model(folder, device="cpu", dtype=torch.float32)
    assert model.config.usual_length < 90 < model.config.max_length
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert_same(model.logits(Pack.of(sequences)), theirs, sequences)


@pytest.mark.parametrize("family", decoders.PECULIAR)
def test_logits_of_decoders(family: str, tmp_path: Path) -> None:
    theirs = decoders.make(family, num_labels=3)
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path, device="cpu", dtype=torch.float32, causal=CausalSettings())
    pack = decoders.candidates([150, 1], 9)
    assert_same(ours.logits(pack), theirs, list(pack))


def assert_same(logits: torch.Tensor, theirs: Any, sequences: list[Sequence]) -> None:
    """Whether a model of transformers says the same of each sequence alone."""
    with torch.no_grad():
        want = [theirs(torch.from_numpy(s.token_ids)[None].long()).logits[0] for s in sequences]
    np.testing.assert_allclose(logits, torch.stack(want), rtol=0, atol=5e-5)


@pytest.fixture(scope="module")
def build(
    checkpoint: Checkpoint,
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """build(name, suffix, **options): a folder of a model and its tokenizer."""

    def make(name: str, suffix: str = "ForSequenceClassification", **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("beyond") / "model"
        shutil.copytree(checkpoint(name, suffix, **options), folder)
        save_tokenizer(folder, WORDS)
        return folder

    return make


@pytest.fixture(scope="module", params=["DebertaV2", "Gte"])
def saved(request: pytest.FixtureRequest, build: Callable[..., Path]) -> Path:
    """A cross-encoder as sentence-transformers saves it."""
    bare = build(request.param, num_labels=1, type_vocab_size=2)
    folder = bare.with_name("saved")
    CrossEncoder(str(bare), device="cpu").save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    ("said", "length"),
    [
        ({"max_seq_length": 100}, 100),
        ({"processing_kwargs": {"text": {"max_length": 100}}}, 100),
        ({"processing_kwargs": {"text": {"truncation": False}}}, 2**20),
        ({"max_seq_length": 30}, 30),
        ({}, 40),
    ],
)
def test_the_length_of_a_cross_encoders_file(
    saved: Path, said: dict[str, Any], length: int, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved, tmp_path / "saved")
    path = folder / "sentence_bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    ours = Reranker(folder, activation="identity")
    assert ours.max_length == length
    theirs = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(ours.score(LONG), theirs.predict(LONG, batch_size=1), atol=2e-5)


def test_the_length_of_a_caller(build: Callable[..., Path]) -> None:
    folder = build("DebertaV2", num_labels=1)
    usual, longer = Reranker(folder), Reranker(folder, max_length=100)
    assert (usual.max_length, longer.max_length) == (40, 100)
    theirs = CrossEncoder(str(folder), device="cpu", max_length=100)
    expected = theirs.predict(LONG, batch_size=1)
    np.testing.assert_allclose(longer.score(LONG), expected, atol=2e-5)
    np.testing.assert_array_equal(usual.score(LONG, max_length=100), longer.score(LONG))
    assert np.abs(usual.score(LONG) - longer.score(LONG)).max() > 1e-3
    with pytest.raises(InputError, match="max_length is 1048577, but the model has 1048576"):
        Reranker(folder, max_length=2**20 + 1)


@pytest.mark.parametrize(
    ("name", "options", "positions"),
    [
        ("Bert", {}, 40),
        ("XLMRoberta", {"type_vocab_size": 2}, 40),
        ("Electra", {}, 40),
        ("DistilBert", {}, 40),
        ("DebertaV2", {"position_biased_input": True}, 40),
    ],
)
def test_a_table_of_positions_ends(
    build: Callable[..., Path], name: str, options: dict[str, Any], positions: int
) -> None:
    folder = build(name, num_labels=1, **options)
    with pytest.raises(InputError, match=f"is 41, but the model has {positions} positions"):
        Reranker(folder, max_length=positions + 1)
    kind = "sentence_transformers.cross_encoder.modules.Transformer"
    for file, content in (
        ("modules.json", [{"idx": 0, "name": "0", "path": "", "type": kind}]),
        ("config_sentence_transformers.json", {"model_type": "CrossEncoder"}),
        ("sentence_bert_config.json", {"max_seq_length": 100}),
    ):
        (folder / file).write_text(json.dumps(content))
    assert Reranker(folder).max_length == positions


@pytest.mark.parametrize("name", ["DebertaV2", "Gte", "ModernBert"])
def test_the_length_of_a_late_interaction_file(build: Callable[..., Path], name: str) -> None:
    folder = build(name, "Model")
    kinds = {"": "sentence_transformers.models.Transformer", "1_Dense": "pylate.models.Dense.Dense"}
    entries = [{"idx": i, "name": str(i), "path": p, "type": kinds[p]} for i, p in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Dense").mkdir()
    sizes = {"in_features": 60, "out_features": 16, "bias": False, "activation_function": IDENTITY}
    (folder / "1_Dense/config.json").write_text(json.dumps(sizes))
    torch.manual_seed(0)
    save_file({"linear.weight": torch.randn(16, 60)}, folder / "1_Dense/model.safetensors")
    said = {
        "model_type": "ColBERT",
        "query_length": 32,
        "document_length": 150,
        "do_query_expansion": False,
        "skiplist_words": [],
        **dict.fromkeys(("query_prefix", "document_prefix"), ""),
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said))
    document = "red blue fox owl dog " * 60
    theirs = MultiVectorEncoder(str(folder), device="cpu").encode_document([document])[0]
    ours = LateInteraction(folder).encode_documents([document])[0]
    assert len(ours) == 150
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    longer = LateInteraction(folder, document_length=200).encode_documents([document])[0]
    assert len(longer) == 200
