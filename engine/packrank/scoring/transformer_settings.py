"""sentence_bert_config.json: how sentence-transformers feeds pairs to a cross-encoder's body."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packrank.checkpoint.adapter import tokenizer_folder
from packrank.checkpoint.fields import Fields
from packrank.checkpoint.files import field, shown
from packrank.checkpoint.transformer_file import read_transformer_file
from packrank.errors import ModelError
from packrank.text.chat_template import ChatTemplate
from packrank.text.truncation import Truncation

# Keys that are read, and those that change no score of a cross-encoder.
_READ = {"max_seq_length", "modality_config", "module_output_name", "processing_kwargs"}
_READ |= {"do_lower_case", "transformer_task"}
_IDLE = {"document_length", "query_expansion", "query_length"}
# What each task's model gives, and what the Transformer calls it.
_OUTPUTS = {
    "sequence-classification": ("logits", "scores"),
    "text-generation": ("logits", "causal_logits"),
    "feature-extraction": ("last_hidden_state", "token_embeddings"),
}

# Arguments that say how texts are cut and padded, wherever they stand.
_SIZES = ("max_length", "padding", "return_tensors", "truncation")

# What is no variable of a chat template among the arguments of transformers' apply_chat_template.
_CHAT_ARGUMENTS = (
    "continue_final_message",
    "documents",
    "return_assistant_tokens_mask",
    "return_dict",
    "sanitize_control_tokens",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
)

_STRATEGIES: dict[object, Truncation] = {
    True: "longest_first",
    "longest_first": "longest_first",
    "only_second": "only_second",
    False: "off",
    "do_not_truncate": "off",
}


@dataclass(frozen=True)
class TransformerSettings:
    """How pairs become sequences, as far as sentence_bert_config.json says.

    Attributes:
        limit: most tokens of a pair; None: it sets none.
        truncation: what is cut off a longer pair.
        chat: pairs are laid out by it; None: by the tokenizer.
    """

    limit: int | None = None
    truncation: Truncation = "longest_first"
    chat: ChatTemplate | None = None


def read_transformer(folder: Path, task: str) -> TransformerSettings:
    """What the file in a Transformer's folder says, if there is one.

    Args:
        folder: of body and tokenizer.
        task: what the modules after the Transformer need of it, a key of transformer_task.

    Raises:
        ModelError: it asks for what is not supported.
    """
    fields = _file(folder)
    if not fields.raw:
        return TransformerSettings()
    return _Reader(folder, fields.path.name, fields.raw).settings(task)


def lower_cases(folder: Path) -> bool:
    """Whether texts are lower-cased before a Transformer's tokenizer reads them.

    Raises:
        ModelError: the file cannot be read.
    """
    return _file(folder).flag("do_lower_case", False)


def _file(folder: Path) -> Fields:
    return read_transformer_file(folder, _READ | _IDLE, idle_arguments={"padding_side"})


@dataclass(frozen=True)
class _Reader:
    folder: Path
    name: str
    config: dict[str, Any]

    def settings(self, task: str) -> TransformerSettings:
        modality = self._modality(task)
        chat = None if modality is None else self._chat(modality)
        text = self._processing("text")
        if chat is not None:
            given = self._processing("chat_template")
            text |= {key: value for key, value in given.items() if key in _SIZES}
        truncation = self._truncation(text, chat is not None)
        # Padding changes no score, nor do logits that are not asked for; any other key would.
        unread = (*_SIZES, "logits_to_keep")
        others = {f"text.{key}": text[key] for key in text if key not in unread}
        others |= {key: value for key in ("common",) if (value := self._processing(key))}
        for key, value in others.items():
            raise ModelError(
                f"{self.name}: processing_kwargs.{key} {shown(value)} is not supported"
            )
        return TransformerSettings(self._limit(text), truncation, chat)

    def _modality(self, task: str) -> dict[str, Any] | None:
        """What is said of messages, None where pairs are no messages."""
        said = field(self.config, "transformer_task", str, task, self.name)
        if said != task:
            raise ModelError(
                f"{self.name}: transformer_task is {shown(said)}, and what modules.json lists "
                f"needs {task!r}"
            )
        output, feature = _OUTPUTS[task]
        given = field(self.config, "module_output_name", str, feature, self.name)
        if given != feature:
            raise ModelError(
                f"{self.name}: module_output_name {shown(given)} is not supported, expected "
                f"{feature!r}"
            )
        modalities = field(self.config, "modality_config", dict, None, self.name)
        if modalities is None:
            return None
        where = f"{self.name}: modality_config"
        message: dict[str, Any] | None = field(modalities, "message", dict, None, where)
        used = field(modalities, "text", dict, None, where) if message is None else message
        if used is None:
            raise ModelError(f"{where} has neither text nor message; is it a model of texts?")
        for key, known in (("method", "forward"), ("method_output_name", output)):
            value = used.get(key, known)
            if value not in (known, [known]):
                raise ModelError(f"{where}: {key} {shown(value)} is not supported")
        return message

    def _chat(self, message: dict[str, Any]) -> ChatTemplate:
        """The chat template that makes messages of pairs."""
        name = field(message, "format", str, "auto", f"{self.name}: modality_config")
        if name not in ("auto", "flat", "structured"):
            raise ModelError(f"{self.name}: modality_config: format {shown(name)} is not supported")
        given = self._processing("chat_template")
        where = f"{self.name}: processing_kwargs.chat_template"
        refused = next((key for key in _CHAT_ARGUMENTS if given.get(key)), None)
        if refused is not None:
            raise ModelError(f"{where}.{refused} is not supported")
        named = {*_CHAT_ARGUMENTS, *_SIZES, "chat_template", "restore_suffix"}
        return ChatTemplate.from_folder(
            tokenizer_folder(self.folder),
            name=field(given, "chat_template", str, None, where),
            variables={key: value for key, value in given.items() if key not in named},
            structured=None if name == "auto" else name == "structured",
            restores_suffix=bool(given.get("restore_suffix", True)),
        )

    def _processing(self, name: str) -> dict[str, Any]:
        where = f"{self.name}: processing_kwargs"
        given = field(self.config, "processing_kwargs", dict, {}, self.name)
        return dict(field(given, name, dict, {}, where))

    def _truncation(self, text: dict[str, Any], chat: bool) -> Truncation:
        asked = text.get("truncation", True)
        # A chat is one text, of which there is no second to cut.
        one = asked == "only_first" and chat
        known = isinstance(asked, bool | str) and asked in _STRATEGIES
        if not one and (not known or (chat and asked == "only_second")):
            raise ModelError(
                f"{self.name}: processing_kwargs.text.truncation {shown(asked)} is not supported"
            )
        return "longest_first" if one else _STRATEGIES[asked]

    def _limit(self, text: dict[str, Any]) -> int | None:
        """Most tokens of a pair."""
        where = f"{self.name}: processing_kwargs.text"
        limit = field(text, "max_length", int, None, where)
        if limit is None:
            limit = field(self.config, "max_seq_length", int, None, self.name)
        if limit is not None and limit < 1:
            raise ModelError(f"{self.name}: the maximum length is {limit}, expected at least 1")
        return None if limit is None else int(limit)
