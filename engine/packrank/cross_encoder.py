"""What sentence-transformers saved beside a cross-encoder: prompt, limit of length, activation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packrank.config import Activation, ModelConfig, activation_named
from packrank.errors import ModelError
from packrank.files import field, read_list, read_object, shown
from packrank.late_folder import encoder_folder
from packrank.tokenizer import Tokenizer

_SETTINGS = "config_sentence_transformers.json"
_TRANSFORMER = "sentence_bert_config.json"

# Keys of sentence_bert_config.json that would change the ids of a text, or the model.
_REFUSED = (
    "do_lower_case",
    "tokenizer_name_or_path",
    "tokenizer_args",
    "processor_kwargs",
    "config_args",
    "config_kwargs",
)


@dataclass(frozen=True)
class Settings:
    """How a cross-encoder is used, unless the caller says otherwise.

    Attributes:
        activation: what turns logits into scores.
        max_length: most tokens of a pair, special ones included.
        prompt: put before every query.
    """

    activation: Activation
    max_length: int
    prompt: str = ""


def read_settings(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> Settings:
    """The settings of a cross-encoder's folder.

    As in sentence-transformers 6, its own files count only where modules.json is there and
    model_type is CrossEncoder; elsewhere config.json and the tokenizer say all.

    Args:
        folder: as the user names it.
        config: of `encoder_folder(folder)`.
        tokenizer: of the same.

    Raises:
        ModelError: the files ask for what is not supported.
    """
    activation, prompt, limit = config.default_activation, "", tokenizer.model_max_length
    saved = _saved(folder)
    if saved is not None:
        path = field(saved, "activation_fn", str, None, _SETTINGS)
        activation = activation_named(path) or activation
        prompt = _prompt(saved)
        limit = _limit(encoder_folder(folder) / _TRANSFORMER) or limit
    return Settings(activation, min(config.max_length, limit or config.max_length), prompt)


def _saved(folder: Path) -> dict[str, Any] | None:
    """What a CrossEncoder saved, None if none did."""
    if not (folder / "modules.json").is_file() or not (folder / _SETTINGS).is_file():
        return None
    saved = read_object(folder / _SETTINGS)
    if field(saved, "model_type", str, None, _SETTINGS) != "CrossEncoder":
        return None
    count = len(read_list(folder / "modules.json"))
    if count != 1:
        raise ModelError(
            f"{folder}/modules.json lists {count} modules; of a cross-encoder only one, the "
            "Transformer, is supported"
        )
    return saved


def _prompt(saved: dict[str, Any]) -> str:
    name = field(saved, "default_prompt_name", str, None, _SETTINGS)
    if name is None:
        return ""
    prompts = field(saved, "prompts", dict, {}, _SETTINGS)
    if name not in prompts:
        raise ModelError(f"{_SETTINGS}: default_prompt_name {name!r} is not among the prompts")
    return str(field(prompts, name, str, "", f"{_SETTINGS}: prompts"))


def _limit(path: Path) -> int | None:
    """Most tokens of a pair by sentence_bert_config.json, None if it sets none."""
    if not path.is_file():
        return None
    config = read_object(path)
    refused = next((key for key in _REFUSED if config.get(key)), None)
    if refused is not None:
        raise ModelError(f"{_TRANSFORMER}: {refused} {shown(config[refused])} is not supported")
    processing = field(config, "processing_kwargs", dict, {}, _TRANSFORMER)
    text = field(processing, "text", dict, {}, f"{_TRANSFORMER}: processing_kwargs")
    # Padding changes no score; any other key would.
    others = {f"text.{key}": text[key] for key in text.keys() - {"max_length", "padding"}}
    others |= {key: processing[key] for key in ("common", "chat_template") if processing.get(key)}
    if others.get("text.truncation") in (True, "longest_first"):
        del others["text.truncation"]
    for key, value in others.items():
        raise ModelError(f"{_TRANSFORMER}: processing_kwargs.{key} {shown(value)} is not supported")
    where = f"{_TRANSFORMER}: processing_kwargs.text"
    limit = field(text, "max_length", int, None, where)
    if limit is None:
        limit = field(config, "max_seq_length", int, None, _TRANSFORMER)
    if limit is not None and limit < 1:
        raise ModelError(f"{_TRANSFORMER}: the maximum length is {limit}, expected at least 1")
    return None if limit is None else int(limit)
