"""Checkpoints whose tensors are not the weights: quantized, or beside those of an adapter."""

import re
from collections.abc import Mapping
from pathlib import Path

from packrank.checkpoint.headers import Header
from packrank.errors import ModelError

_ORIGINAL = "quantized weights are not supported: pass the model that it was made from"

# Names of tensors that only such a checkpoint has, and what it is.
_SIGNS = (
    (r"\.(qweight|qzeros|g_idx)", "quantized by GPTQ or AWQ"),
    (r"\.(absmax|quant_map|nested_absmax|SCB|quant_state\..*)", "quantized by bitsandbytes"),
    (r"\.(weight_packed|weight_shape|weight_zero_point)", "quantized by compressed-tensors"),
    (r"\.(weight_scale\w*|input_scale|activation_scale)", "quantized, as FP8 or int8"),
    (r"\.(W_q|weight\._data|weight_scales|weight_blocks|_packed_params.*)", "quantized"),
)
_PATTERNS = [(re.compile(rf".*{names}"), what) for names, what in _SIGNS]
_UNMERGED = re.compile(r".*\.(lora_(A|B|embedding_A|embedding_B|magnitude_vector)|base_layer)\b.*")


def refuse_quantized(folder: Path, headers: Mapping[str, Header]) -> None:
    """Raise ModelError if tensors of a checkpoint are not its weights.

    Args:
        folder: of the checkpoint.
        headers: of its tensors, by name.
    """
    for name, header in headers.items():
        for pattern, what in _PATTERNS:
            if pattern.fullmatch(name):
                raise ModelError(f"{folder} is {what} (it holds {name}); {_ORIGINAL}")
        if header.dtype.startswith(("F8_", "F6_", "F4")):
            raise ModelError(f"{folder} is quantized ({name} is {header.dtype}); {_ORIGINAL}")
        if _UNMERGED.fullmatch(name):
            raise ModelError(
                f"{folder} holds an adapter that is not merged ({name}); save it anew after "
                "merge_and_unload of peft"
            )
