"""LoRA merged by hand in float64, and a sentence for what cannot be merged."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import save_adapter
from safetensors.torch import save_file
from torch import Tensor

from packrank.checkpoint.weights import Weights
from packrank.errors import ModelError, RangeError

Q, TOKENS = "encoder.layer.0.query", "embeddings.word_embeddings"


def base(folder: Path, prefix: str = "bert.", dtype: torch.dtype = torch.float32) -> Path:
    """Two matrices, a bias and a norm."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    tensors = {
        f"{Q}.weight": torch.randn(6, 5),
        f"{Q}.bias": torch.randn(6),
        f"{TOKENS}.weight": torch.randn(7, 4),
        "embeddings.LayerNorm.beta": torch.randn(4),
    }
    save_file({prefix + n: x.to(dtype) for n, x in tensors.items()}, folder / "model.safetensors")
    return folder


def layer(rank: int, module: str = f"bert.{Q}", dtype: torch.dtype = torch.float32) -> Any:
    return {
        f"{module}.lora_A.weight": torch.randn(rank, 5, dtype=dtype),
        f"{module}.lora_B.weight": torch.randn(6, rank, dtype=dtype),
    }


def product(tensors: dict[str, Tensor]) -> Tensor:
    """B A of the only layer."""
    down, up = (next(x for n, x in tensors.items() if f"lora_{one}.w" in n) for one in "AB")
    return up.double() @ down.double()


@pytest.mark.parametrize(
    ("rank", "config", "scale"),
    [
        (8, {}, 1.0),
        (2, {"r": 2, "lora_alpha": 3}, 1.5),
        (2, {"r": 2, "lora_alpha": 3, "use_rslora": True}, 3 / math.sqrt(2)),
        (3, {"rank_pattern": {"query": 3}}, 8 / 3),
        (3, {"rank_pattern": {"uery": 5, r"layer\.\d\.query": 3, "query": 4}}, 8 / 3),
        (8, {"alpha_pattern": {"^bert.*query": 4}}, 0.5),
        (3, {"rank_pattern": {"query": 3}, "alpha_pattern": {"query": 6}}, 2.0),
        (3, {"rank_pattern": {"query": 3}, "use_rslora": True}, 8 / math.sqrt(3)),
        (8, {"fan_in_fan_out": True, "bias": "none", "init_lora_weights": "gaussian"}, 1.0),
        (8, {"target_modules": "all-linear", "layers_to_transform": [0]}, 1.0),
    ],
)  # fmt: skip
def test_a_layer_is_merged(tmp_path: Path, rank: int, config: dict[str, Any], scale: float) -> None:
    folder, tensors = base(tmp_path / "base"), layer(rank)
    plain = Weights.open(folder).take(f"bert.{Q}.weight", (6, 5))
    weights = Weights.open(save_adapter(folder, tensors, **config))
    merged = plain.double() + scale * product(tensors)
    assert torch.equal(weights.take(f"bert.{Q}.weight", (6, 5)), merged.float())
    assert torch.equal(
        weights.take_rows(f"bert.{Q}.weight", [4, 1], (6, 5)), merged[[4, 1]].float()
    )
    assert weights.adapts(f"bert.{Q}.weight") and not weights.adapts(f"bert.{Q}.bias")
    weights.check_taken()


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_stored_values_are_rounded_once(tmp_path: Path, stored: torch.dtype) -> None:
    """After the sum, from whatever base and adapter are stored in."""
    folder, tensors = base(tmp_path / "base", dtype=stored), layer(8, dtype=torch.bfloat16)
    plain = Weights.open(folder).take(f"bert.{Q}.weight", (6, 5), torch.float64)
    taken = Weights.open(save_adapter(folder, tensors)).take(f"bert.{Q}.weight", (6, 5))
    assert torch.equal(taken, (plain + product(tensors)).float())


