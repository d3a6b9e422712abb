"""Adapters whose base transformers saves under other names than its modules have, and joined."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from adapters import save_adapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from packrank import ModelError, Reranker

WORDS = "red blue fox owl"
PAIRS = [("red fox", text) for text in ("blue owl", "fox fox owl red", "", "owl")]
RANK, KEYS = 3, {"r": 3, "lora_alpha": 6, "task_type": "SEQ_CLS"}


@pytest.fixture
def base(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> Path:
    folder = shutil.copytree(checkpoint("Gte", num_labels=1, type_vocab_size=2), tmp_path / "base")
    save_tokenizer(folder, WORDS)
    names = load_file(folder / "model.safetensors")
    assert any("qkv_proj" in name for name in names) and not any("q_proj" in name for name in names)
    return folder


def adapted(
    base: Path, ends: tuple[str, ...], *, whole: tuple[str, ...] = (), magnitudes: bool = False
) -> tuple[dict[str, Tensor], Any]:
    """An adapter's tensors by the names of modules, and transformers' model with them merged."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    tensors: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            module = name.rpartition(".")[0]
            if name.endswith(whole):
                tensors[name] = torch.randn_like(weight)
                weight.copy_(tensors[name])
            elif name.endswith(".weight") and module.endswith(ends):
                up, down = torch.randn(len(weight), RANK) / 4, torch.randn(RANK, weight.shape[1])
                tensors |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
                made = weight.double() + 2 * (up.double() @ down.double())
                if magnitudes:
                    size = torch.rand(len(weight)) + 1
                    tensors[f"{module}.lora_magnitude_vector"] = size
                    made = size[:, None] / made.norm(dim=1, keepdim=True) * made
                weight.copy_(made)
    return tensors, model


def same_scores(base: Path, tensors: dict[str, Tensor], model: Any, **config: Any) -> None:
    folder = base.with_name("merged")
    model.save_pretrained(folder)
    for path in base.glob("tokenizer*"):
        shutil.copy(path, folder)
    alone = save_adapter(
        base.with_name("alone"), tensors, base_model_name_or_path=str(base), **KEYS | config
    )
    want = Reranker(folder).score(PAIRS)
    np.testing.assert_allclose(Reranker(alone).score(PAIRS), want, rtol=0, atol=1e-6)
    assert np.abs(want - Reranker(base).score(PAIRS)).max() > 1e-3


@pytest.mark.parametrize(
    "ends",
    [
        ("q_proj",),
        ("k_proj", "v_proj", "up_proj"),
        ("gate_proj", "down_proj", "o_proj"),
        ("q_proj", "v_proj", "pooler.dense"),
    ],
)
def test_modules_by_their_own_names(base: Path, ends: tuple[str, ...]) -> None:
    same_scores(base, *adapted(base, ends))


def test_what_is_whole_and_what_has_magnitudes(base: Path) -> None:
    whole = ("k_proj.bias", "q_proj.bias", "post_mlp_layernorm.weight", "classifier.weight")
    tensors, model = adapted(base, ("v_proj", "up_proj"), whole=whole, magnitudes=True)
    same_scores(base, tensors, model, bias="lora_only")


def test_a_base_in_its_authors_names(base: Path) -> None:
    """Its prefix is another too."""
    tensors, model = adapted(base, ("q_proj", "gate_proj"))
    path = base / "model.safetensors"
    save_file({k.replace("gte.", "new."): x for k, x in load_file(path).items()}, path)
    code = {"AutoModelForSequenceClassification": "new-impl--modeling.NewModel"}
    config = json.loads((base / "config.json").read_text()) | {
        "model_type": "new",
        "architectures": ["NewForSequenceClassification"],
        "auto_map": code,
        "rope_theta": 160_000.0,
    }
    (base / "config.json").write_text(json.dumps(config))
    same_scores(base, tensors, model)


def test_parts_that_do_not_fit(base: Path) -> None:
    tensors, _ = adapted(base, ("q_proj",))
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    for wrong, sentence in (
        ({name: torch.randn(61, RANK)}, r"shape \[61, 3\], and its base and rank imply \[60, 3\]"),
        ({name.replace("lora_B.weight", "base_layer.weight"): torch.randn(60, 60)}, "says twice"),
        ({"gte.layers.9.self_attn.q_proj.base_layer.bias": torch.randn(60)}, "no place"),
    ):
        alone = save_adapter(
            base.with_name("wrong"), tensors | wrong, base_model_name_or_path=str(base), **KEYS
        )
        with pytest.raises(ModelError, match=sentence):
            Reranker(alone)
