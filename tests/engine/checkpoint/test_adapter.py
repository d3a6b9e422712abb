"""What adapter_config.json asks for, where its base lies, and what the two together are."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import DEFAULTS, save_adapter
from safetensors.torch import save_file

from packrank.checkpoint import adapter
from packrank.checkpoint.adapter import base_folder, base_name, read_config, tokenizer_folder
from packrank.checkpoint.fingerprint import fingerprint
from packrank.checkpoint.hub import HubOptions, resolve
from packrank.errors import ModelError


def base(folder: Path, architecture: str = "BertModel", **config: Any) -> Path:
    folder.mkdir(parents=True)
    raw = {"architectures": [architecture]} | config
    (folder / "config.json").write_text(json.dumps(raw))
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def test_a_folder_without_an_adapter_is_its_own_base(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    assert base_folder(folder) == tokenizer_folder(folder) == folder
    assert (base_name(folder), read_config(folder)) == ("", {"architectures": ["BertModel"]})


@pytest.mark.parametrize("named", [None, "", "no/such", "other"])
def test_a_base_beside_an_adapter_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    """As in transformers, whatever base_model_name_or_path says."""
    monkeypatch.chdir(tmp_path)
    base(tmp_path / "other")
    folder = save_adapter(base(tmp_path / "base"), {}, base_model_name_or_path=named)
    assert base_folder(folder) == folder


@pytest.mark.parametrize("left", ["config.json", "model.safetensors"])
def test_half_a_base_beside_an_adapter_is_none(tmp_path: Path, left: str) -> None:
    named = base(tmp_path / "named", "RobertaModel")
    folder = save_adapter(base(tmp_path / "base"), {}, base_model_name_or_path=str(named))
    for path in folder.glob("[cm]*"):
        if path.name != left:
            path.unlink()
    assert base_folder(folder) == named
    # A config of its own is what the adapter was saved with.
    own = "BertModel" if left == "config.json" else "RobertaModel"
    assert read_config(folder)["architectures"] == [own]


def test_the_base_is_named_by_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative one is relative to the working directory, as in peft."""
    named = base(tmp_path / "some/base")
    (named / "vocab.txt").touch()
    monkeypatch.chdir(tmp_path)
    for name in (str(named), "some/base"):
        folder = save_adapter(tmp_path / "adapter", {}, base_model_name_or_path=name)
        assert base_folder(folder).samefile(named)
        assert tokenizer_folder(folder).samefile(named)
        assert base_name(folder) == name
    (folder / "tokenizer.json").touch()
    assert tokenizer_folder(folder) == folder


def test_the_base_is_named_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for once, at its revision, which is not the adapter's."""
    named, asked = base(tmp_path / "snapshot"), []

    def snapshot_download(name: str, *, revision: str | None, **_: Any) -> str:
        asked.append((name, revision))
        return str(named)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    adapter._found.cache_clear()
    folder = save_adapter(
        tmp_path / "adapter", {}, base_model_name_or_path="org/base", revision="abc"
    )
    assert base_folder(folder) == base_folder(folder) == named
    assert asked == [("org/base", "abc")]


def test_the_base_is_asked_for_as_the_adapter_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, asked = base(tmp_path / "snapshot"), []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, **options: asked.append((name, options)) or str(named),
    )
    adapter._found.cache_clear()
    folder = save_adapter(tmp_path / "adapter", {}, base_model_name_or_path="org/base")
    resolve(folder, HubOptions("v1", "hf_x", tmp_path, local_files_only=True))
    assert base_folder(folder) == named
    [(name, options)] = asked
    assert (name, options["revision"], options["token"]) == ("org/base", None, "hf_x")
    assert options["local_files_only"] and options["cache_dir"] == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (None, "neither is its base beside it nor named; set base_model_name_or_path"),
        ("/home/nobody/base", "its base cannot be opened: there is no folder '/home/nobody/base'"),
        ("packrank-test/none", "its base cannot be opened: packrank-test/none is not a folder and"),
        (3, "base_model_name_or_path is 3, expected a string"),
        ("a\0b", "its base cannot be opened: there is no folder"),
        ("\ud800", "its base cannot be opened: there is no folder"),
    ],
)
def test_a_base_that_is_not_there(tmp_path: Path, name: Any, reason: str) -> None:
    folder = save_adapter(tmp_path / "adapter", {}, base_model_name_or_path=name)
    with pytest.raises(ModelError, match=reason):
        base_folder(folder)


