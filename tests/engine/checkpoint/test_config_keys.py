"""The tables of keys know every key that transformers' own code reads."""

import ast
import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from packrank.checkpoint.architectures import (
    BOTH_WAYS,
    DECODERS,
    ENCODER_DECODERS,
    ENCODERS,
    FAMILIES,
    LAYERWISE,
)
from packrank.checkpoint.config import load_config
from packrank.checkpoint.config_keys import KEYS
from packrank.errors import ModelError

ROOT = Path(transformers.__file__).parent
OF_OTHERS = {"minicpm", "new", *BOTH_WAYS}  # whose code comes with their weights
NAMES = ENCODERS | DECODERS | ENCODER_DECODERS
OF_TRANSFORMERS = {key: name for key, name in NAMES.items() if key not in OF_OTHERS}
# What the loader and all families share.
SHARED = ("masking_utils", "modeling_rope_utils", "modeling_layers", "modeling_utils")
# Of it: methods, what the caller of from_pretrained passes, what other families have.
NO_KEYS = {
    *("get_text_config", "get_mtp_config", "nested_rope_parameter_keys", "standardize_rope_params"),
    *("validate_rope", "is_heterogeneous", "to_dict", "save_pretrained", "sub_configs", "json"),
    *("create_compatible_mapping", "sanitize_kernel_mapping", "_compatible_flash_implementations"),
    *("allow_is_causal_skip", "device_map", "device_mesh", "disable_mmap", "disk_offload_folder"),
    *("hf_quantizer", "ignore_mismatched_sizes", "is_quantized", "quant_method", "weights_only"),
    *("sharded_metadata", "weight_mapping", "pretrained_model_name_or_path", "extra_files"),
    *("_attn_implementation_internal", "_experts_implementation_internal", "__class__"),
    *("_experts_implementation", "chain_hidden_post_norm", "hidden_dropout", "num_mtp_layers"),
    *("logits_mup_width_multiplier", "mtp_hidden_states_first", "token_classification_bias"),
    *("unpadded_vocab_size", "attention_chunk_size", "_rope_type_labels"),
}

# Of kwargs in the shared files: what is passed to from_pretrained and never in config.json.
OF_A_CALL = {
    *("_from_auto", "_from_pipeline", "adapter_kwargs", "adapter_name", "allow_all_kernels"),
    *("code_revision", "commit_message", "create_pr", "gguf_file", "kernel_config", "key_mapping"),
    *("max_memory", "offload_buffers", "offload_folder", "output_loading_info", "proxies"),
    *("repo_id", "state_dict", "subfolder", "tags", "tp_plan", "tp_size", "tqdm_class"),
    *("device", "generation_config", "base_model_pp_plan", "base_model_tp_plan"),
    *("trust_remote_code", "use_kernels", "variant", "use_auth_token", "token", "revision"),
}


