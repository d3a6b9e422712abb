"""Checkpoints in the names of their authors' own code: the same scores as in transformers'."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from packrank.checkpoint.config import load_config
from packrank.checkpoint.gte_config import GteOptions
from packrank.errors import ModelError
from packrank.models import Model, load_model
from packrank.models.gte import frequencies
from packrank.request import Pack, Sequence

LENGTHS = [5, 1, 40, 2, 17]
Checkpoint = Callable[..., Path]
Tensors = dict[str, Tensor]


def load(folder: Path, *, head: bool = True) -> Model:
    return load_model(folder, device="cpu", dtype=torch.float32, head=head)


def rewritten(
    folder: Path,
    target: Path,
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    **values: Any,
) -> Path:
    shutil.copytree(folder, target)
    tensors = rename(load_file(folder / "model.safetensors"))
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, target / "model.safetensors")
    raw = json.loads((folder / "config.json").read_text()) | values
    raw = {key: value for key, value in raw.items() if value is not None}
    (target / "config.json").write_text(json.dumps(raw))
    return target


def replaced(name: str, pairs: list[tuple[str, str]]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


NATIVE = [
    *(("new.", "gte."), ("encoder.layer.", "layers."), ("attention.o_proj", "self_attn.o_proj")),
    *(("attn_ln", "post_attention_layernorm"), ("mlp_ln", "post_mlp_layernorm")),
]


def to_native(tensors: Tensors) -> Tensors:
    made: Tensors = {}
    for name, tensor in tensors.items():
        if "qkv_proj" in name:
            stem, _, end = replaced(name, NATIVE).partition("attention.qkv_proj")
            for one, part in zip("qkv", tensor.chunk(3), strict=True):
                made[f"{stem}self_attn.{one}_proj{end}"] = part
        elif "up_gate_proj" in name:
            stem, _, end = replaced(name, NATIVE).partition("up_gate_proj")
            for one, part in zip(("up", "gate"), tensor.chunk(2), strict=True):
                made[f"{stem}{one}_proj{end}"] = part
        else:
            made[replaced(name, NATIVE)] = tensor
    return made


def to_original(tensors: Tensors) -> Tensors:
    made: Tensors = {}
    back = [(new, old) for old, new in NATIVE]
    for name, tensor in tensors.items():
        if "self_attn.q_proj" in name:
            every = [tensors[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            stem, _, end = name.partition("self_attn.q_proj")
            made[replaced(stem, back) + "attention.qkv_proj" + end] = torch.cat(every)
        elif "mlp.up_proj" in name:
            both = torch.cat([tensor, tensors[name.replace("up_proj", "gate_proj")]])
            made[replaced(name, back).replace("up_proj", "up_gate_proj")] = both
        elif not any(one in name for one in ("k_proj", "v_proj", "gate_proj")) or "up_gate" in name:
            made[replaced(name, back)] = tensor
    return made


@pytest.mark.parametrize("suffix", ["ForSequenceClassification", "Model"])
def test_gte_in_either_set_of_names(
    checkpoint: Checkpoint,
    make_sequences: Callable[..., list[Sequence]],
    tmp_path: Path,
    suffix: str,
) -> None:
    whole = checkpoint("Gte", suffix)
    tensors = load_file(whole / "model.safetensors")
    is_native = any("self_attn" in name for name in tensors)
    native = whole if is_native else rewritten(whole, tmp_path / "native", to_native)
    code = {"AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel"}
    original = rewritten(
        native,
        tmp_path / "original",
        to_original,
        model_type="new",
        architectures=[f"New{suffix}"],
        auto_map=code,
        rope_theta=160_000.0,
        rope_parameters=None,
        pack_qkv=True,
        position_embedding_type="rope",
        layer_norm_type="layer_norm",
    )
    names = load_file(original / "model.safetensors")
    assert any("attention.qkv_proj" in name for name in names)
    assert any("up_gate_proj" in name for name in names)
    pack = Pack.of(make_sequences("Gte", LENGTHS))
    if suffix == "Model":
        found = [load(one, head=False).hidden_states(pack) for one in (whole, native, original)]
    else:
        found = [load(one).logits(pack) for one in (whole, native, original)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("mixed", [None, 0.6])
def test_stretched_positions(mixed: float | None) -> None:
    """By the formulas, in numbers of Python: fixed and mixed NTK of kexue.fm/archives/9706."""
    size, theta, factor = 16, 20_000.0, 8.0
    found = frequencies(GteOptions(theta, factor, mixed), size)()
    for i in range(size // 2):
        if mixed is None:
            expected = (theta * factor) ** (-2 * i / size) / factor ** (2 / size)
        else:
            slope = torch.log(torch.tensor(factor, dtype=torch.float64)).item()
            slope /= (size / 2) ** mixed
            expected = theta ** (-2 * i / size) / 2.718281828459045 ** (slope * (i + 1) ** mixed)
        assert float(found[i]) == pytest.approx(expected, rel=1e-6)


def test_plain_positions_are_not_stretched() -> None:
    found = frequencies(GteOptions(160_000.0), 8)()
    assert found.tolist() == pytest.approx([160_000.0 ** (-i / 4) for i in range(4)])


NTK: dict[str, Any] = {"type": "ntk", "factor": 8.0}
STRETCHED = GteOptions(20_000.0, 8.0)
SAID: list[tuple[dict[str, Any], GteOptions]] = [
    ({"rope_scaling": NTK}, STRETCHED),
    ({"rope_scaling": {"type": "ntk", "factor": 8}}, STRETCHED),
    ({"rope_scaling": NTK | {"mixed_b": None}}, STRETCHED),
    ({"rope_scaling": NTK | {"rope_type": "ntk"}}, STRETCHED),
    ({"rope_scaling": {"rope_type": "ntk", "factor": 8.0}}, STRETCHED),
    # As transformers 5 saves the authors' configuration, with and without what it was made of.
    ({"rope_parameters": NTK | {"rope_type": "ntk", "rope_theta": 20_000}}, STRETCHED),
    (
        {"rope_theta": None, "rope_parameters": NTK | {"rope_type": "ntk", "rope_theta": 20_000}},
        STRETCHED,
    ),
    ({"rope_scaling": NTK, "rope_parameters": NTK | {"rope_theta": 20_000.0}}, STRETCHED),
    ({"rope_scaling": NTK | {"mixed_b": 0.6}}, GteOptions(20_000.0, 8.0, 0.6)),
    ({"rope_scaling": {}}, GteOptions(20_000.0)),
    ({"rope_scaling": None, "rope_parameters": {}}, GteOptions(20_000.0)),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 20_000}}, GteOptions(20_000.0)),
    ({"rope_theta": None, "rope_parameters": {"rope_theta": 300.0}}, GteOptions(300.0)),
    ({"rope_theta": None}, GteOptions(10_000.0)),
]


@pytest.mark.parametrize(("values", "options"), SAID, ids=str)
def test_how_positions_of_the_original_are_stretched(
    checkpoint: Checkpoint, tmp_path: Path, values: dict[str, Any], options: GteOptions
) -> None:
    raw = {"model_type": "new", "architectures": ["NewModel"], "rope_theta": 20_000}
    raw |= {"rope_parameters": None} | values
    folder = rewritten(checkpoint("Gte", "Model"), tmp_path / "model", lambda x: x, **raw)
    assert load_config(folder).gte == options


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "is not supported; there is the type"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_parameters .* not supported"),
    ({"rope_scaling": {"type": "ntk", "factor": 0.5}}, "factor is 0.5, expected at least 1"),
    ({"rope_scaling": {"type": "ntk", "factor": -1}}, "factor is -1, expected a positive number"),
    ({"rope_scaling": {"type": "ntk"}}, "is not supported; there is the type ntk, with a factor"),
    ({"rope_scaling": NTK | {"x": 1}}, "is not supported; there is the type"),
    ({"rope_scaling": NTK | {"rope_type": "default"}}, "is not supported; there is the type"),
    ({"rope_parameters": {"factor": 8.0}}, "is not supported; there is the type"),
    ({"rope_parameters": NTK | {"rope_theta": 300}}, "rope_theta is 300, and 20000 beside it"),
    (
        {"rope_scaling": NTK, "rope_parameters": NTK | {"factor": 2.0}},
        "rope_scaling .* and rope_parameters .* do not say the same; remove one",
    ),
    ({"logn_attention_scale": True}, "logn_attention_scale True is not supported in new"),
    ({"position_embedding_type": "absolute"}, "position_embedding_type 'absolute' is not"),
    ({"layer_norm_type": "rms_norm"}, "layer_norm_type 'rms_norm' is not supported in new"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSED)
def test_what_is_not_known_of_the_original_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, values: dict[str, Any], sentence: str
) -> None:
    raw = {"model_type": "new", "architectures": ["NewModel"], "rope_theta": 20_000}
    values = raw | {"rope_parameters": None} | values
    folder = rewritten(checkpoint("Gte", "Model"), tmp_path / "model", lambda x: x, **values)
    with pytest.raises(ModelError, match=sentence):
        load(folder, head=False)


FLASH = [
    *(("embeddings.LayerNorm", "emb_ln"), ("encoder.layer.", "encoder.layers.")),
    *(("attention.output.dense", "mixer.out_proj"), ("attention.output.LayerNorm", "norm1")),
    *(("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2")),
    ("output.LayerNorm", "norm2"),
]


def to_flash(tensors: Tensors) -> Tensors:
    made: Tensors = {}
    for name, tensor in tensors.items():
        if "attention.self.query" in name:
            stem, _, end = replaced(name, FLASH).partition("attention.self.query")
            every = [tensors[name.replace("query", one)] for one in ("query", "key", "value")]
            made[f"{stem}mixer.Wqkv{end}"] = torch.cat(every)
        elif "attention.self." not in name:
            made[replaced(name, FLASH)] = tensor
    return made


def test_flash_xlm_roberta(
    checkpoint: Checkpoint, make_sequences: Callable[..., list[Sequence]], tmp_path: Path
) -> None:
    """jina-reranker-v2: XLM-RoBERTa in names of its own."""
    plain = checkpoint("XLMRoberta", num_labels=1)
    code = {
        "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig",
        "AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequence",
    }
    flash = rewritten(
        plain, tmp_path / "flash", to_flash,
        auto_map=code, use_flash_attn=True, position_embedding_type="absolute",
    )  # fmt: skip
    pack = Pack.of(make_sequences("XLMRoberta", LENGTHS))
    assert torch.equal(load(flash).logits(pack), load(plain).logits(pack))


def test_a_joined_projection_that_lacks_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def without(tensors: Tensors) -> Tensors:
        return {name: one for name, one in to_flash(tensors).items() if "Wqkv" not in name}

    flash = rewritten(
        checkpoint("XLMRoberta", num_labels=1), tmp_path / "flash", without,
        auto_map={"AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig"},
        use_flash_attn=True, position_embedding_type="absolute",
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"encoder\.layers\.0\.mixer\.Wqkv\.weight"):
        load(flash)