def test_an_adapter_of_an_adapter(tmp_path: Path) -> None:
    first = save_adapter(base(tmp_path / "base"), {})
    second = save_adapter(tmp_path / "second", {}, base_model_name_or_path=str(first))
    with pytest.raises(ModelError, match="is one too; merge that first"):
        base_folder(second)
    itself = save_adapter(tmp_path / "itself", {}, base_model_name_or_path=str(tmp_path / "itself"))
    with pytest.raises(ModelError, match="is one too"):
        base_folder(itself)


def test_adapters_in_folders_of_their_own_are_named(tmp_path: Path) -> None:
    for name in ("french", "german"):
        save_adapter(tmp_path / name, {})
    with pytest.raises(ModelError, match="but adapters in french, german; pass one of them"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "is a IA3 adapter, not a LoRA; merge it into its base"),
        ({"peft_type": "ADALORA"}, "is a ADALORA adapter"),
        ({"peft_type": "PROMPT_TUNING"}, "is a PROMPT_TUNING adapter"),
        ({"peft_type": "XLORA"}, "is a XLORA adapter"),
        ({"peft_type": None}, "has no peft_type; only LoRA adapters of peft are merged"),
        ({"peft_type": 3}, "peft_type is 3, expected a string"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication .* is not supported"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices .* is not supported; merge it"),
        ({"target_parameters": ["w"]}, "target_parameters .* is not supported"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens .* is not supported"),
        ({"use_qalora": True}, "use_qalora True is not supported"),
        ({"kasa_config": {"a": 1}}, "kasa_config .* is not supported"),
        ({"new_in_a_later_peft": 1}, "new_in_a_later_peft 1 is not known; merge it"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes the base as well"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base as well"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": 3}, "init_lora_weights is 3, expected true or false or a string"),
        ({"use_rslora": "yes"}, None),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], reason: str | None
) -> None:
    folder = save_adapter(base(tmp_path / "base"), {}, **changes)
    if reason is None:
        found = adapter.adapter_in(folder)
        assert found is not None
        with pytest.raises(ModelError, match="use_rslora is 'yes', expected true or false"):
            found.scale("x")
        return
    for read in (base_folder, read_config, fingerprint):
        with pytest.raises(ModelError, match=reason):
            read(folder)


def test_tensors_of_an_adapter_without_its_config(tmp_path: Path) -> None:
    folder = save_adapter(base(tmp_path / "base"), {})
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match=r"but no adapter_config\.json; add it, or"):
        read_config(folder)


