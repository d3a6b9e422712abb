"""Tensors by name, and a sentence for everything a checkpoint can get wrong."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    with pytest.raises(ModelError, match=r"has no 2\.safetensors"):
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


def sharded(folder: Path, weight_map: dict[str, str], **shards: Any) -> Path:
    """Shards by the names of their files, less .safetensors, and a map."""
    folder.mkdir(exist_ok=True)
    for name, tensors in shards.items():
        save_file(tensors, folder / f"{name}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("named", ["1.safetensors", "2.safetensors"])
def test_of_a_tensor_in_two_shards_the_map_says_which(tmp_path: Path, named: str) -> None:
    shards = {"1": {"a": TENSOR, "b": TENSOR + 2}, "2": {"a": TENSOR + 1, "c": TENSOR}}
    files = {"a": named, "b": "1.safetensors", "c": "2.safetensors"}
    taken = Weights.open(sharded(tmp_path, files, **shards)).take("a", (2, 3))
    assert torch.equal(taken, TENSOR + (named[0] == "2"))


def test_a_shard_must_hold_what_the_map_says(tmp_path: Path) -> None:
    folder = sharded(tmp_path, {"a": "1.safetensors", "b": "1.safetensors"}, **{"1": {"a": TENSOR}})
    with pytest.raises(ModelError, match=r"says that 1\.safetensors holds b, which it does not"):
        Weights.open(folder)


@pytest.mark.parametrize(
    "name",
    ["/dev/zero", "../x.safetensors", "sub/../../x.safetensors", "sub/../x", "C:\\x", "..\\x"],
)
def test_the_map_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    folder = sharded(tmp_path / "model", {"a": name})
    save_file({"a": TENSOR}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"weight_map names .*, which is outside its folder"):
        Weights.open(folder)


@pytest.mark.parametrize("name", ["a\0b", "\ud800.safetensors"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="which no file can be called"):
        Weights.open(sharded(tmp_path, {"a": name}))


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="File name too long"):
        Weights.open(sharded(tmp_path, {"a": "x" * 300}))


def test_a_shard_may_lie_in_an_inner_folder(tmp_path: Path) -> None:
    folder = sharded(tmp_path, {"a": "inner/1.safetensors"})
    (folder / "inner").mkdir()
    save_file({"a": TENSOR}, folder / "inner/1.safetensors")
    assert torch.equal(Weights.open(folder).take("a", (2, 3)), TENSOR)


def test_links_lead_into_the_hubs_cache_alone(tmp_path: Path) -> None:
    """snapshots/revision/file -> ../../blobs/hash, which may be a link itself; also from afar."""
    cache = tmp_path / "models--org--name"
    blob, shared = cache / "blobs/1234", tmp_path / "blobs/ab/5678"
    blob.parent.mkdir(parents=True)
    shared.parent.mkdir(parents=True)
    save_file({"a": TENSOR}, shared)
    blob.symlink_to(shared)
    snapshot = cache / "snapshots/main"
    snapshot.mkdir(parents=True)
    for folder, target in ((snapshot, "../../blobs/1234"), (tmp_path / "local", str(blob))):
        sharded(folder, {"a": "1.safetensors"})
        (folder / "1.safetensors").symlink_to(target)
        assert torch.equal(Weights.open(folder).take("a", (2, 3)), TENSOR)
    (folder / "1.safetensors").unlink()
    (folder / "1.safetensors").symlink_to(shared)
    with pytest.raises(ModelError, match=r"a link to .*5678, outside its folder"):
        Weights.open(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "1.safetensors"])
def test_weights_are_regular_files(tmp_path: Path, name: str) -> None:
    """A pipe would be waited for, past any interrupt."""
    sharded(tmp_path, {"a": "1.safetensors"})
    os.mkfifo(tmp_path / name)
    with pytest.raises(ModelError, match="it is no regular file"):
        Weights.open(tmp_path)


QUANTIZED = {
    "layers.0.q_proj.qweight": "quantized by GPTQ or AWQ",
    "layers.0.q_proj.g_idx": "quantized by GPTQ or AWQ",
    "layers.0.q_proj.weight.absmax": "quantized by bitsandbytes",
    "layers.0.q_proj.weight.quant_state.bitsandbytes__nf4": "quantized by bitsandbytes",
    "layers.0.q_proj.SCB": "quantized by bitsandbytes",
    "layers.0.q_proj.weight_packed": "quantized by compressed-tensors",
    "layers.0.q_proj.weight_scale_inv": "quantized, as FP8 or int8",
    "layers.0.q_proj.weight_scale_2": "quantized, as FP8 or int8",
    "layers.0.q_proj.W_q": "quantized",
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_checkpoints_are_named(tmp_path: Path, name: str) -> None:
    folder = folder_with(tmp_path, **{"x": TENSOR, name: TENSOR.to(torch.int32)})
    with pytest.raises(ModelError, match=rf"is {QUANTIZED[name]} .*pass the model"):
        Weights.open(folder)


def test_eight_bit_floats_are_quantized(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, x=TENSOR.to(torch.float8_e4m3fn))
    with pytest.raises(ModelError, match=r"is quantized \(x is F8_E4M3\)"):
        Weights.open(folder)


def test_what_is_beside_the_weights_harms_nothing(tmp_path: Path) -> None:
    ids = torch.arange(3)[None]
    folder = folder_with(tmp_path, **{"embeddings.position_ids": ids, "logit_scale": TENSOR})
    assert torch.equal(Weights.open(folder).take("logit_scale", (2, 3)), TENSOR)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a Git LFS pointer"),
        (b"\n <!DOCTYPE html><html>", "is a web page, not the file; download it again"),
        (b"<HTML lang='en'>", "is a web page"),
        (b"\xff" * 100, "cannot be read as safetensors .its header is longer than the file"),
        (b"\x02" + b"\0" * 7 + b"[]", "cannot be read as safetensors"),
        (b"\x0a" + b"\0" * 7 + b'{"x": [3]}', "cannot be read as safetensors"),
        (
            b"\x28" + b"\0" * 7 + b'{"x":{"dtype":"F32","shape":[1.5, true]}}',
            "cannot be read as saf",
        ),
    ],
)
def test_what_stands_where_weights_should_is_named(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=reason):
        Weights.open(tmp_path)


def test_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "model-q4.gguf").touch()
    with pytest.raises(ModelError, match="has GGUF weights; pass the model"):
        Weights.open(tmp_path)


def test_on_no_device_only_names_and_shapes_are_checked(tmp_path: Path) -> None:
    weights = Weights.open(folder_with(tmp_path, x=torch.full((2, 3), torch.nan)))
    nowhere = torch.device("meta")
    assert weights.take("x", (2, 3), torch.bfloat16, nowhere).shape == (2, 3)
    for name, shape in (("x", (3, 2)), ("y", (2, 3))):
        with pytest.raises(ModelError):
            weights.take(name, shape, torch.float32, nowhere)


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
