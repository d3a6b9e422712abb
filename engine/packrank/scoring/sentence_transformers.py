"""What sentence-transformers saved beside a cross-encoder: prompt, limit of length, activation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packrank.checkpoint.config import Activation, ModelConfig, activation_named
from packrank.checkpoint.files import field, read_object, shown
from packrank.checkpoint.modules import encoder_folder, read_modules
from packrank.errors import ModelError
from packrank.text.chat_template import ChatTemplate
from packrank.text.tokenizer import Tokenizer

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


# Arguments that say how texts are cut and padded, wherever they stand.
_SIZES = ("max_length", "padding", "return_tensors", "truncation")

# What is no variable of a chat template among the arguments of transformers' apply_chat_template.
_CHAT_ARGUMENTS = (
    "chat_template",
    "continue_final_message",
    "documents",
    "return_assistant_tokens_mask",
    "return_dict",
    "sanitize_control_tokens",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
)


@dataclass(frozen=True)
class LogitScore:
    """A score is the logit of a token, less that of another.

    Attributes:
        true_token_id: of the one.
        false_token_id: of the other; None: nothing is subtracted.
    """

    true_token_id: int
    false_token_id: int | None = None


@dataclass(frozen=True)
class Settings:
    """How a cross-encoder is used, unless the caller says otherwise.

    Attributes:
        activation: what turns logits into scores.
        max_length: most tokens of a pair, special ones included.
        prompt: put before every query; of a chat template, the system's message.
        chat: pairs are laid out by it; None: by the tokenizer.
        logit_score: None where the model has a head for scores.
        saved: sentence-transformers' own files say all this.
    """

    activation: Activation
    max_length: int
    prompt: str = ""
    chat: ChatTemplate | None = None
    logit_score: LogitScore | None = None
    saved: bool = False


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
    activation, limit = config.default_activation, tokenizer.model_max_length
    saved = _saved(folder)
    if saved is None:
        return Settings(activation, min(config.max_length, limit or config.max_length))
    inner = encoder_folder(folder)
    path = field(saved, "activation_fn", str, None, _SETTINGS)
    transformer = read_object(inner / _TRANSFORMER) if (inner / _TRANSFORMER).is_file() else {}
    chat = _chat(inner, transformer)
    limit = _limit(transformer, chat is not None) or limit
    return Settings(
        activation_named(path) or activation,
        min(config.max_length, limit or config.max_length),
        _prompt(saved),
        chat,
        _logit_score(folder, config.vocab_size),
        saved=True,
    )


def _saved(folder: Path) -> dict[str, Any] | None:
    """What a CrossEncoder saved, None if none did."""
    if not (folder / "modules.json").is_file() or not (folder / _SETTINGS).is_file():
        return None
    saved = read_object(folder / _SETTINGS)
    if field(saved, "model_type", str, None, _SETTINGS) != "CrossEncoder":
        return None
    names = [module.name for module in read_modules(folder)]
    if len(names) != 1 and names[1:] != ["LogitScore"]:
        raise ModelError(
            f"{folder}/modules.json lists {len(names)} modules; of a cross-encoder only the "
            "Transformer is supported, and a LogitScore after it"
        )
    return saved


def _logit_score(folder: Path, vocab_size: int) -> LogitScore | None:
    modules = read_modules(folder)[1:]
    if not modules:
        return None
    path = modules[0].folder / "config.json"
    config = read_object(path)
    source = field(config, "module_input_name", str, "causal_logits", path)
    if source != "causal_logits":
        raise ModelError(f"{path}: module_input_name {shown(source)} is not supported")
    ids = [field(config, name, int, None, path) for name in ("true_token_id", "false_token_id")]
    for token_id in ids:
        if token_id is not None and not 0 <= token_id < vocab_size:
            raise ModelError(f"{path}: it scores by token {token_id} of a model of {vocab_size}")
    if ids[0] is None:
        raise ModelError(f"{path} has no true_token_id; is it a LogitScore?")
    return LogitScore(*ids)


def _prompt(saved: dict[str, Any]) -> str:
    name = field(saved, "default_prompt_name", str, None, _SETTINGS)
    if name is None:
        return ""
    prompts = field(saved, "prompts", dict, {}, _SETTINGS)
    if name not in prompts:
        raise ModelError(f"{_SETTINGS}: default_prompt_name {name!r} is not among the prompts")
    return str(field(prompts, name, str, "", f"{_SETTINGS}: prompts"))


def _chat(folder: Path, config: dict[str, Any]) -> ChatTemplate | None:
    """The chat template, where pairs are made into messages."""
    modalities = field(config, "modality_config", dict, {}, _TRANSFORMER)
    where = f"{_TRANSFORMER}: modality_config"
    message = field(modalities, "message", dict, None, where)
    if message is None:
        return None
    name = field(message, "format", str, "auto", where)
    if name not in ("auto", "flat", "structured"):
        raise ModelError(f"{where}: format {shown(name)} is not supported")
    given = _processing(config, "chat_template")
    refused = next((key for key in _CHAT_ARGUMENTS if given.get(key)), None)
    if refused is not None:
        raise ModelError(
            f"{_TRANSFORMER}: processing_kwargs.chat_template.{refused} is not supported"
        )
    named = {*_CHAT_ARGUMENTS, *_SIZES, "restore_suffix"}
    return ChatTemplate.from_folder(
        folder,
        variables={key: value for key, value in given.items() if key not in named},
        structured=None if name == "auto" else name == "structured",
        restores_suffix=bool(given.get("restore_suffix", True)),
    )


def _processing(config: dict[str, Any], name: str) -> dict[str, Any]:
    where = f"{_TRANSFORMER}: processing_kwargs"
    given = field(config, "processing_kwargs", dict, {}, _TRANSFORMER)
    return dict(field(given, name, dict, {}, where))


def _limit(config: dict[str, Any], chat: bool) -> int | None:
    """Most tokens of a pair by sentence_bert_config.json, None if it sets none."""
    refused = next((key for key in _REFUSED if config.get(key)), None)
    if refused is not None:
        raise ModelError(f"{_TRANSFORMER}: {refused} {shown(config[refused])} is not supported")
    text = _processing(config, "text")
    if chat:
        text |= {
            key: value
            for key, value in _processing(config, "chat_template").items()
            if key in _SIZES
        }
    # Padding changes no score, nor do logits that are not asked for; any other key would.
    unread = ("max_length", "padding", "return_tensors", "logits_to_keep")
    others = {f"text.{key}": text[key] for key in text if key not in unread}
    others |= {key: value for key in ("common",) if (value := _processing(config, key))}
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
