"""Which kind of reranker a folder holds: what its model reads, and what of it is a score."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from packrank.checkpoint.config import ModelConfig
from packrank.checkpoint.model_names import names_of
from packrank.checkpoint.scoring_modules import ScoringModules
from packrank.errors import InputError, ModelError
from packrank.scoring.sentence_transformers import LogitScore, Settings, read_settings
from packrank.text.chat_template import ChatLayout, ChatTemplate
from packrank.text.pairs import PairLayout, TokenizerLayout, usable_length
from packrank.text.prompt import PromptLayout, token_of
from packrank.text.template_file import SUFFIX, read_template
from packrank.text.templates import TEMPLATES, Template
from packrank.text.tokenizer import Tokenizer
from packrank.text.truncation import NO_LIMITS, SideLimits, Truncation

Head = Literal["classifier", "tokens", "layerwise", "modules"]

# The name of the tokenizer's own layout of pairs, beside those of templates.
PLAIN = "pair"

# Architectures that say which template they were trained on.
_BY_ARCHITECTURE = {
    "LayerWiseMiniCPMForCausalLM": "bge-minicpm-layerwise",
    "CostWiseGemmaForCausalLM": "bge-gemma2-lightweight",
    "LlamaBidirectionalForSequenceClassification": "nemotron",
}
# Those that many models have: a reranker among them, what its name and those of conversions hold,
# and its template.
# Another version is another model.
_END = r"(?!\.?\d)"
_BGE_GEMMA = ("bge-reranker-v2-gemma", f"bge-reranker-v2-gemma{_END}", "bge-gemma")
_MXBAI = ("mxbai-rerank-v2", f"mxbai-rerank-((base|large)-)?v2{_END}", "mxbai-v2")
_QWEN3 = ("Qwen3-Reranker", f"Qwen3-Reranker{_END}", "qwen3")
_CONTEXTUAL = ("ctxl-rerank-v2", f"ctxl-rerank-v2{_END}", "contextual")
_MONOT5 = ("monoT5", f"mono-?t5{_END}", "monot5")
_BY_NAME = {
    "GemmaForCausalLM": (_BGE_GEMMA,),
    "GemmaForSequenceClassification": (_BGE_GEMMA,),
    "Qwen2ForCausalLM": (_MXBAI,),
    "Qwen2ForSequenceClassification": (_MXBAI,),
    "Qwen3ForCausalLM": (_QWEN3, _CONTEXTUAL),
    "Qwen3ForSequenceClassification": (_QWEN3, _CONTEXTUAL),
    "T5ForConditionalGeneration": (_MONOT5,),
    "T5WithLMHeadModel": (_MONOT5,),
}
# Under any other name, what has one label may be a conversion as well as read plain pairs.
_DOUBTFUL = "Qwen3ForSequenceClassification"


@dataclass(frozen=True)
class Scoring:
    """What a model reads, and what of it is a score.

    Attributes:
        head: "classifier", the model's own; "tokens", the logit of a token, less that of another;
            "layerwise", one at each of several layers; "modules" of sentence-transformers.
        activation: what turns logits into scores by default; see `activations.known_activation`.
        max_length: by default; as the template counts it, if there is one.
        truncation: by default.
        shift: "normalized" scores are sigmoid(logit - shift).
        template: what the model reads; None: see `chat`.
        template_name: of that, in which the content of a user's file has a part.
        chat: the same; None too: the tokenizer's own layout of pairs.
        prompt: before every query in that; in a chat, the system's message.
        tokens: of the head "tokens"; None of the others.
        modules: of the head "modules"; None of the others.
    """

    head: Head
    activation: str
    max_length: int
    truncation: Truncation = "longest_first"
    shift: float = 0.0
    template: Template | None = None
    template_name: str | None = None
    chat: ChatTemplate | None = None
    prompt: str = ""
    tokens: LogitScore | None = None
    modules: ScoringModules | None = None

    def layout(
        self,
        tokenizer: Tokenizer,
        config: ModelConfig,
        *,
        max_length: int | None = None,
        truncation: Truncation | None = None,
        instruction: str | None = None,
        prompt: str | None = None,
        limits: SideLimits = NO_LIMITS,
    ) -> PairLayout:
        """How pairs become sequences of this model.

        Args:
            tokenizer: of the model.
            config: of the model.
            max_length: if None, the default, which leaves a model's own template within the
                positions that it was trained on.
            truncation: if None, the default. "off": what is too long fails. Else templates and
                chats say themselves what is cut.
            instruction: instead of the model's own; in a chat, the system's message.
            prompt: the same; and where the tokenizer lays out pairs, what goes before every query
                instead of what sentence-transformers saved.
            limits: of each text by itself.

        Raises:
            InputError: an argument of which the model can make nothing.
            ModelError: the tokenizer is not of this model.
        """
        truncation = truncation or self.truncation
        truncate, positions = truncation != "off", config.max_length
        if max_length is None and self.template_name in TEMPLATES:
            positions = config.usual_length
        if prompt is not None and (self.template is not None or self.chat is not None):
            instruction = prompt if instruction is None else instruction
        if self.template is not None:
            return PromptLayout(
                self.template,
                tokenizer,
                positions,
                max_length=max_length,
                instruction=instruction,
                truncate=truncate,
                limits=limits,
            )
        usual = self.max_length
        if self.chat is not None:
            if limits != NO_LIMITS:
                raise InputError(
                    "query_length and document_length are not for chat templates, whose prompts "
                    "are cut as a whole, by max_length"
                )
            length = usable_length(max_length, positions, usual, 0)
            prompt = self.prompt if instruction is None else instruction
            return ChatLayout(self.chat, tokenizer, length, prompt=prompt, truncate=truncate)
        if instruction is not None:
            raise InputError("the model reads query and document alone and takes no instruction")
        special = tokenizer.num_special_tokens(pair=True)
        _check_types(tokenizer, config)
        length = usable_length(max_length, positions, usual, special)
        shares = config.shares_prefixes
        before = self.prompt if prompt is None else prompt
        if before != self.prompt and self.modules is not None and not self.modules.includes_prompt:
            raise InputError(
                "the model leaves its own prompt out of what it pools, and takes no other; leave "
                "prompts as they are saved, or score with sentence_transformers.CrossEncoder"
            )
        return TokenizerLayout(tokenizer, length, truncation, before, shares, limits)


def recognise(
    folder: Path,
    config: ModelConfig,
    tokenizer: Tokenizer,
    *,
    template: str | os.PathLike[str] | None = None,
    name: str | None = None,
) -> Scoring:
    """How a reranker's folder is scored.

    In this order: what the caller says, sentence-transformers' files, the architecture, the model's
    name. Nothing is guessed.

    Args:
        folder: as the user names it.
        config: of `encoder_folder(folder)`.
        tokenizer: of the same.
        template: a key of `TEMPLATES`; a JSON file of one, whose name ends so; or "pair": query and
            document alone, as the tokenizer lays them out; None: as the files say.
        name: what the user calls the model, where that is not the folder.

    Raises:
        ModelError: the files do not say how, or ask for what is not supported.
        InputError: there is no such template, or it is not for this model.
    """
    if isinstance(template, os.PathLike):
        template = os.fspath(template)
    if template is not None and not _is_file(template):
        known = (*TEMPLATES, PLAIN)
        if template not in known:
            raise InputError(
                f"template is {template!r}, expected one of {', '.join(map(repr, known))}, or the "
                f"name of a file that ends in {SUFFIX}"
            )
    settings = read_settings(folder, config, tokenizer)
    if config.is_body and settings.modules is None:
        raise ModelError(
            f"{folder} is a {config.architecture}, a decoder without anything that scores; pass "
            "the folder of a reranker"
        )
    if not config.reads_prompts:
        if template not in (None, PLAIN):
            raise InputError(
                f"template {template!r} is for decoders, and {config.architecture} is none"
            )
        return _untemplated(config, settings, plain=template == PLAIN)
    if template is None and settings.chat is None:
        template = _template_of(folder, config, settings, name)
    if template in (None, PLAIN):
        return _untemplated(config, settings, plain=template == PLAIN)
    if _is_file(template):
        name, found = read_template(template)
    else:
        name, found = template, TEMPLATES[template]
    return _templated(found, name, config, tokenizer, settings)


def _template_of(
    folder: Path, config: ModelConfig, settings: Settings, name: str | None
) -> str | None:
    """What architecture and name say; None: the tokenizer's own layout."""
    architecture = config.architecture
    if settings.logit_score is not None or settings.modules is not None:
        return None
    if config.is_classifier and settings.saved:
        return None
    if architecture in _BY_ARCHITECTURE:
        return _BY_ARCHITECTURE[architecture]
    if architecture in _BY_NAME:
        names = names_of(folder, name)
        found = [
            one
            for one in _BY_NAME[architecture]
            if any(re.search(one[1], called, re.IGNORECASE) for called in names)
        ]
        named = bool(found)
        original, _, template = (found or _BY_NAME[architecture])[0]
        several = config.is_classifier and config.num_labels != 1
        if named and not several:
            return template
        if named or (architecture == _DOUBTFUL and not several):
            why = f", of {config.num_labels} labels where a {original} has one," if named else ""
            raise ModelError(
                f"{folder} is a {architecture}{why} and does not say how its pairs are laid out; "
                f'pass template="{template}" (--template) if it was made from a {original}, '
                f'template="{PLAIN}" if it was trained on query and document alone'
            )
    if config.is_classifier:
        return None
    if config.t5 is not None:
        raise ModelError(
            f"{folder} is a {architecture}, and nothing says that it was trained to score pairs; "
            'if it was, pass template="monot5" (--template) or a JSON file of its own, else '
            "compare documents with Pairwise or Setwise"
        )
    known = ", ".join(map(repr, TEMPLATES))
    raise ModelError(
        f"{folder} is a {architecture} and does not say what makes it a reranker; pass template= "
        f"(--template), one of {known}, or a JSON file of your own "
        "(docs/templates.md); or rank with Listwise, Pairwise or Setwise (--method)"
    )


