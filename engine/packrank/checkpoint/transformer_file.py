"""What sentence-transformers tells its Transformer module: sentence_bert_config.json, every key."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from packrank.checkpoint.fields import Fields
from packrank.checkpoint.files import shown
from packrank.errors import ModelError

# The file, and what it was called by the architecture; the first that says something counts.
TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    *(f"sentence_{family}_config.json" for family in ("roberta", "distilbert", "camembert")),
    *(f"sentence_{family}_config.json" for family in ("albert", "xlm-roberta", "xlnet")),
)
# Where, and with which kernels, a model runs there.
_HARMLESS = {"unpad_inputs", "backend", "cache_dir"}
# What is passed on to transformers, under an older and a newer name, and what of that is safe.
_MODEL = {"attn_implementation", "device_map", "dtype", "low_cpu_mem_usage", "torch_dtype"}
_CONFIG = {"attn_implementation", "use_cache"}
_ARGUMENTS = {
    "model_args": _MODEL,
    "model_kwargs": _MODEL,
    "tokenizer_args": {"use_fast"},
    "processor_kwargs": {"use_fast"},
    "config_args": _CONFIG,
    "config_kwargs": _CONFIG,
}
# What those libraries are told for their own sake.
_FETCHING = {"cache_dir", "local_files_only", "revision", "token", "trust_remote_code"}


def read_transformer_file(
    folder: Path,
    applied: Collection[str] = (),
    *,
    only: Mapping[str, Any] | None = None,
    idle_arguments: Collection[str] = (),
) -> Fields:
    """What the file says, empty if there is none.

    Args:
        folder: of body and tokenizer.
        applied: keys that the caller reads, or that change nothing of what it does.
        only: key -> the one value, beside an empty one, that changes nothing.
        idle_arguments: of those passed on to transformers: names that change nothing.

    Raises:
        ModelError: it holds a key that could change a score and is not applied.
    """
    for name in TRANSFORMER_FILES:
        fields = Fields.read(folder / name)
        if fields.raw:
            _check(fields, {*applied, *_HARMLESS}, only or {}, {*idle_arguments, *_FETCHING})
            return fields
    return Fields({}, folder / TRANSFORMER_FILES[0])


def _check(fields: Fields, known: set[str], only: Mapping[str, Any], idle: set[str]) -> None:
    for key, value in fields.raw.items():
        if key in known or (key in only and value in (None, {}, only[key])):
            continue
        if key == "tokenizer_name_or_path" and not value:
            continue
        if key in _ARGUMENTS:
            inner = fields.inner(key).raw
            unsafe = sorted(set(inner) - _ARGUMENTS[key] - idle)
            if not unsafe:
                continue
            key, value = f"{key}: {unsafe[0]}", inner[unsafe[0]]
        raise ModelError(
            f"{fields.path}: {key} is {shown(value)}, which is not supported; remove it if nothing "
            "hangs on it"
        )
