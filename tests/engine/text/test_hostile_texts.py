"""Texts that the tokenizers library fails on: each fails by itself, whatever the layout."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tokenizers
from prompts import FLAG, byte_bpe, rows
from tokenizer_folders import FAMILIES
from tokenizers import Regex, models, pre_tokenizers, processors

from packrank.errors import InputError, ModelError
from packrank.text.chat_template import ChatLayout, ChatTemplate
from packrank.text.pairs import PairLayout, PairReader, TokenizerLayout
from packrank.text.prompt import PromptLayout
from packrank.text.templates import TEMPLATES
from packrank.text.tokenizer import Tokenizer

PANIC = "zz"


class PanicException(BaseException):
    """As pyo3 raises it, which no module exports."""


class Panicking:
    """A tokenizer that panics on some texts."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def encode_batch_fast(self, texts: list[str], **options: bool) -> Any:
        self._look(texts)
        return self.backend.encode_batch_fast(texts, **options)

    def encode(self, *texts: str, **options: bool) -> Any:
        self._look(texts)
        return self.backend.encode(*texts, **options)

    def _look(self, texts: Sequence[str]) -> None:
        if any(PANIC in text for text in texts):
            raise PanicException("called unwrap")


def panicking() -> Tokenizer:
    tokenizer = Tokenizer(byte_bpe("<|im_start|>", "<|im_end|>"))
    tokenizer._backend = Panicking(tokenizer._backend)  # type: ignore[assignment]
    return tokenizer


def words(model: tokenizers.models.Model) -> Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("b", 1), ("a", 0))
    return Tokenizer(backend)


VOCAB = {"a": 0, "b": 1, "[UNK]": 2}
FAILING: dict[str, tuple[Callable[[], Tokenizer], str, str]] = {
    "panic": (panicking, PANIC, "called unwrap"),
    "unknown word": (
        lambda: words(models.WordPiece(VOCAB, unk_token="[NO]")),
        "a c",
        r"Missing \[UNK\] token",
    ),
    "unknown letter": (
        lambda: words(models.BPE(VOCAB, [], unk_token="[NO]")),
        "c",
        r"`\[NO\]` not found",
    ),
    "unknown piece": (
        lambda: words(models.Unigram([("a", -1.0), ("b", -2.0)], None)),
        "b c",
        "`unk_id` is missing",
    ),
    "large id": (
        lambda: words(models.WordLevel(VOCAB | {"c": 2**31 + 5}, "[UNK]")),
        "a c b",
        "2147483653",
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_text_fails_by_itself(name: str) -> None:
    make, text, message = FAILING[name]
    tokenizer = make()
    ids, failures = tokenizer.try_encode(["a", text, "b a", text, ""])
    alone = [*tokenizer.encode(["a"]), *tokenizer.encode(["b a"])]
    assert [x.tolist() for x in ids] == [alone[0].tolist(), [], alone[1].tolist(), [], []]
    assert all(x.dtype == np.int32 for x in ids)
    assert list(failures) == [text]
    with pytest.raises(ModelError, match=message):
        tokenizer.encode(["a", text])
    with pytest.raises(InputError, match=message):
        tokenizer.offsets(text)
    pack, reasons = TokenizerLayout(tokenizer, 60, "longest_first").lay_out(
        [("a", "b"), ("a", text), (text, "b"), ("a", "b b")]
    )
    want, _ = TokenizerLayout(tokenizer, 60, "longest_first").lay_out([("a", "b"), ("a", "b b")])
    assert rows(pack) == rows(want)
    assert list(reasons) == [1, 2]


def test_a_layout_whose_failures_have_two_causes_names_each() -> None:
    layout = TokenizerLayout(words(models.WordPiece(VOCAB, unk_token="[NO]")), 6, "off")
    pairs = [("a", "c"), ("a", "b"), ("a", "b b b b b b"), ("a", "a"), ("c", "a")]
    pack, reasons = layout.lay_out(pairs)
    assert rows(pack) == [[0, 0, 1, 1, 1], [0, 0, 1, 0, 1]]
    assert {place: reason[:14] for place, reason in reasons.items()} == {
        0: "the tokenizer ",
        4: "the tokenizer ",
        2: "the pair has 1",
    }


def chat(tokenizer: Tokenizer) -> ChatLayout:
    source = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    return ChatLayout(ChatTemplate(source), tokenizer, 200)


LAYOUTS: dict[str, Callable[[Tokenizer], PairLayout]] = {
    name: lambda tokenizer, name=name: PromptLayout(TEMPLATES[name], tokenizer, 4096)
    for name in (FLAG[0], "mxbai-v2", "qwen3", "qwen3-chat")
} | {"chat": chat}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_prompt_fails_by_itself(name: str) -> None:
    layout = LAYOUTS[name](panicking())
    pairs = [("a", "b"), ("a", PANIC), (PANIC, "b"), ("is", "it"), ("a", "b b")]
    pack, reasons = layout.lay_out(pairs)
    want, none = layout.lay_out([pairs[0], *pairs[3:]])
    assert (rows(pack), list(none)) == (rows(want), [])
    assert sorted(reasons) == [1, 2]
    assert all("called unwrap" in reason for reason in reasons.values())
    assert pack.shared is not None and want.shared is not None
    assert pack.shared.tolist() == want.shared.tolist()


def test_a_window_keeps_what_can_be_read() -> None:
    layout = TokenizerLayout(words(models.WordPiece(VOCAB, unk_token="[NO]")), 60, "off")
    (window,) = PairReader(layout, 3).windows([("a", "c"), ("b", "a"), ("a", 5), ("a", "b")])
    assert window.indices == [1, 3]
    assert sorted(window.failures) == [0, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_failure_of_a_text_is_raised(error: type[BaseException]) -> None:
    tokenizer = words(models.WordPiece(VOCAB, unk_token="[NO]"))

    class Interrupted:
        def encode_batch_fast(self, texts: list[str], **options: bool) -> object:
            raise error

    tokenizer._backend = Interrupted()  # type: ignore[assignment]
    with pytest.raises(error):
        tokenizer.try_encode(["a", "b"])


def test_a_layout_is_found_by_a_text_that_can_be_read() -> None:
    """Whichever token of the vocabulary comes first."""
    for large in range(3):
        vocab = {f"t{i}": i + (2**31 if i == large else 0) for i in range(3)}
        tokenizer = words(models.WordLevel(vocab, unk_token="[NO]"))
        assert tokenizer.num_special_tokens(pair=True) == 3


def test_a_special_token_past_all_ids_is_refused() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel(VOCAB | {"[X]": 2**31 + 1}, "[UNK]"))
    backend.post_processor = processors.BertProcessing(("[X]", 2**31 + 1), ("a", 0))
    with pytest.raises(ModelError, match=r"has token 2147483649, more than 2\*\*31 - 1"):
        Tokenizer(backend).num_special_tokens(pair=True)


def test_a_panic_of_the_library_is_a_failure_of_its_text(thorough: bool) -> None:
    """On a pattern that takes ten million tries; and on Qwen2's own, on eleven million blanks."""
    backend = byte_bpe("<|im_start|>")
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(?:z|zz)+y|[^z]+"), "isolated")
    _, failures = Tokenizer(backend).try_encode(["z" * 60])
    assert "retry-limit-in-match over" in failures["z" * 60]
    if not thorough:
        return
    blanks = " " * 11_000_000 + "x"
    content = json.loads(FAMILIES["qwen2"][1]().to_str())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)))
    ids, failures = tokenizer.try_encode(["ab", blanks, "a"])
    assert list(failures) == [blanks]
    assert [len(x) for x in ids] == [1, 0, 1]


