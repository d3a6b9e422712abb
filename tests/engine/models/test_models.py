"""load_model: what it makes of a folder, and what it refuses."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from packrank.checkpoint.config import ARCHITECTURES
from packrank.errors import ModelError, RangeError
from packrank.models import MODELS, Model, load_model
from packrank.request import Pack

PACK = Pack(
    token_ids=np.array([5, 6, 7], dtype=np.int32),
    token_types=np.zeros(3, dtype=np.int32),
    cu_seqlens=np.array([0, 1, 3], dtype=np.int32),
)


def load(folder: Path, *, head: bool = True, dtype: torch.dtype = torch.float32) -> Model:
    return load_model(folder, device="cpu", dtype=dtype, head=head)


def test_every_architecture_has_a_model() -> None:
    assert MODELS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_shapes_and_dtypes(checkpoint: Callable[..., Path], dtype: torch.dtype) -> None:
    folder = checkpoint("Bert", num_labels=3)
    scorer, encoder = load(folder, dtype=dtype), load(folder, head=False, dtype=dtype)
    assert (scorer.num_labels, scorer.hidden_size, scorer.dtype) == (3, 60, dtype)
    assert scorer.device == torch.device("cpu")
    logits, states = scorer.logits(PACK), encoder.hidden_states(PACK)
    assert (logits.shape, logits.dtype) == ((2, 3), torch.float32)
    assert (states.shape, states.dtype) == ((3, 60), dtype)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, torch.float16),
        ({"bert.encoder.layer.1.output.dense.weight": 7e4}, torch.bfloat16),  # past 65504
        ({"bert.encoder.layer.1.intermediate.dense.weight": 6e4}, torch.bfloat16),  # overflows
    ],
    ids=["in range", "weight", "activation"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the overflow
def test_float16_where_the_model_stays_in_its_range(
    checkpoint: Callable[..., Path],
    tmp_path: Path,
    changes: dict[str, float],
    expected: torch.dtype,
) -> None:
    folder = shutil.copytree(checkpoint("Bert", num_labels=3), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        tensors[name].fill_(value)
    save_file(tensors, folder / "model.safetensors")
    assert load_model(folder, device="cpu", dtype=None).dtype == expected
    if 7e4 in changes.values():
        with pytest.raises(RangeError, match=r"holds 7e\+04, more than torch.float16 can; use"):
            load(folder, dtype=torch.float16)


def test_an_encoder_has_no_scores(checkpoint: Callable[..., Path]) -> None:
    plain = checkpoint("Bert", "Model")
    with pytest.raises(ModelError, match=r"BertModel has no scoring head; .* use LateInteraction"):
        load(plain)
    with pytest.raises(ModelError, match="was loaded as an encoder"):
        load(plain, head=False).logits(PACK)


def test_a_scorer_has_no_hidden_states(checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="was loaded for scores"):
        load(checkpoint("Bert", num_labels=3)).hidden_states(PACK)


@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.position_embeddings.weight",
        "bert.encoder.layer.1.attention.self.key.bias",
        "bert.encoder.layer.2.output.LayerNorm.weight",
        "bert.pooler.dense.weight",
        "classifier.bias",
    ],
)
def test_every_weight_is_needed(checkpoint: Callable[..., Path], tmp_path: Path, name: str) -> None:
    """Without it, with another shape, and with NaN in it, a checkpoint is refused by its name."""
    folder = shutil.copytree(checkpoint("Bert", num_labels=3), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    whole = tensors.pop(name)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=f"no (tensor )?{re.escape(name)}"):
        load(folder)
    save_file(tensors | {name: whole[1:].clone()}, folder / "model.safetensors")
    shapes = f"{name} has shape {list(whole[1:].shape)}, config.json implies {list(whole.shape)}"
    with pytest.raises(ModelError, match=re.escape(shapes)):
        load(folder)
    save_file(tensors | {name: torch.full_like(whole, torch.nan)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=f"{re.escape(name)} holds NaN"):
        load(folder)


def test_another_architecture_named(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("Bert", num_labels=3), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["ElectraForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="which is no model of model_type 'bert'"):
        load(folder)
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="the weights hold no head for it"):
        load(folder)