def _check_types(tokenizer: Tokenizer, config: ModelConfig) -> None:
    """Raise ModelError if pairs have token types that a model with a table of them has not."""
    one = np.zeros(1, dtype=np.int32)
    types = 1 + int(tokenizer.pair(one, one, None, "off").token_types.max())
    if 0 < config.type_vocab_size < types:
        raise ModelError(
            f"the tokenizer gives pairs {types} token types, and the model knows "
            f"{config.type_vocab_size} (type_vocab_size); is the tokenizer another model's?"
        )


def _is_file(template: object) -> bool:
    """Whether a template is the name of a file."""
    return isinstance(template, str) and template.lower().endswith(SUFFIX)


def _untemplated(config: ModelConfig, settings: Settings, *, plain: bool) -> Scoring:
    tokens, head = settings.logit_score, _head_of(settings)
    if head == "classifier" and not config.is_classifier:
        if not plain and not config.reads_prompts:
            raise ModelError(
                f"{config.architecture} has no scoring head; use LateInteraction, or pass the "
                "folder of a cross-encoder"
            )
        raise InputError(
            f'template "{PLAIN}" does not say which tokens score, and {config.architecture} has no '
            "head that does"
        )
    return Scoring(
        head=head,
        activation=settings.activation,
        max_length=settings.max_length,
        truncation=settings.truncation,
        chat=None if plain else settings.chat,
        prompt=settings.prompt,
        tokens=tokens,
        modules=settings.modules,
    )


