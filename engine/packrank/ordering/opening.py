"""Ways to order documents, made of a model's folder and its user's options."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packrank.arguments import checked_count
from packrank.checkpoint.adapter import base_folder, tokenizer_folder
from packrank.checkpoint.files import field, read_object
from packrank.checkpoint.model_names import names_of
from packrank.errors import InputError, ModelError
from packrank.models import CausalSettings, T5Settings
from packrank.ordering.blocks import BlockLayout, BlockRule
from packrank.ordering.by_blocks import ByBlocks
from packrank.ordering.by_labels import ByLabels, FormPrompts, LetterPrompts, Order
from packrank.ordering.by_writing import ByWriting
from packrank.ordering.chat import Chat, with_special_tokens
from packrank.ordering.forms import SET_LABELS, DuoForm, Form, PairForm, SetForm
from packrank.ordering.grammar import Grammar
from packrank.ordering.label_tokens import after_brackets, after_prefix, after_words
from packrank.ordering.orders import sliding_windows
from packrank.ordering.permutation import LETTERS
from packrank.ordering.setup import Setup
from packrank.ordering.windows import VICUNA, WindowPrompts, WindowRule, check_window
from packrank.request import Int32

PairPrompt = Literal["prp", "duot5"]
Method = Literal["listwise", "first", "pairwise", "pointwise"]
# What ranks by a method of its own, by what its name holds.
NAMED: dict[Method, str] = {
    "first": r"first[_-]mistral",
    "listwise": r"rank[_-]?(zephyr|vicuna)",
    "pairwise": r"duo[_-]?t5",
    "pointwise": r"mono[_-]?t5",
}
# Of llm-rankers.
DEFAULT_LENGTH = 128
_PASSAGE = " Passage:"
_PREFIX = "<pad> Passage"


def method_of(folder: Path, name: str | None) -> Method | None:
    """The method that a language model was trained for, by its name; None: for none."""
    for one in names_of(folder.absolute(), name):
        for method, pattern in NAMED.items():
            if re.search(pattern, one, re.IGNORECASE):
                return method
    return None


def is_named(folder: Path, name: str | None, pattern: str) -> bool:
    """Whether a name of a model holds this."""
    names = names_of(folder.absolute(), name)
    return any(re.search(pattern, one, re.IGNORECASE) for one in names)


def window_template(folder: Path, name: str | None) -> str | None:
    """The chat template that windows are shown by; None: the folder's own."""
    return VICUNA if is_named(folder, name, r"rank[_-]?vicuna") else None


def by_blocks(setup: Setup, rule: BlockRule, instruction: str | None) -> ByBlocks:
    """jina-reranker-v3's way."""
    layout = BlockLayout(setup.tokenizer, setup.config.usual_length, rule, instruction)
    return ByBlocks(layout, setup.encoder())


def by_writing(setup: Setup, rule: WindowRule, *, constrained: bool) -> ByWriting:
    """rank_llm's way: windows, whose order is written."""
    prompts = _windows(setup, rule)
    stop = stop_tokens(setup)
    grammar = None
    if constrained:
        if not stop:
            raise InputError("the model names no token that ends an answer, so none is constrained")
        vocabulary = setup.config.vocab_size
        grammar = Grammar(setup.tokenizer, stop, vocabulary, letters=rule.letters).of
    return ByWriting(prompts, setup.generator(), stop, grammar)


def by_letters(setup: Setup, rule: WindowRule) -> ByLabels:
    """FIRST: windows, whose order is that of their letters' logits."""
    prompts = _windows(setup, rule, ending="[")
    tokens = after_brackets(setup.tokenizer, LETTERS[: rule.size])
    runner = setup.labelled(_settings(tokens))

    def order(count: int, most: int) -> Any:
        return sliding_windows(count, rule.size, rule.stride)

    shares = setup.config.shares_prefixes
    return ByLabels(LetterPrompts(prompts), order, runner, tokens, shares=shares)


@dataclass(frozen=True)
class Limits:
    """Most tokens of each text.

    Attributes:
        query: of a query.
        document: of a document.
    """

    query: int
    document: int

    @classmethod
    def checked(cls, query_length: int, document_length: int) -> "Limits":
        """As a user gives them. Raises InputError unless both are counts."""
        return cls(
            checked_count("query_length", query_length) or DEFAULT_LENGTH,
            checked_count("document_length", document_length) or DEFAULT_LENGTH,
        )