def test_magnitudes_scale_rows(tmp_path: Path) -> None:
    folder, tensors = base(tmp_path / "base"), layer(8)
    name, sizes = f"bert.{Q}.weight", torch.rand(6) + 0.5
    wide = Weights.open(folder).take(name, (6, 5)).double() + product(tensors)
    tensors[f"bert.{Q}.lora_magnitude_vector"] = sizes
    weights = Weights.open(save_adapter(folder, tensors))
    want = sizes.double()[:, None] * wide / wide.square().sum(1, keepdim=True).sqrt()
    assert torch.allclose(weights.take(name, (6, 5)).double(), want, rtol=1e-6, atol=0)
    rows = weights.take_rows(name, [5, 0], (6, 5))
    assert torch.equal(rows, weights.take(name, (6, 5))[[5, 0]])


def test_an_embedding_is_merged(tmp_path: Path) -> None:
    folder, name = base(tmp_path / "base"), f"bert.{TOKENS}.weight"
    down, up = torch.randn(2, 7), torch.randn(4, 2)
    plain = Weights.open(folder).take(name, (7, 4)).double()
    tensors = {f"bert.{TOKENS}.lora_embedding_A": down, f"bert.{TOKENS}.lora_embedding_B": up}
    weights = Weights.open(save_adapter(folder, tensors, r=2))
    want = plain + 4 * (up.double() @ down.double()).T
    assert torch.allclose(weights.take(name, (7, 4)).double(), want, rtol=1e-6, atol=1e-7)
    assert torch.equal(weights.take_rows(name, [6], (7, 4)), weights.take(name, (7, 4))[[6]])


def test_whole_tensors_and_biases(tmp_path: Path) -> None:
    folder, bias = base(tmp_path / "base"), f"bert.{Q}.bias"
    plain = Weights.open(folder).take(bias, (6,)).double()
    tensors = layer(8) | {
        f"bert.{Q}.lora_B.bias": torch.randn(6),
        f"bert.{TOKENS}.base_layer.weight": torch.randn(7, 4),
        "bert.embeddings.LayerNorm.bias": torch.randn(4),
        "classifier.weight": torch.randn(1, 4),
        "classifier.modules_to_save.weight": torch.randn(1, 4),
        "classifier.original_module.weight": torch.randn(1, 4),
    }
    weights = Weights.open(save_adapter(folder, tensors, lora_alpha=16, modules_to_save=["head"]))
    want = plain + 2 * tensors[f"bert.{Q}.lora_B.bias"].double()
    assert torch.equal(weights.take(bias, (6,)), want.float())
    for name, source in (
        (f"bert.{TOKENS}.weight", f"bert.{TOKENS}.base_layer.weight"),
        (
            "bert.embeddings.LayerNorm.weight".replace("weight", "bias"),
            "bert.embeddings.LayerNorm.bias",
        ),
        ("classifier.weight", "classifier.weight"),
    ):
        shape = tuple(tensors[source].shape)
        assert torch.equal(weights.take(name, shape), tensors[source])
    weights.check_taken()


@pytest.mark.parametrize("of_base", ["", "bert."])
@pytest.mark.parametrize("of_adapter", ["", "bert."])
@pytest.mark.parametrize("asked", ["", "bert."])
def test_the_class_that_saved_makes_no_difference(
    tmp_path: Path, of_base: str, of_adapter: str, asked: str
) -> None:
    folder, tensors = base(tmp_path / "base", of_base), layer(8, of_adapter + Q)
    plain = Weights.open(folder).take(f"{of_base}{Q}.weight", (6, 5)).double()
    weights = Weights.open(save_adapter(folder, tensors))
    taken = weights.take(f"{asked}{Q}.weight", (6, 5))
    assert torch.equal(taken, (plain + product(tensors)).float())