def _head_of(settings: Settings) -> Head:
    if settings.modules is not None:
        return "modules"
    return "classifier" if settings.logit_score is None else "tokens"


def _templated(
    template: Template, name: str, config: ModelConfig, tokenizer: Tokenizer, settings: Settings
) -> Scoring:
    activation: str = template.activation
    tokens = None
    head: Head = "tokens"
    if config.is_classifier or settings.modules is not None:
        head = _head_of(settings)
        if settings.saved or config.saved_activation or not template.of_classifiers:
            activation = settings.activation
    elif config.decoder is not None and config.decoder.first_exit is not None:
        head = "layerwise"
    elif template.true_token is None:
        raise InputError(
            f"template {name!r} names no token that scores, and {config.architecture} has neither "
            "a classifier nor a head at several layers"
        )
    else:
        tokens = tokens_of(template, name, tokenizer)
    return Scoring(
        head=head,
        activation=activation,
        max_length=template.max_length,
        shift=template.shifts.get(config.hidden_size, template.shift),
        template=template,
        template_name=name,
        tokens=tokens,
        modules=settings.modules,
    )


def tokens_of(template: Template, name: str, tokenizer: Tokenizer) -> LogitScore:
    """The tokens that a template names, whose logits are a score.

    Args:
        template: that names one at least.
        name: of the template, for the messages.
        tokenizer: of the model.

    Raises:
        ModelError: the tokenizer has no such token.
        InputError: both are one.
    """
    assert template.true_token is not None
    true, false = token_of(tokenizer, template.true_token), None
    if template.false_token is not None:
        false = token_of(tokenizer, template.false_token)
    if true == false:
        raise InputError(
            f"template {name!r} takes the logit of {template.false_token!r} off that of "
            f"{template.true_token!r}, and to this tokenizer both are token {true}: every score "
            "would be 0"
        )
    return LogitScore(true, false)