def by_form(setup: Setup, form: Form[Any], order: Order, limits: Limits) -> ByLabels:
    """Questions of a form, to a chat model or an encoder-decoder."""
    tokenizer = setup.tokenizer
    settings: CausalSettings | T5Settings
    if setup.config.t5 is not None:
        start = setup.config.t5.decoder_start
        read, tokens = after_prefix(
            tokenizer, "" if isinstance(form, DuoForm) else _PREFIX, form.labels
        )
        read = read or [start]
        if read[0] != start:
            raise ModelError(
                f"the tokenizer's <pad> is token {read[0]}, and config.json says that the decoder "
                f"begins with {start}; is it another model's?"
            )
        settings = T5Settings(tuple(read), tuple(one for each in tokens for one in each))
        write: Callable[[str], str] = str
    else:
        if isinstance(form, DuoForm):
            raise InputError(f"duoT5's prompt is for encoder-decoders, and {setup.name} is none")
        chat = Chat.of(tokenizer_folder(setup.folder), tokenizer)
        tokens = after_words(tokenizer, form.labels)
        settings = _settings(tokens)

        def write(text: str) -> str:
            return chat.text(text) + _PASSAGE

    def tokenize(texts: list[str]) -> list[Int32]:
        found, failed = tokenizer.try_encode([write(text) for text in texts])
        for reason in failed.values():
            raise InputError(reason)
        return [with_special_tokens(tokenizer, ids) for ids in found]

    def cut(text: str, length: int) -> tuple[str, int]:
        ids, places = tokenizer.offsets(text)
        if len(ids) <= length:
            return text, len(ids)
        end = places[length - 1][1]
        # Within a character, which the text cannot be cut in.
        split = places[length][0] < end
        return tokenizer.decode(ids[:length]) if split else text[:end], length

    most = setup.config.usual_length
    prompts = FormPrompts(form, tokenize, cut, limits.query, limits.document, most)
    shares = setup.config.shares_prefixes
    return ByLabels(prompts, order, setup.labelled(settings), tokens, shares=shares)


def pair_form(setup: Setup, prompt: PairPrompt | None, *, all_pairs: bool) -> Form[float]:
    """How pairs are asked for: as duoT5 was trained, or in words; None: as the name says."""
    is_duo = method_of(setup.folder, setup.name) == "pairwise"
    if prompt == "duot5" or (prompt is None and is_duo):
        return DuoForm(both=not all_pairs)
    return PairForm()


def set_form(size: int, votes: int) -> Form[int]:
    """How sets of up to so many documents are asked for.

    Raises:
        InputError: there are fewer labels.
    """
    if size > len(SET_LABELS):
        raise InputError(
            f"{size} documents are compared at a time, and there are {len(SET_LABELS)} labels, "
            f"{SET_LABELS[0]} to {SET_LABELS[-1]}; lower num_child"
        )
    return SetForm(votes, SET_LABELS[:size])


def stop_tokens(setup: Setup) -> tuple[int, ...]:
    """What ends an answer: by generation_config.json, config.json and the tokenizer."""
    found: set[int] = set()
    folder = base_folder(setup.folder)
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            given = field(read_object(folder / name), "eos_token_id", (int, list), [], name)
            found |= {
                one for one in (given if isinstance(given, list) else [given]) if type(one) is int
            }
    eos = setup.tokenizer.special_tokens.get("eos_token")
    known = None if eos is None else setup.tokenizer.token_id(eos)
    found |= {known} if known is not None else set()
    return tuple(sorted(one for one in found if 0 <= one < setup.config.vocab_size))


def _windows(setup: Setup, rule: WindowRule, ending: str = "") -> WindowPrompts:
    check_window(rule.size, rule.stride, letters=rule.letters)
    if rule.context > setup.config.usual_length:
        raise InputError(
            f"context is {rule.context}, but the model has {setup.config.usual_length} positions"
        )
    source = window_template(setup.folder, setup.name)
    chat = Chat.of(tokenizer_folder(setup.folder), setup.tokenizer, source)
    if rule.system:
        try:
            chat.text("a", rule.system)
        except InputError as error:
            raise InputError(f'{error}; pass system="" (--system "")') from None
    return WindowPrompts(chat, setup.tokenizer, rule, ending)


def _settings(tokens: Sequence[Sequence[int]]) -> CausalSettings:
    labels = tuple(one for each in tokens for one in each)
    return CausalSettings(head="labels", label_token_ids=labels)


def check_language_model(setup: Setup) -> None:
    """Raise ModelError unless a model can be asked in words."""
    if setup.config.is_classifier or setup.config.is_body:
        raise ModelError(
            f"{setup.name} is a {setup.config.architecture}, which has no words to answer with; "
            "pass a language model (...ForCausalLM, ...ForConditionalGeneration)"
        )
