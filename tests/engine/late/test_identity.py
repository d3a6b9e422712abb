"""A store fits a model by what determines its vectors, however the model's files were saved."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from colbert_folders import save_colbert
from safetensors.torch import load_file, save_file

from packrank import LateInteraction, Store, StoreError
from packrank.checkpoint.fingerprint import fingerprint
from packrank.stores.appender import Appender

CONFIG = {
    "model_type": "ColBERT",
    "query_prefix": "",
    "document_prefix": "[unused1]",
    "query_length": 12,
    "document_length": 20,
    "skiplist_words": [",", "."],
}
MODULES = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Dense", "type": "pylate.models.Dense.Dense"},
]
DENSE = {"in_features": 60, "out_features": 8, "bias": False}
TEXTS = ["the sea", "a red fox, it saw the sea."]


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PyLate folder with a Dense, its tokenizer that of `save_colbert`."""
    path = tmp_path_factory.mktemp("late") / "model"
    save_colbert(checkpoint("Bert", "Model"), path, "Bert")
    (path / "artifact.metadata").unlink()
    weights = load_file(path / "model.safetensors")
    (path / "1_Dense").mkdir()
    linear = {"linear.weight": weights.pop("linear.weight")}
    save_file(linear, path / "1_Dense/model.safetensors")
    save_file(weights, path / "model.safetensors")
    for name, content in (
        ("config_sentence_transformers.json", CONFIG),
        ("modules.json", MODULES),
        ("1_Dense/config.json", DENSE),
    ):
        (path / name).write_text(json.dumps(content))
    edit(path, "config.json", architectures=["BertModel"])
    return path


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("stores") / "store"
    LateInteraction(folder, device="cpu").encode_documents(TEXTS, path)
    return Store.open(path)


def write(folder: Path, name: str, **content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def edit(folder: Path, name: str, **changes: Any) -> None:
    write(folder, name, **json.loads((folder / name).read_text()) | changes)


def change_weights(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name].flatten()[-1] += 1e-3
    save_file(weights, folder / "model.safetensors")


def save_in_shards(folder: Path) -> None:
    """Under no prefix, without a pooler, in two files."""
    weights = load_file(folder / "model.safetensors")
    names = [name for name in weights if "pooler" not in name]
    plain = {name: name.removeprefix("bert.") for name in names}
    shards = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(names)}
    for shard in set(shards.values()):
        part = {plain[name]: weights[name] for name in names if shards[name] == shard}
        save_file(part, folder / shard)
    index = {"weight_map": {plain[name]: shard for name, shard in shards.items()}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def save_tokenizer_anew(folder: Path) -> None:
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["truncation"] = {
        "direction": "Right",
        "max_length": 7,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (folder / "tokenizer.json").write_text(json.dumps(raw, indent=4))


def change_tokenizer(folder: Path) -> None:
    raw = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(raw.replace('"saw"', '"was"'))


def scale_dense(folder: Path) -> None:
    path = folder / "1_Dense/model.safetensors"
    save_file({"linear.weight": load_file(path)["linear.weight"] * 2}, path)


_ST = "config_sentence_transformers.json"
SAME: dict[str, Callable[[Path], None]] = {
    "query-length": lambda f: edit(f, _ST, query_length=9),
    "query-prefix": lambda f: edit(f, _ST, query_prefix="sea"),
    "expansion": lambda f: edit(f, _ST, do_query_expansion=False),
    "version": lambda f: edit(f, "config.json", transformers_version="9.0", torch_dtype="float16"),
    "architecture": lambda f: edit(f, "config.json", architectures=["BertForMaskedLM"]),
    "labels": lambda f: edit(f, "config.json", num_labels=7, classifier_dropout=0.5),
    "padding": lambda f: edit(f, "config.json", pad_token_id=5),
    "defaults": lambda f: edit(f, "1_Dense/config.json", use_residual=False),
    "order": lambda f: edit(f, _ST, skiplist_words=[".", ",", "."]),
    "shards": save_in_shards,
    "tokenizer": save_tokenizer_anew,
    "nothing-to-lower": lambda f: write(f, "sentence_bert_config.json", do_lower_case=False),
}
OTHER: dict[str, Callable[[Path], None]] = {
    "prefix": lambda f: edit(f, _ST, document_prefix="[unused0]"),
    "skiplist": lambda f: edit(f, _ST, skiplist_words=[","]),
    "prompt": lambda f: edit(f, _ST, default_prompt_name="x", prompts={"x": "the "}),
    "lower-case": lambda f: write(f, "sentence_bert_config.json", do_lower_case=True),
    "weights": lambda f: change_weights(f, "bert.encoder.layer.2.output.LayerNorm.bias"),
    "epsilon": lambda f: edit(f, "config.json", layer_norm_eps=1e-7),
    "heads": lambda f: edit(f, "config.json", num_attention_heads=6),
    "activation": lambda f: edit(f, "config.json", hidden_act="relu"),
    "words": change_tokenizer,
    "side": lambda f: edit(f, "tokenizer_config.json", truncation_side="left"),
    "dense": scale_dense,
    "dense-activation": lambda f: edit(
        f, "1_Dense/config.json", activation_function="torch.nn.modules.activation.Tanh"
    ),
}


@pytest.mark.parametrize("change", SAME)
def test_what_changes_no_vector_keeps_a_store(
    folder: Path, store: Store, tmp_path: Path, change: str
) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    SAME[change](other)
    model = LateInteraction(other, device="cpu", store=store)
    before = LateInteraction(folder, device="cpu").encode_documents(TEXTS)
    for a, b in zip(model.encode_documents(TEXTS), before, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("change", OTHER)
def test_what_may_change_a_vector_makes_another_model(
    folder: Path, store: Store, tmp_path: Path, change: str
) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    OTHER[change](other)
    with pytest.raises(StoreError, match=f"encoded by {folder}, and {other} is another model"):
        LateInteraction(other, device="cpu", store=store)


def test_another_document_length_is_named(folder: Path, store: Store) -> None:
    message = "with document_length 20, and this model cuts documents to 9 tokens; load it with"
    with pytest.raises(StoreError, match=message):
        LateInteraction(folder, device="cpu", store=store, document_length=9)
    assert LateInteraction(folder, device="cpu", store=store, query_length=9).rank("sea")


def test_a_store_of_an_earlier_version_fits_the_files_it_knows(
    folder: Path, tmp_path: Path
) -> None:
    model = LateInteraction(folder, device="cpu")
    known = {
        "name": str(folder),
        "fingerprint": fingerprint(folder),
        "kind": "PyLate",
        "document_length": 20,
        "normalize": True,
    }
    with Appender(tmp_path / "store") as writer:
        writer.create("int8", model.size, known)
        writer.append(["a"], model.encode_documents(["the sea"]))
        writer.commit()
    model.encode_documents(["fox"], tmp_path / "store", ["b"])
    model.attach(tmp_path / "store")
    assert {ranked.id for ranked in model.rank("sea")} == {"a", "b"}
    with pytest.raises(StoreError, match="with document_length 20"):
        LateInteraction(folder, device="cpu", store=tmp_path / "store", document_length=9)
    other = shutil.copytree(folder, tmp_path / "other")
    edit(other, "config.json", layer_norm_eps=1e-7)
    with pytest.raises(StoreError, match="is another model"):
        LateInteraction(other, device="cpu", store=tmp_path / "store")
