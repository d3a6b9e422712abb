"""Adapters as peft saves them, written by hand."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

# What peft 0.21 writes for a LoRA that nothing was said of.
DEFAULTS: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 8,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 8,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["query"],
    "target_parameters": None,
    "task_type": None,
    "trainable_token_indices": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}


def save_adapter(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    """A folder of adapter_config.json and adapter_model.safetensors.

    Args:
        folder: made if it is not there.
        tensors: by their names without peft's prefix.
        config: keys that differ from `DEFAULTS`, and from what the tensors imply.
    """
    folder.mkdir(exist_ok=True)
    targets = {name.split(".lora_")[0].rpartition(".")[2] for name in tensors if ".lora_" in name}
    implied = {
        "target_modules": sorted(targets),
        "use_dora": any("magnitude" in name for name in tensors),
        "lora_bias": any(name.endswith("lora_B.bias") for name in tensors),
    }
    (folder / "adapter_config.json").write_text(json.dumps(DEFAULTS | implied | config))
    named = {f"base_model.model.{name}": x.clone().contiguous() for name, x in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    return folder
