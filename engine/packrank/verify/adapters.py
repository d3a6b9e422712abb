"""A LoRA adapter over transformers' model of its base: its products, added as they are defined."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from packrank.checkpoint.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PREFIX, base_folder
from packrank.checkpoint.files import read_object
from packrank.verify.reading import NotCompared

_MERGE = "merge it (peft: merge_and_unload, save_pretrained) and verify that folder"


@contextmanager
def base_alone(folder: Path) -> Iterator[Path]:
    """The base of an adapter as a folder of its own, which no package takes for an adapter."""
    base = base_folder(folder)
    with tempfile.TemporaryDirectory() as made:
        for path in base.iterdir():
            if path.name not in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
                (Path(made) / path.name).symlink_to(path.resolve())
        yield Path(made)


def add_adapter(model: torch.nn.Module, folder: Path) -> set[str]:
    """Make W + alpha / r B A of each W that an adapter changes, and take over what it holds whole.

    Args:
        model: of the base, in float32.
        folder: of the adapter.

    Returns:
        The names of the parameters that it holds whole.

    Raises:
        NotCompared: it does more than that.
    """
    saved: dict[str, Any] = read_object(folder / ADAPTER_CONFIG)
    for key in ("alpha_pattern", "rank_pattern", "use_dora", "lora_bias"):
        if saved.get(key):
            raise NotCompared(f"it is an adapter with {key}; {_MERGE}")
    rank = saved.get("r") or 8
    scale = (saved.get("lora_alpha") or 8) / (rank**0.5 if saved.get("use_rslora") else rank)
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    parameters = dict(model.named_parameters())
    whole = set()
    for saved_name, tensor in tensors.items():
        name = saved_name.removeprefix(PREFIX)
        module, part, _ = name.partition(".lora_")
        target = f"{module}.weight" if part else name
        if target not in parameters or (
            part and not name.endswith((".lora_A.weight", ".lora_B.weight"))
        ):
            raise NotCompared(f"it is an adapter that holds {name}; {_MERGE}")
        with torch.no_grad():
            if not part:
                parameters[target].copy_(tensor)
                whole.add(target)
            elif name.endswith(".lora_A.weight"):
                up = tensors[saved_name.replace(".lora_A.", ".lora_B.")]
                parameters[target].add_(scale * (up.float() @ tensor.float()))
    return whole
