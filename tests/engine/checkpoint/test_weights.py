"""Tensors by name, and a sentence for everything a checkpoint can get wrong."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from packrank.checkpoint.weights import Weights
from packrank.errors import ModelError

TENSOR = torch.arange(6.0).reshape(2, 3)


def folder_with(folder: Path, **tensors: Tensor) -> Path:
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "stored", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16], ids=str)
def test_take_casts(tmp_path: Path, stored: torch.dtype, wanted: torch.dtype) -> None:
    weights = Weights.open(folder_with(tmp_path, x=TENSOR.to(stored)))
    assert "x" in weights and "y" not in weights
    taken = weights.take("x", (2, 3), wanted)
    assert taken.dtype == wanted
    assert torch.equal(taken.float(), TENSOR)


def test_what_is_taken_outlives_the_file(tmp_path: Path) -> None:
    taken = Weights.open(folder_with(tmp_path, x=TENSOR.clone())).take("x", (2, 3))
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.write(bytes((tmp_path / "model.safetensors").stat().st_size))
    assert torch.equal(taken, TENSOR)


def test_old_names_of_layer_norms(tmp_path: Path) -> None:
    gamma, beta = torch.tensor([1.0]), torch.tensor([2.0])
    folder = folder_with(tmp_path, **{"LayerNorm.gamma": gamma, "LayerNorm.beta": beta})
    weights = Weights.open(folder)
    assert weights.take("LayerNorm.weight", (1,)) == 1.0
    assert weights.take("LayerNorm.bias", (1,)) == 2.0


def test_shape_names_both(tmp_path: Path) -> None:
    weights = Weights.open(folder_with(tmp_path, x=TENSOR))
    with pytest.raises(ModelError, match=re.escape("x has shape [2, 3], config.json implies [3]")):
        weights.take("x", (3,))


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    weights = Weights.open(folder_with(tmp_path, x=TENSOR))
    with pytest.raises(ModelError, match=r"no tensor a\.weight"):
        weights.take("a.weight", (2, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_must_be_finite(tmp_path: Path, value: float) -> None:
    tensor = TENSOR.clone()
    tensor[1, 1] = value
    weights = Weights.open(folder_with(tmp_path, x=tensor))
    with pytest.raises(ModelError, match="x holds NaN or infinite values"):
        weights.take("x", (2, 3))


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    weights = Weights.open(folder_with(tmp_path, x=TENSOR.to(torch.int8)))
    with pytest.raises(ModelError, match=r"x is torch\.int8, expected a floating-point dtype"):
        weights.take("x", (2, 3))


def test_shards(tmp_path: Path) -> None:
    save_file({"a": TENSOR}, tmp_path / "1.safetensors")
    save_file({"b": TENSOR + 1}, tmp_path / "2.safetensors")
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(Weights.open(tmp_path).take("b", (2, 3)), TENSOR + 1)
    (tmp_path / "2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"2\.safetensors cannot be read"):
        Weights.open(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "cannot be read as JSON"),
        ("{'a'", "cannot be read as JSON"),
        ("[]", "holds a list, expected a JSON object"),
        ("{}", "names no shard in weight_map"),
        ('{"weight_map": 3}', "weight_map is 3, expected an object"),
        ('{"weight_map": {"a": 1}}', "weight_map: a is 1, expected a string"),
        ('{"weight_map": {"a": ["x"]}}', r"weight_map: a is \['x'\], expected a string"),
        ('{"weight_map": {"a": null}}', "weight_map names no file for a tensor"),
    ],
)
def test_damaged_index(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=rf"model\.safetensors\.index\.json:? {reason}"):
        Weights.open(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 40, -1], ids=["empty", "no header", "in header", "in data"])
def test_damaged_file(tmp_path: Path, keep: int) -> None:
    path = folder_with(tmp_path, x=TENSOR) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read as safetensors"):
        Weights.open(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        Weights.open(tmp_path)


def test_pickles_are_refused_with_a_command_that_converts_them(tmp_path: Path) -> None:
    folder = tmp_path / "it's a model"
    folder.mkdir()
    shared = torch.rand(3, 2)
    torch.save({"a": shared.T, "tied": shared}, folder / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": TENSOR}, folder / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(ModelError, match=r"has only pytorch_model\.bin") as raised:
        Weights.open(folder)
    command = shlex.split(str(raised.value).partition("convert it once with: ")[2])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=120)
    weights = Weights.open(folder)
    assert torch.equal(weights.take("a", (2, 3)), shared.T)
    assert torch.equal(weights.take("tied", (3, 2)), shared)
    assert torch.equal(weights.take("b", (2, 3)), TENSOR)