def test_transformers_may_leave_the_prefix_out(tmp_path: Path) -> None:
    folder, tensors = base(tmp_path / "base"), layer(8)
    plain = Weights.open(folder).take(f"bert.{Q}.weight", (6, 5)).double()
    save_file(tensors, save_adapter(folder, tensors) / "adapter_model.safetensors")
    taken = Weights.open(folder).take(f"bert.{Q}.weight", (6, 5))
    assert torch.equal(taken, (plain + product(tensors)).float())


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"target_modules": ["value", "uery"]}, "target_modules"),
        ({"target_modules": []}, "target_modules"),
        ({"target_modules": r".*value"}, "target_modules"),
        ({"target_modules": r"query"}, "target_modules"),
        ({"target_modules": r"bert\..*query"}, None),
        ({"target_modules": r"other|bert.*", "layers_to_transform": [7]}, None),
        ({"target_modules": ["layer.0.query"]}, None),
        ({"target_modules": None}, None),
        ({"exclude_modules": ["query"]}, "exclude_modules"),
        ({"exclude_modules": r".*query"}, "exclude_modules"),
        ({"exclude_modules": r"query"}, None),
        ({"layers_to_transform": [1, 2]}, "layers_to_transform"),
        ({"layers_to_transform": 1}, "layers_to_transform"),
        ({"layers_to_transform": 0}, None),
        ({"target_modules": "all-linear", "layers_to_transform": [1]}, "layers_to_transform"),
        ({"layers_to_transform": [0], "layers_pattern": "layer"}, None),
        ({"layers_to_transform": [0], "layers_pattern": ["h", "blocks"]}, "layers_to_transform"),
        ({"target_modules": [f"bert.{Q}"], "layers_to_transform": [7]}, None),
        ({"layers_to_transform": [0], "layers_pattern": r"encoder\.layer"}, None),
        ({"layers_to_transform": [0], "layers_pattern": r"(h|layer)"}, None),
        ({"layers_to_transform": [0], "layers_pattern": "(layer"}, "holds no regular expression"),
        ({"modules_to_save": ["encoder"]}, "modules_to_save"),
        ({"use_dora": True}, "use_dora"),
    ],
)
def test_a_config_of_another_adapter_is_refused(
    tmp_path: Path, config: dict[str, Any], key: str | None
) -> None:
    """peft makes no layer of what these leave out, and drops its tensors."""
    folder = save_adapter(base(tmp_path / "base"), layer(8), **config)
    if key is None:
        assert Weights.open(folder).adapts(f"bert.{Q}.weight")
        return
    words = key if " " in key else f"{key} in adapter_config.json says otherwise"
    with pytest.raises(ModelError, match=words):
        Weights.open(folder)


@pytest.mark.parametrize(
    ("end", "key"), [("magnitude_vector", "use_dora"), ("B.bias", "lora_bias")]
)
def test_tensors_that_the_config_does_not_know_are_refused(
    tmp_path: Path, end: str, key: str
) -> None:
    tensors = layer(8) | {f"bert.{Q}.lora_{end}": torch.ones(6)}
    save_adapter(base(tmp_path / "base"), tensors, **{key: False})
    with pytest.raises(ModelError, match=f"{key} in adapter_config.json says otherwise"):
        Weights.open(tmp_path / "base")