def reads(path: Path) -> set[str]:
    """Attributes of a config, and arguments of its making, that a file of transformers names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        owner = getattr(node, "value", None)
        if isinstance(node, ast.Call):
            # getattr(config, "key"), kwargs.pop("key")
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            owner = (
                node.args[0] if name in ("getattr", "hasattr") else getattr(node.func, "value", 0)
            )
            if name in ("getattr", "hasattr", "pop", "get") and is_config(owner, name):
                key = node.args[1 if name in ("getattr", "hasattr") else 0]
                found |= {key.value} if isinstance(key, ast.Constant) else set()
        elif isinstance(node, ast.Attribute) and is_config(owner, "attribute"):
            found.add(node.attr)
    return found - NO_KEYS


def is_config(owner: Any, how: str) -> bool:
    """Whether an expression is what a file of transformers calls its config."""
    if isinstance(owner, ast.Call):
        return getattr(owner.func, "attr", "") == "get_text_config"
    name = getattr(owner, "id", getattr(owner, "attr", ""))
    return name in ({"kwargs"} if how in ("pop", "get") else {"config", "effective_config"})


def of_config(model_type: str) -> set[str]:
    """Names that a key of config.json sets in the config of transformers."""
    config_class = getattr(transformers, f"{OF_TRANSFORMERS[model_type]}Config")
    folder = model_type.replace("-", "_")
    module = importlib.import_module(f"transformers.models.{folder}.configuration_{folder}")
    generated = transformers.GenerationConfig._get_default_generation_params()
    return (
        {one.name for one in dataclasses.fields(config_class)}
        | set(config_class.attribute_map)
        | reads(Path(str(module.__file__)))
        | reads(ROOT / f"models/{folder}/modeling_{folder}.py")
    ) - set(generated)


@pytest.mark.parametrize("model_type", OF_TRANSFORMERS)
def test_every_key_that_is_read_is_in_the_table(model_type: str) -> None:
    known, read = KEYS[model_type], of_config(model_type)
    assert {"hidden_size", "problem_type", "pad_token_id"} <= read
    assert sorted(key for key in read if key not in known) == []


@pytest.mark.parametrize("name", SHARED)
def test_every_key_that_all_families_share_is_in_the_tables(name: str) -> None:
    read = reads(ROOT / f"{name}.py")
    unknown = {key for key in read if not any(key in keys for keys in KEYS.values())}
    assert sorted(unknown - OF_A_CALL) == []
    assert len(read) > 3


def test_a_read_is_seen(tmp_path: Path) -> None:
    """Or the tests above would show nothing."""
    source = """
