"""What sentence-transformers saved beside a cross-encoder: prompt, limit, activation, head."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from packrank.checkpoint.config import ModelConfig, activation_named
from packrank.checkpoint.files import field, read_list, read_object, shown
from packrank.checkpoint.modules import Module, encoder_folder, read_modules
from packrank.checkpoint.scoring_modules import ScoringModules, read_scoring_modules
from packrank.errors import ModelError
from packrank.scoring.transformer_settings import lower_cases, read_transformer
from packrank.text.chat_template import ChatTemplate
from packrank.text.tokenizer import Tokenizer
from packrank.text.truncation import Truncation

_SETTINGS = "config_sentence_transformers.json"


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
        activation: what turns logits into scores; see `activations.known_activation`.
        max_length: most tokens of a pair, special ones included.
        truncation: what is cut off a longer pair.
        prompt: put before every query; of a chat template, the system's message.
        chat: pairs are laid out by it; None: by the tokenizer.
        logit_score: None where the model has a head for scores.
        modules: what scores after the body; None: the checkpoint's own head.
        saved: sentence-transformers' own files say all this.
    """

    activation: str
    max_length: int
    truncation: Truncation = "longest_first"
    prompt: str = ""
    chat: ChatTemplate | None = None
    logit_score: LogitScore | None = None
    modules: ScoringModules | None = None
    saved: bool = False


def open_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a reranker's folder, as the user names that.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    inner = encoder_folder(folder)
    return Tokenizer.from_folder(
        inner, lower_case=bool(_saved_modules(folder)) and lower_cases(inner)
    )


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
    modules = _saved_modules(folder)
    limit = tokenizer.model_max_length
    if not modules:
        return Settings(
            config.default_activation, min(config.usual_length, limit or config.usual_length)
        )
    saved = read_object(folder / _SETTINGS)
    scoring, chain = None, _chain(modules)
    if chain == "modules":
        scoring = read_scoring_modules(modules[1:], config.hidden_size)
        config = config.scored_by(scoring)
    transformer = read_transformer(encoder_folder(folder), _TASKS[chain])
    prompt = _prompt(saved)
    if scoring is not None and prompt and not scoring.includes_prompt and transformer.chat is None:
        scoring = replace(scoring, skipped=_num_prompt_tokens(tokenizer, prompt))
    # By default tokenizer and config.json limit a pair; what the file says may go past both.
    longest = min(config.usual_length, limit or config.usual_length)
    if transformer.truncation == "off":
        longest = config.max_length
    elif transformer.limit is not None:
        longest = min(config.max_length, transformer.limit)
    path = field(saved, "activation_fn", str, None, _SETTINGS)
    return Settings(
        activation=activation_named(path) or config.default_activation,
        max_length=longest,
        truncation=transformer.truncation,
        prompt=prompt,
        chat=transformer.chat,
        logit_score=_logit_score(modules[1], config.vocab_size) if chain == "logits" else None,
        modules=scoring,
        saved=True,
    )


_TASKS = {
    "classifier": "sequence-classification",
    "logits": "text-generation",
    "modules": "feature-extraction",
}


def _chain(modules: list[Module]) -> str:
    """What comes after the Transformer, a key of `_TASKS`."""
    names = [module.name for module in modules[1:]]
    if not names:
        return "classifier"
    return "logits" if names == ["LogitScore"] else "modules"


def _saved_modules(folder: Path) -> list[Module]:
    """The modules of what a CrossEncoder saved, none if none did."""
    if not (folder / "modules.json").is_file() or not (folder / _SETTINGS).is_file():
        return []
    saved = read_object(folder / _SETTINGS)
    if field(saved, "model_type", str, None, _SETTINGS) != "CrossEncoder":
        return []
    modules = read_modules(folder)
    names = [entry.get("name") for entry in read_list(folder / "modules.json")]
    if len(set(map(str, names))) < len(names):
        raise ModelError(f"{folder}/modules.json lists two modules of one name, {shown(names)}")
    for module in modules:
        if not module.type.startswith("sentence_transformers."):
            raise ModelError(
                f"{folder}/modules.json lists a {module.type or 'module without a type'}, whose "
                "code is not sentence-transformers' own and is not run"
            )
    if not modules or modules[0].name != "Transformer":
        first = modules[0].name if modules else "nothing"
        raise ModelError(
            f"{folder}/modules.json begins with {first}; of a cross-encoder a Transformer comes "
            "first"
        )
    return modules


def _num_prompt_tokens(tokenizer: Tokenizer, prompt: str) -> int:
    """Tokens of a prompt alone but for a special one at its end, as sentence-transformers counts.

    Raises:
        ModelError: the prompt itself ends in a token that it may count as special.
    """
    [ids] = tokenizer.encode([prompt])
    count = len(ids) + tokenizer.num_special_tokens(pair=False)
    text = np.array([-1], dtype=np.int32)  # stands for any
    if tokenizer.single(text, None, "off").token_ids[-1] >= 0:
        return count - 1
    if len(ids) and tokenizer.is_added(int(ids[-1])):
        raise ModelError(
            f"{_SETTINGS}: the prompt {shown(prompt)} ends in an added token, and include_prompt "
            "is false; it is not said whether that token is pooled"
        )
    return count


def _logit_score(module: Module, vocab_size: int) -> LogitScore:
    path = module.folder / "config.json"
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
    if ids[0] == ids[1]:
        raise ModelError(f"{path}: it takes the logit of token {ids[0]} off itself, which is 0")
    return LogitScore(*ids)


def read_prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    """The prompts that are saved with a cross-encoder, by name, and the name of the default one.

    Raises:
        ModelError: the file of them cannot be used.
    """
    if not _saved_modules(folder):
        return {}, None
    saved = read_object(folder / _SETTINGS)
    prompts = field(saved, "prompts", dict, {}, _SETTINGS)
    named = {name: str(field(prompts, name, str, "", f"{_SETTINGS}: prompts")) for name in prompts}
    return named, field(saved, "default_prompt_name", str, None, _SETTINGS)


def _prompt(saved: dict[str, Any]) -> str:
    name = field(saved, "default_prompt_name", str, None, _SETTINGS)
    if name is None:
        return ""
    prompts = field(saved, "prompts", dict, {}, _SETTINGS)
    if name not in prompts:
        raise ModelError(f"{_SETTINGS}: default_prompt_name {name!r} is not among the prompts")
    return str(field(prompts, name, str, "", f"{_SETTINGS}: prompts"))
