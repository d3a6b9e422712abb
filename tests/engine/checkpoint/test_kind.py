import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packrank import LateInteraction, ModelError, Reranker, Store, StoreError
from packrank.checkpoint.kind import LATE, RERANKERS, Kind, expect, kind_of
from packrank.commands.cli import main

BERT = {
    "model_type": "bert",
    "vocab_size": 99,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
}
QWEN3 = BERT | {"model_type": "qwen3", "head_dim": 4}
CLASSIFIER = BERT | {"architectures": ["BertForSequenceClassification"], "num_labels": 1}
BODY = BERT | {"architectures": ["BertModel"]}
DECODER = QWEN3 | {"architectures": ["Qwen3ForCausalLM"]}
ST = "sentence_transformers.models"

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """save(config, saved, modules): a folder of JSON files alone."""

    def write(
        config: dict[str, Any] | None = None,
        saved: dict[str, Any] | None = None,
        modules: list[str] | None = None,
        *others: str,
    ) -> Path:
        files: dict[str, Any] = {}
        if config is not None:
            files["config.json"] = config
        if saved is not None:
            files["config_sentence_transformers.json"] = saved
        if modules is not None:
            types = [name if "." in name else f"{ST}.{name}" for name in modules]
            files["modules.json"] = [
                {"idx": place, "name": str(place), "path": f"{place}_M" if place else "", "type": t}
                for place, t in enumerate(types)
            ]
        files |= {name: {} for name in others}
        for name, content in files.items():
            (tmp_path / name).write_text(json.dumps(content))
        return tmp_path

    return write


def cross(**more: Any) -> dict[str, Any]:
    return {"model_type": "CrossEncoder", **more}


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("cross-encoder", (CLASSIFIER,)),
        ("cross-encoder", (CLASSIFIER, cross())),
        ("cross-encoder", (CLASSIFIER, cross(), ["Transformer"])),
        ("cross-encoder", (CLASSIFIER, {}, ["Transformer"])),
        ("modular cross-encoder", (BODY, cross(), ["Transformer", "Pooling", "Dense"])),
        ("modular cross-encoder", (DECODER, cross(), ["Transformer", "Pooling", "Dense"])),
        ("decoder", (DECODER,)),
        ("decoder", (DECODER, cross(), ["Transformer", "LogitScore"])),
        ("decoder", (QWEN3 | {"architectures": ["Qwen3ForSequenceClassification"]},)),
        ("Stanford ColBERT", (BERT | {"architectures": ["HF_ColBERT"]},)),
        ("Stanford ColBERT", (BODY, None, None, "artifact.metadata")),
        ("PyLate", (BODY, {"model_type": "ColBERT"}, ["Transformer", "pylate.models.Dense.Dense"])),
        ("PyLate", (BODY, {"query_prefix": "[Q] "}, ["Transformer", "Dense"])),
        ("PyLate", (BODY, {}, ["Transformer", "pylate.models.Dense.Dense"])),
        (
            "sentence-transformers",
            (BODY, {"model_type": "MultiVectorEncoder"}, ["Transformer", "Dense", "Normalize"]),
        ),
        ("bi-encoder", (BODY, None, ["Transformer", "Pooling", "Normalize"])),
        ("bi-encoder", (BODY, {"model_type": "SentenceTransformer"}, ["Transformer", "Pooling"])),
        ("bi-encoder", (DECODER, {}, ["Transformer", "Pooling", "Normalize"])),
        ("encoder", (BODY,)),
        ("encoder", (BODY, {}, ["Transformer"])),
        ("sparse encoder", (BODY, None, ["MLMTransformer", "SpladePooling"])),
        ("sparse encoder", (BODY, {"model_type": "SparseEncoder"}, ["Transformer", "Pooling"])),
        ("store", (None, None, None, "store.json")),
        ("index", (None, None, None, "centroids.npy")),
    ],
)
def test_what_a_folder_is(save: Save, kind: Kind, arguments: tuple[Any, ...]) -> None:
    assert kind_of(save(*arguments)) == kind


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((BODY, {"model_type": "Listener"}, ["Transformer"]), "model_type is 'Listener'"),
        ((BODY, cross(), ["Transformer"]), "CrossEncoder and BertModel, which has no scoring"),
        ((BODY, cross(query_length=8), ["Transformer", "Dense"]), "query_length of PyLate"),
        ((BODY, cross(), ["MLMTransformer", "SpladePooling"]), "the module MLMTransformer"),
        ((DECODER, {}, ["Transformer", "LogitScore"]), "(none) and the module LogitScore"),
        ((BODY, {}, ["StaticEmbedding"]), "begins with StaticEmbedding"),
        ((BODY, {}, ["Router", "Pooling"]), "begins with Router"),
        ((BODY, {}, ["Transformer", "Dense"]), "does not say of which kind"),
        ((CLASSIFIER, cross(), ["Transformer"], "artifact.metadata"), "a ColBERT of Stanford's"),
        ((CLASSIFIER, None, None, "artifact.metadata"), "a ColBERT of Stanford's"),
        ((CLASSIFIER, {}, ["Transformer", "Pooling"]), "a sequence classifier and the module Pool"),
        ((BODY, {}, ["mine.Transformer", "Pooling"]), "lists mine.Transformer"),
    ],
)
def test_what_contradicts_itself_is_refused(
    save: Save, arguments: tuple[Any, ...], words: str
) -> None:
    with pytest.raises(ModelError) as error:
        kind_of(save(*arguments))
    assert words in str(error.value)