config.one, self.config.two, getattr(config, "three", 0), kwargs.pop("four", 1), other.five
self.config.get_text_config().six, getattr(self.config, "seven"), hasattr(other, "eight")
"""
    (tmp_path / "modeling.py").write_text(source)
    assert reads(tmp_path / "modeling.py") == {"one", "two", "three", "four", "six", "seven"}


def test_every_family_has_a_table() -> None:
    assert KEYS.keys() == FAMILIES.keys() == {*OF_TRANSFORMERS, *LAYERWISE, *BOTH_WAYS, "new"}
    for keys in KEYS.values():
        assert not keys.applied & keys.harmless
        assert not (keys.applied | keys.harmless) & keys.only.keys()


SIZES = {
    "hidden_size": 12,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 7,
    "vocab_size": 11,
    "max_position_embeddings": 50,
}
OF_LAYERWISE = {"start_layer": 1, "layer_sep": 1, "layer_wise": True}
# What a key may hold, and what it has to hold before another key is read at all.
VALUES: list[Any] = [
    1,
    2,
    3,
    0.5,
    0,
    -1,
    True,
    False,
    "x",
    "relu",
    "mean",
    "full_attention",
    [],
    {},
]
VALUES += [["full_attention"] * 2, {"rope_type": "linear", "factor": 2.0}, {"rope_theta": 5.0}, 1e9]
FIRST: dict[str, dict[str, Any]] = {
    "conv_groups": {"conv_kernel_size": 3},
    "conv_act": {"conv_kernel_size": 3},
    "max_window_layers": {"use_sliding_window": True, "sliding_window": 5},
    "sliding_window": {"use_sliding_window": True},
    "layer_types": {"use_sliding_window": True},
    "original_max_position_embeddings": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        }
    },
}


@pytest.mark.parametrize("model_type", KEYS)
def test_tables_are_true(tmp_path: Path, model_type: str, thorough: bool) -> None:
    """What is applied changes the model or is refused by its values; what is harmless does not."""
    known = KEYS[model_type]
    spelled = {"dim": 12, "n_heads": 3, "n_layers": 2, "hidden_dim": 7}
    sizes: dict[str, Any] = dict(SIZES)
    if model_type == "distilbert":
        sizes = {"vocab_size": 11, "max_position_embeddings": 50} | spelled
    if model_type in ENCODER_DECODERS:
        sizes = {"vocab_size": 11, "d_model": 12, "num_heads": 3, "num_layers": 2, "d_ff": 7}
    base = sizes | {"model_type": model_type, "architectures": []}
    name = (LAYERWISE | BOTH_WAYS).get(model_type)
    if model_type in LAYERWISE:
        base |= OF_LAYERWISE
    elif name is not None:
        pass
    elif model_type in ENCODER_DECODERS:
        name = f"{NAMES[model_type]}ForConditionalGeneration"
    else:
        name = f"{NAMES[model_type]}ForSequenceClassification"
    base |= {"architectures": [name], "num_key_value_heads": 3}
    base |= {"d_kv" if model_type in ENCODER_DECODERS else "head_dim": 4}

    def read(raw: dict[str, Any]) -> Any:
        (tmp_path / "config.json").write_text(json.dumps(raw))
        try:
            return load_config(tmp_path)
        except ModelError:
            return None

    before = read(base)
    assert before is not None
    for key in known.harmless:
        tried = VALUES if thorough else [3, "x"]
        assert all(read(base | {key: value}) == before for value in tried), key
    # Of these other files tell: what is tied, what a language model caps.
    elsewhere = {"tie_word_embeddings", "final_logit_softcapping"}
    elsewhere |= {"id2label", "num_labels"} if name in LAYERWISE.values() else set()
    for key in known.applied - elsewhere - {"architectures"}:
        first = base | FIRST.get(key, {})
        before = read(first)
        assert before is not None, key
        assert any(read(first | {key: value}) != before for value in VALUES), key
    before = read(base)
    for key, understood in known.only.items():
        assert all(read(base | {key: value}) == before for value in understood), key
        assert read(base | {key: "unheard of"}) is None, key


GPTQ = {"quant_method": "gptq", "bits": 4}
REFUSED: list[tuple[str, str, Any, str]] = [
    ("Bert", "quantization_config", GPTQ, "quantization_config 'gptq' quantization is not suppo"),
    ("Llama", "quantization_config", {"quant_method": "fp8"}, "pass the model that it was quanti"),
    ("Qwen3", "quantization_config", {"load_in_4bit": True}, "quantization_config {'load_in_4bit"),
    ("Bert", "pruned_heads", {"0": [1]}, "pruned_heads {'0': [1]} is not supported in bert"),
    ("Roberta", "add_cross_attention", True, "add_cross_attention True is not supported in rob"),
    ("Electra", "position_embedding_type", "relative_key", "'relative_key' is not supported in e"),
    ("Gemma", "per_layer_config", {"0": {}}, "per_layer_config {'0': {}} is not supported"),
    ("Bert", "configuration_files", ["config.4.json"], "rename the file that it means to config."),
    ("Bert", "transformers_weights", "other.safetensors", "transformers_weights 'other.safetenso"),
    ("Llama", "partial_rotary_factor", 0.5, "partial_rotary_factor 0.5 is not supported"),
    ("Llama", "text_config", {}, "text_config {} is not supported"),
    ("Bert", "auto_map", {"AutoModel": "modeling.Mine"}, "is run by code of its own (auto_map nam"),
    ("Bert", "hidden_act", "\ud800", r"hidden_act '\ud800' is not supported"),
]


@pytest.mark.parametrize(("name", "key", "value", "message"), REFUSED)
def test_what_is_not_understood_is_refused(
    tmp_path: Path, name: str, key: str, value: Any, message: str
) -> None:
    raw = SIZES | {"architectures": [f"{name}ForSequenceClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    load_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(raw | {key: value}))
    with pytest.raises(ModelError) as raised:
        load_config(tmp_path)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    str(raised.value).encode()


@pytest.mark.parametrize(("key", "value"), [("auto_map", {"AutoConfig": "c.C"}), ("new_key", {})])
def test_what_nothing_reads_is_left_alone(tmp_path: Path, key: str, value: Any) -> None:
    raw = SIZES | {"architectures": ["BertModel"], key: value}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert load_config(tmp_path).hidden_size == 12