SPLIT = {"split_special_tokens": True}


@pytest.mark.parametrize("name", ["mxbai-v2", "qwen3", "qwen3-chat"])
def test_special_tokens_in_texts_are_text_where_the_tokenizer_splits_them(name: str) -> None:
    """Those of the template are not; where texts are not split, they close the turn."""
    backend = byte_bpe("<|im_start|>", "<|im_end|>")
    end = backend.token_to_id("<|im_end|>")
    (plain,) = rows(
        PromptLayout(TEMPLATES[name], Tokenizer(backend), 4096).lay_out([("a", "b<|im_end|>")])[0]
    )
    backend.encode_special_tokens = True
    tokenizer = Tokenizer(backend, SPLIT)
    (split,) = rows(
        PromptLayout(TEMPLATES[name], tokenizer, 4096).lay_out([("a", "b<|im_end|>")])[0]
    )
    (bare,) = rows(PromptLayout(TEMPLATES[name], tokenizer, 4096).lay_out([("a", "b")])[0])
    assert split.count(end) == bare.count(end) == plain.count(end) - 1
    assert len(split) > len(plain)


def test_a_tokenizer_that_splits_special_tokens_is_another() -> None:
    backend = byte_bpe("<|im_end|>")
    plain = Tokenizer(backend).serialized
    backend.encode_special_tokens = True
    assert Tokenizer(backend, SPLIT).serialized != plain


def test_a_chat_is_split_whole_as_transformers_does_it() -> None:
    backend = byte_bpe("<|im_start|>", "<|im_end|>")
    backend.encode_special_tokens = True
    (split,) = rows(chat(Tokenizer(backend, SPLIT)).lay_out([("a", "b<|im_end|>")])[0])
    assert backend.token_to_id("<|im_end|>") not in split
    prompt = "<|im_start|>query a<|im_end|><|im_start|>document b<|im_end|><|im_end|>"
    assert split == backend.encode(prompt, add_special_tokens=False).ids


@pytest.mark.parametrize("stored", [None, "Replace", "Sequence"])
def test_lower_case_comes_before_all_else(stored: str | None) -> None:
    backend = tokenizers.Tokenizer(
        models.WordLevel({"ab": 0, "a+": 1, "Z": 2, "?": 3, "i\u0307": 4}, "?")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    replaced = tokenizers.normalizers.Replace("b+", "+")
    if stored is not None:
        backend.normalizer = (
            replaced if stored == "Replace" else tokenizers.normalizers.Sequence([replaced])
        )
    backend.add_special_tokens(["Z"])
    tokenizer = Tokenizer(backend, lower_case=True)
    ids, offsets = tokenizer.offsets("AB \u0130 AB+ Z")
    assert ids.tolist() == [0, 4, 3 if stored is None else 1, 2]
    assert offsets == [(0, 2), (3, 4), (5, 8), (9, 10)]
    assert tokenizer.encode(["AB \u0130 AB+ Z"])[0].tolist() == ids.tolist()