def test_an_adapter_of_another_library_is_none_of_peft(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    other = {"config": {"architecture": "lora"}, "model_type": "bert", "name": "x"}
    (folder / "adapter_config.json").write_text(json.dumps(other))
    with pytest.raises(ModelError, match="has no peft_type"):
        base_folder(folder)


HEAD = {"classifier.weight": torch.zeros(1, 4), "classifier.bias": torch.zeros(1)}
ROBERTA = {
    "classifier.out_proj.weight": torch.zeros(3, 4),
    "classifier.dense.weight": torch.zeros(4, 4),
}
SCORE = {"score.weight": torch.zeros(1, 4)}


@pytest.mark.parametrize(
    ("architecture", "task", "tensors", "trained", "labels"),
    [
        ("BertModel", "SEQ_CLS", HEAD, "BertForSequenceClassification", 1),
        ("BertForMaskedLM", "SEQ_CLS", HEAD, "BertForSequenceClassification", 1),
        ("XLMRobertaForMaskedLM", "SEQ_CLS", ROBERTA, "XLMRobertaForSequenceClassification", 3),
        ("Qwen2ForCausalLM", "SEQ_CLS", SCORE, "Qwen2ForSequenceClassification", 1),
        ("BertForSequenceClassification", "SEQ_CLS", HEAD, "BertForSequenceClassification", 1),
        ("BertForSequenceClassification", "SEQ_CLS", {}, "BertForSequenceClassification", None),
        ("BertForSequenceClassification", None, {}, "BertForSequenceClassification", None),
        ("BertForSequenceClassification", None, HEAD, "BertForSequenceClassification", 1),
        ("BertForSequenceClassification", "FEATURE_EXTRACTION", {}, "BertModel", None),
        ("BertForMaskedLM", None, {}, "BertForMaskedLM", None),
        ("GemmaForCausalLM", "CAUSAL_LM", {}, "GemmaForCausalLM", None),
        ("CostWiseGemmaForCausalLM", "CAUSAL_LM", {}, "CostWiseGemmaForCausalLM", None),
    ],
)  # fmt: skip
def test_the_model_is_the_class_that_was_trained(
    tmp_path: Path, architecture: str, task: str, tensors: Any, trained: str, labels: int | None
) -> None:
    named = base(tmp_path / "base", architecture, hidden_size=4)
    folder = save_adapter(
        tmp_path / "adapter", tensors, base_model_name_or_path=str(named), task_type=task
    )
    config = read_config(folder)
    assert (config["architectures"], config["hidden_size"]) == ([trained], 4)
    assert config.get("num_labels") == labels
    assert len(config.get("id2label", ())) == (labels or 0)


def test_labels_that_are_as_many_keep_their_names(tmp_path: Path) -> None:
    folder = base(tmp_path / "base", "BertForSequenceClassification", id2label={"0": "relevance"})
    save_adapter(folder, HEAD, task_type="SEQ_CLS")
    assert read_config(folder)["id2label"] == {"0": "relevance"}


@pytest.mark.parametrize("name", ["bert.embeddings.word_embeddings", "embed_tokens.base_layer"])
def test_added_tokens_make_the_vocabulary_larger(tmp_path: Path, name: str) -> None:
    folder = base(tmp_path / "base", vocab_size=7)
    save_adapter(folder, {f"{name}.weight": torch.zeros(9, 4)})
    assert read_config(folder)["vocab_size"] == 9


def test_auto_mapping_names_the_class_too(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    mapping = {"base_model_class": "BertForSequenceClassification", "parent_library": "x"}
    save_adapter(folder, HEAD, auto_mapping=mapping)
    assert read_config(folder)["architectures"] == ["BertForSequenceClassification"]


@pytest.mark.parametrize(
    ("architecture", "task", "tensors", "reason"),
    [
        ("BertModel", "SEQ_CLS", {}, "neither it nor its base .BertModel. has a classifier"),
        ("BertModel", None, HEAD, "set task_type to SEQ_CLS"),
        (
            "BertModel",
            "TOKEN_CLS",
            HEAD,
            "task_type is 'TOKEN_CLS', expected one of SEQ_CLS, CAUSA",
        ),
        ("BertModel", "FEATURE_EXTRACTION", HEAD, "holds a classifier, and its task_type does not"),
    ],
)
def test_a_class_that_cannot_be_known(
    tmp_path: Path, architecture: str, task: str, tensors: Any, reason: str
) -> None:
    folder = save_adapter(base(tmp_path / "base", architecture), tensors, task_type=task)
    with pytest.raises(ModelError, match=reason):
        read_config(folder)


def test_a_fingerprint_is_of_adapter_and_base(tmp_path: Path) -> None:
    named = base(tmp_path / "base")
    folder = save_adapter(tmp_path / "adapter", HEAD, base_model_name_or_path=str(named))
    seen = [fingerprint(folder)]
    (folder / "adapter_config.json").write_text(
        json.dumps(DEFAULTS | {"base_model_name_or_path": str(named), "lora_alpha": 9})
    )
    seen.append(fingerprint(folder))
    save_file({"x": torch.ones(1)}, named / "model.safetensors")
    seen.append(fingerprint(folder))
    assert len(set(seen)) == 3