A, B = f"bert.{Q}.lora_A.weight", f"bert.{Q}.lora_B.weight"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({B: None}, "lora_A.weight, which make no whole LoRA layer"),
        ({A: None}, "lora_B.weight, which make no whole LoRA layer"),
        ({A: None, B: None}, "holds no tensor"),
        ({B: torch.zeros(6, 3)}, r"B.weight has shape \[6, 3\].*imply \[6, 8\]"),
        ({A: torch.zeros(8, 6)}, r"A.weight has shape \[8, 6\].*imply \[8, 5\]"),
        ({A: torch.full((8, 5), torch.nan)}, "lora_A.weight holds NaN"),
        ({A: torch.zeros(8, 5, dtype=torch.int8)}, r"lora_A.weight is torch.int8"),
        ({B: torch.full((6, 8), 1e30)}, None),
        ({"bert.pooler.lora_B.bias": torch.zeros(5)}, "its base has no bert.pooler.bias"),
        ({f"bert.{Q}.lora_A.default.weight": torch.zeros(1)}, "no tensor of a LoRA"),
        ({"a.token_adapter.trainable_tokens_delta": torch.zeros(1)}, "no tensor of a LoRA"),
        ({"classifier.modules_to_save.weight": torch.zeros(1)}, "no tensor of a LoRA"),
        (layer(8, Q), "says twice what becomes"),
        ({f"{Q}.bias": torch.zeros(6), f"bert.{Q}.bias": torch.zeros(6)}, "says twice"),
        ({"bert.unknown.weight": torch.zeros(1)}, "unknown.weight, for which the model"),
        ({f"bert.{Q}.ia3_l": torch.zeros(1)}, "ia3_l, for which the model has no place"),
        ({f"bert.{TOKENS}.lora_embedding_A": torch.zeros(8, 7)}, "make no whole LoRA layer"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_named(
    tmp_path: Path, changes: dict[str, Tensor | None], reason: str | None
) -> None:
    folder = base(tmp_path / "base")
    tensors = {n: x for n, x in (layer(8) | changes).items() if x is not None}
    save_adapter(folder, tensors)

    def load() -> None:
        weights = Weights.open(folder)
        weights.take(f"bert.{Q}.weight", (6, 5))
        weights.check_taken()

    if reason is None:  # large, and finite
        load()
        return
    with pytest.raises(ModelError, match=reason) as raised:
        load()
    assert "\n" not in str(raised.value)


def test_merged_values_must_fit_the_dtype(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    save_adapter(folder, layer(8) | {B: torch.full((6, 8), 1e6)})
    weights = Weights.open(folder)
    with pytest.raises(RangeError, match="use another dtype"):
        weights.take(f"bert.{Q}.weight", (6, 5), torch.float16)


def test_what_was_trained_whole_must_be_there(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    save_adapter(folder, layer(8), modules_to_save=["classifier", "LayerNorm"])
    with pytest.raises(ModelError, match="modules_to_save names 'LayerNorm'"):
        Weights.open(folder)


def test_pickled_adapters_are_refused_with_a_command(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    save_adapter(folder, layer(8))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(
        ModelError, match=r"has only adapter_model\.bin; convert it once with: pyth"
    ):
        Weights.open(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(ModelError, match=r"but no adapter_model\.safetensors; add it"):
        Weights.open(folder)


@pytest.mark.parametrize("name", ["q.lora_A.default.weight", "q.base_layer.weight"])
def test_an_adapter_in_the_weights_is_refused(tmp_path: Path, name: str) -> None:
    save_file({name: torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="holds an adapter that is not merged"):
        Weights.open(tmp_path)


def test_the_config_is_read_by_keys(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    for pattern in ("(", "a{99999999999999999999}"):
        save_adapter(folder, layer(8), rank_pattern={pattern: 3})
        with pytest.raises(ModelError, match="rank_pattern holds no regular expression"):
            Weights.open(folder)
    for key, value in (("lora_alpha", 10**400), ("lora_alpha", math.nan), ("r", 10**700)):
        save_adapter(folder, layer(8), **{key: value, "use_rslora": True})
        with pytest.raises(ModelError, match=r"alpha of bert|lora_alpha is|r is"):
            Weights.open(folder)
    save_adapter(folder, layer(8), r=0)
    with pytest.raises(ModelError, match=r"the rank of bert.*query is 0"):
        Weights.open(folder)
    save_adapter(folder, layer(8), alpha_pattern={"query": "x"})
    with pytest.raises(ModelError, match=r"alpha of bert.*query is 'x'"):
        Weights.open(folder)
    (folder / "adapter_config.json").write_text(json.dumps([]))
    with pytest.raises(ModelError, match="holds a list"):
        Weights.open(folder)