SPARSE = (BODY, {"model_type": "SparseEncoder"}, ["MLMTransformer", "SpladePooling"])
MODULAR = (BODY, cross(), ["Transformer", "Pooling", "Dense"])
EMBEDDER = (BODY, {}, ["Transformer", "Pooling", "Normalize"])


@pytest.mark.parametrize(
    ("door", "arguments", "words"),
    [
        (Reranker, EMBEDDER, ["bi-encoder", "LateInteraction scores"]),
        (Reranker, (BODY,), ["without a scoring head", "LateInteraction scores"]),
        (Reranker, (BERT | {"architectures": ["HF_ColBERT"]},), ["LateInteraction scores"]),
        (Reranker, SPARSE, ["sparse encoder", "SparseEncoder runs it"]),
        (Reranker, (None, None, None, "store.json"), ["a store", "store="]),
        (LateInteraction, (CLASSIFIER,), ["a cross-encoder", "Reranker scores"]),
        (LateInteraction, MODULAR, ["a modular cross-encoder", "Reranker scores"]),
        (LateInteraction, (DECODER,), ["a decoder", "Reranker scores"]),
        (LateInteraction, SPARSE, ["sparse encoder"]),
        (LateInteraction, (DECODER, {}, ["Transformer", "Pooling"]), ["bi-encoder", "a decoder"]),
        (Reranker, (DECODER, {}, ["Transformer", "Pooling"]), ["bi-encoder", "a decoder"]),
        (Store.open, (BODY,), ["an encoder", "no store", "packrank encode"]),
        (Store.open, (CLASSIFIER,), ["a cross-encoder", "no store"]),
        (LateInteraction, (None, None, None, "centroids.pt"), ["an index", "store="]),
    ],
)
def test_a_door_refuses_what_is_not_for_it_and_names_the_one_that_is(
    save: Save, door: Callable[[Path], object], arguments: tuple[Any, ...], words: list[str]
) -> None:
    with pytest.raises((ModelError, StoreError)) as error:
        door(save(*arguments))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("command", ["rank", "score", "info", "encode", "explain"])
@pytest.mark.parametrize("arguments", [SPARSE, (BODY, {}, ["StaticEmbedding"])])
def test_no_command_takes_what_nothing_runs(
    save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, arguments: Any
) -> None:
    folder = str(save(*arguments))
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"id": "a", "text": "b", "query": "a", "document": "b"}\n')
    options = {
        "rank": ["--query", "a", "--documents", str(texts)],
        "score": [str(texts), "--output", str(tmp_path / "scores")],
        "encode": [str(texts), str(tmp_path / "new.store")],
        "explain": ["--query", "a", "--document", "b"],
    }
    assert main([command, folder, *options.get(command, [])]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert folder in captured.err
    assert len(captured.err.splitlines()) == 1


def test_the_kinds_of_the_doors_are_apart() -> None:
    assert not set(RERANKERS) & set(LATE)


def test_what_is_wanted_is_given_back(save: Save) -> None:
    assert expect(save(BODY), LATE) == "encoder"
