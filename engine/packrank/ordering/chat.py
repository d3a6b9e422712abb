"""Prompts of chat models: what they are told, as their own template writes it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packrank.arguments import check_text
from packrank.errors import InputError, ModelError
from packrank.request import Int32
from packrank.text.chat_sandbox import Compiled
from packrank.text.chat_template import ChatTemplate
from packrank.text.tokenizer import Tokenizer

_PROBE = "alpha"


@dataclass(frozen=True)
class Chat:
    """A chat template, compiled.

    Attributes:
        template: of the model.
        compiled: the same.
        special_tokens: that it may read.
    """

    template: ChatTemplate
    compiled: Compiled
    special_tokens: dict[str, str]

    @classmethod
    def of(cls, folder: Path, tokenizer: Tokenizer, source: str | None = None) -> "Chat":
        """That of a folder, tried on a message.

        Args:
            folder: of the tokenizer.
            tokenizer: of the model.
            source: of a template in place of the folder's own.

        Raises:
            ModelError: there is none, or it cannot be used.
        """
        if source is None:
            template = ChatTemplate.from_folder(folder, {}, False, False)
        else:
            template = ChatTemplate(source)
        try:
            compiled = Compiled(template.source)
        except Exception as error:  # whatever a template makes Python raise
            raise ModelError(f"the chat template cannot be used ({_line(error)})") from error
        reasons = []
        # Messages are texts, as upstream gives them; lists of parts where a template wants those.
        for structured in (False, True):
            chat = cls(replace(template, structured=structured), compiled, tokenizer.special_tokens)
            try:
                told = chat._render(_PROBE, None)
            except Exception as error:  # see above
                reasons.append(_line(error))
                continue
            if _PROBE in told and "{'type'" not in told:
                return chat
            reasons.append("it leaves out what the user says")
        raise ModelError(f"the chat template cannot be used ({reasons[0]})")

    def text(self, user: str, system: str | None = None) -> str:
        """What a model reads before it answers.

        Raises:
            InputError: the template refuses it, as some do a system's message.
        """
        try:
            return self._render(user, system)
        except Exception as error:  # whatever a template makes Python raise
            raise InputError(f"the model's chat template refuses it ({_line(error)})") from error

    def _render(self, user: str, system: str | None) -> str:
        messages = [] if system is None else [self.template.message("system", system)]
        given: dict[str, Any] = {"tools": None, "documents": None, "add_generation_prompt": True}
        given |= {"enable_thinking": False}  # as rank_llm asks Qwen3 for answers alone
        given |= self.special_tokens
        messages.append(self.template.message("user", user))
        text = self.compiled.render(messages=messages, **given)
        check_text(text, "prompt")
        return text


def with_special_tokens(tokenizer: Tokenizer, ids: Int32) -> Int32:
    """Ids of a text as the tokenizer begins and ends one.

    Where the text begins with the bos token, as templates write it, it has no second.
    """
    if len(ids) and ids[0] == tokenizer.bos_token_id:
        return ids
    return tokenizer.single(ids, None, "off").token_ids


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
