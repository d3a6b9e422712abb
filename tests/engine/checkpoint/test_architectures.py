"""Which architecture a folder holds, where config.json names none, several, or another family's."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import decoders
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from packrank.checkpoint.architectures import HEADS
from packrank.checkpoint.config import load_config
from packrank.checkpoint.tensor_names import tensor_names
from packrank.errors import ModelError
from packrank.models import load_model

ENCODERS = (
    *("Bert", "Roberta", "XLMRoberta", "Camembert", "Electra", "DistilBert", "ModernBert"),
    *("DebertaV2", "Gte"),
)


def edited(folder: Path, target: Path, **values: Any) -> Path:
    """A copy whose config.json holds these values; None takes a key out."""
    shutil.copytree(folder, target)
    raw = json.loads((folder / "config.json").read_text()) | values
    raw = {key: value for key, value in raw.items() if value is not None}
    (target / "config.json").write_text(json.dumps(raw))
    return target


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_without_a_word(
    checkpoint: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    """What AutoModelForSequenceClassification loads whole is a classifier, the rest a body."""
    for number, suffix in enumerate(("ForSequenceClassification", "Model", "ForMaskedLM")):
        whole = checkpoint(name, suffix)
        folder = edited(whole, tmp_path / f"{number}", architectures=None)
        _, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, output_loading_info=True
        )
        is_classifier = not info["missing_keys"]
        assert is_classifier == (number == 0)
        expected = f"{name}{'ForSequenceClassification' if is_classifier else 'Model'}"
        assert load_config(folder).architecture == expected
        assert load_config(folder).family == load_config(whole).family
        if number == 1:
            continue
        other = f"{name}{'Model' if is_classifier else suffix}"
        for names in ([expected, other], [other, expected]):
            folder = edited(whole, tmp_path / f"{names}", architectures=names)
            want = expected if is_classifier else names[0]
            assert load_config(folder).architecture == want


@pytest.mark.parametrize("suffix", ["ForSequenceClassification", "ForCausalLM"])
@pytest.mark.parametrize("tied", [True, False])
def test_decoders_without_a_word(tmp_path: Path, suffix: str, tied: bool) -> None:
    model = decoders.make("Qwen2", suffix, tie_word_embeddings=tied, num_hidden_layers=1)
    model.save_pretrained(tmp_path / "whole")
    folder = edited(tmp_path / "whole", tmp_path / "edited", architectures=None)
    assert load_config(folder).architecture == f"Qwen2{suffix}"


def test_layerwise_models_without_a_word(tmp_path: Path) -> None:
    model = decoders.make("Gemma2", "ForCausalLM", num_hidden_layers=1)
    options = {
        "model_type": "cost_wise_gemma",
        "layer_wise": True,
        "start_layer": 1,
        "layer_sep": 1,
    }
    decoders.save_layerwise(tmp_path, model, [torch.randn(1, 48)], architectures=None, **options)
    assert load_config(tmp_path).architecture == "CostWiseGemmaForCausalLM"


def test_a_decoder_without_any_head(tmp_path: Path) -> None:
    decoders.make("Qwen2", "Model", num_hidden_layers=1).save_pretrained(tmp_path / "whole")
    folder = edited(tmp_path / "whole", tmp_path / "edited", architectures=None)
    assert load_config(folder).architecture == "Qwen2Model"
    folder = edited(folder, tmp_path / "other", model_type="minicpm")
    with pytest.raises(ModelError, match="names no architecture, and the tensors beside it are of"):
        load_config(folder)


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "electra"}, "architectures names 'BertForSequenceClassification', which is no"),
    ({"model_type": "llama"}, "architectures names 'BertForSequenceClassification', which is no"),
    ({"model_type": "deberta"}, "model_type 'deberta' is not supported; there are {Bert"),
    ({"architectures": ["BertModel", "RobertaModel"]}, "architectures names 'RobertaModel', which"),
    (
        {"architectures": ["LlamaForCausalLM"]},
        "architectures names 'LlamaForCausalLM', which is no",
    ),
    ({"model_type": ["bert"]}, "model_type is ['bert'], expected a string"),
    ({"architectures": ["BertModel", 3]}, "architecture 3 is not supported"),
]


@pytest.mark.parametrize(("values", "message"), CONTRADICTIONS)
def test_what_contradicts_itself_is_refused(
    checkpoint: Callable[..., Path], tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    folder = edited(checkpoint("Bert"), tmp_path / "edited", **values)
    with pytest.raises(ModelError, match=re.escape(message)):
        load_config(folder)


def test_one_implementation_under_three_names(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """RoBERTa, XLM-RoBERTa and CamemBERT differ in name alone."""
    folder = edited(checkpoint("Roberta"), tmp_path / "edited", model_type="xlm-roberta")
    assert load_config(folder).family == "roberta"


@pytest.mark.parametrize("part", [0, -1])
@pytest.mark.parametrize(
    "name",
    ["Bert", "Roberta", "Electra", "DistilBert", "ModernBert", "DebertaV2", "Gte", "Qwen3"],
)
def test_a_head_that_is_said_and_not_there(
    checkpoint: Callable[..., Path], tmp_path: Path, name: str, part: int
) -> None:
    """transformers would make one at random, with a warning."""
    if name == "Qwen3":
        whole = tmp_path / "whole"
        decoders.make(name, num_hidden_layers=1).save_pretrained(whole)
    else:
        whole = checkpoint(name)
    folder = edited(whole, tmp_path / "edited")
    tensors = load_file(folder / "model.safetensors")
    names = HEADS[load_config(folder).family][part].split("|")
    [head] = tensors.keys() & set(names)
    del tensors[head]
    save_file(tensors, folder / "model.safetensors")
    missing = re.escape(" or ".join(names))
    with pytest.raises(ModelError, match=f"hold no head for it \\(no {missing}"):
        load_model(folder, device="cpu", dtype=torch.float32)


def test_fewer_layers_than_are_said(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = edited(checkpoint("Bert"), tmp_path / "edited", num_hidden_layers=4)
    with pytest.raises(ModelError, match="says 4 layers, and the weights hold 3"):
        load_model(folder, device="cpu", dtype=torch.float32, head=False)


def test_names_of_tensors(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    whole = checkpoint("Bert")
    assert tensor_names(whole) == set(load_file(whole / "model.safetensors"))
    assert tensor_names(tmp_path) is None
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert tensor_names(tmp_path) == {"a", "b"}


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\xff" * 8, (5).to_bytes(8, "little") + b"[[[[[", b"\2" + bytes(7) + b"[]"],
)
def test_a_damaged_header(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    if content.endswith(b"[]"):
        assert tensor_names(tmp_path) == set()
        return
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_config(tmp_path)


def test_nothing_to_tell_by(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"names no architecture, and there is no model\.safeten"):
        load_config(tmp_path)
