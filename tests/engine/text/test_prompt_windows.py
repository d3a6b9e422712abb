"""Prompts of decoders, and chats, with a window of the document in each, put together by hand."""

from collections.abc import Callable

import numpy as np
import pytest
from long_documents import read, windows
from prompts import (
    FLAG,
    MXBAI_END,
    MXBAI_HEAD,
    MXBAI_TASK,
    PROMPTS,
    QWEN_HEAD,
    QWEN_TAIL,
    QWEN_TASK,
    Encode,
    check_shared,
    gemma,
    joining,
    minicpm,
    rows,
    small_qwen,
)

from packrank.documents import TokenizedText
from packrank.text.chat_template import ChatLayout, ChatTemplate
from packrank.text.pairs import PairReader
from packrank.text.prompt import PromptLayout
from packrank.text.templates import TEMPLATES
from packrank.text.tokenizer import Tokenizer
from packrank.text.truncation import SideLimits

Make = Callable[[], tuple[Tokenizer, Encode]]


def in_windows(part: list[int], before: list[int], size: int) -> list[list[int]]:
    """A document's part of a prompt: what stands before the document is before every window."""
    if len(part) <= size:
        return [part]
    first, *others = windows(part[len(before) :], size - len(before))
    return [part[: len(before)] + first, *(before + one for one in others)]


def flag_by_hand(name: str, encode: Encode, query: str, text: str, limit: int) -> list[list[int]]:
    separator, prompt = encode("\n"), encode(PROMPTS[name])
    asked = [1, *encode(f"A: {query}")[: limit * 3 // 4]]
    size = min(limit, limit + len(prompt) - len(asked))
    parts = in_windows(encode(f"B: {text}"), encode("B:"), size)
    return [asked + separator + part + separator + prompt for part in parts]


def mxbai_by_hand(name: str, encode: Encode, query: str, text: str, limit: int) -> list[list[int]]:
    separator = encode("\n")
    asked = encode(f"query: {query}")[: limit * 3 // 4]
    size = limit - len(asked) - len(separator)
    parts = in_windows(encode(f"document: {text}"), encode("document:"), size)
    tail = separator + encode(MXBAI_TASK) + encode(MXBAI_END)
    return [encode(MXBAI_HEAD) + asked + separator + part + tail for part in parts]


def qwen_by_hand(name: str, encode: Encode, query: str, text: str, limit: int) -> list[list[int]]:
    line = "\n\n" if name == "qwen3-chat" else "\n"
    closing = encode("<|im_end|>\n") if name == "qwen3-chat" else []
    head = encode(QWEN_HEAD) + encode(
        f"<Instruct>: {QWEN_TASK}{line}<Query>: {query}{line}<Document>:"
    )
    size = limit - len(head) - len(encode(QWEN_TAIL))
    parts = in_windows(encode(f" {text}"), [], size)
    return [head + (part + closing)[:size] + encode(QWEN_TAIL) for part in parts]


def contextual_by_hand(
    name: str, encode: Encode, query: str, text: str, limit: int
) -> list[list[int]]:
    head = encode(
        "Check whether a given document contains information helpful to answer the query.\n"
        "<Document>"
    )
    asked, between = encode(f" {query} ??"), encode("\n<Query>")
    part, size = encode(f" {text}\n<Query>"), limit - len(head) - len(asked)
    if len(part) <= size:
        return [head + part + asked]
    *others, last = in_windows(part, [], size - len(between))
    return [*(head + one + between + asked for one in others), head + last + asked]


def nemotron_by_hand(
    name: str, encode: Encode, query: str, text: str, limit: int
) -> list[list[int]]:
    head = encode(f"question:{query} \n \n passage")
    parts = in_windows(encode(f":{text}"), encode(":"), limit - len(head))
    return [head + part for part in parts]


PROMPTED = [
    *((name, make, flag_by_hand, 24) for name in FLAG for make in (gemma, minicpm)),
    ("mxbai-v2", small_qwen, mxbai_by_hand, 90),
    ("qwen3", small_qwen, qwen_by_hand, None),
    ("qwen3-chat", small_qwen, qwen_by_hand, None),
    ("contextual", small_qwen, contextual_by_hand, None),
    ("nemotron", small_qwen, nemotron_by_hand, 90),
]


@pytest.mark.parametrize(("name", "make", "by_hand", "limit"), PROMPTED)
def test_prompts_of_decoders(
    name: str, make: Make, by_hand: Callable[..., list[list[int]]], limit: int | None
) -> None:
    """Every prompt holds the query, the template's words, and a window of the document."""
    tokenizer, encode = make()
    if limit is None:
        limit = len(by_hand(name, encode, "what is a", "", 9999)[0]) + 30
    texts = ["", "a", "it was what it is", "the passage was what it is " * 6, "b" * 200]
    pairs = [("what is a", text) for text in texts] + [("is it", text) for text in texts]
    counts = set()
    for most in (limit, limit + 1, limit + 7):
        layout = PromptLayout(TEMPLATES[name], tokenizer, 9999, max_length=most)
        assert layout.windowless is None
        found = read(layout, pairs)
        for pair, sequences in zip(pairs, found, strict=True):
            assert sequences == by_hand(name, encode, *pair, most), (pair, most)
            assert max(map(len, sequences)) <= layout.longest
            counts.add(len(sequences))
        how = layout.tokenization
        assert how is not None
        ids = tokenizer.encode([text.join((how.before, how.after)) for _, text in pairs])
        tokens = [(q, TokenizedText(one, how)) for (q, _), one in zip(pairs, ids, strict=True)]
        assert read(layout, tokens) == found
        pack, of, failures = layout.lay_out_windows(pairs)
        assert not failures and len(of) == len(pack)
        if name != "contextual":
            check_shared(pack)
            # What token compression needs: all before the document's part.
            plain = layout.lay_out(pairs)[0]
            assert pack.shared is not None and plain.shared is not None
            assert set(pack.shared.tolist()) == set(plain.shared.tolist())
    assert 1 in counts and max(counts) > 3


def test_what_cannot_be_windowed_says_so() -> None:
    tokenizer, _ = joining()
    layout = PromptLayout(TEMPLATES["qwen3"], tokenizer, 9999)
    assert layout.windowless is not None
    assert layout.windowless.startswith("the tokenizer joins documents to what stands before them")


def test_a_query_too_long_for_a_prompt_fails_by_name() -> None:
    tokenizer, encode = small_qwen()
    limit = len(qwen_by_hand("qwen3", encode, "", "", 9999)[0]) + 40
    pairs = [("b" * 30, "b" * 200), ("b" * 39, "b" * 200), ("b" * 60, "b"), ("b", "b" * 20)]
    for truncate in (True, False):
        layout = PromptLayout(
            TEMPLATES["qwen3"], tokenizer, 9999, max_length=limit, truncate=truncate
        )
        found = PairReader(layout, 1 << 20, long_documents="windows").window(pairs)
        assert set(found.indices) == {0, 3} and sorted(found.failures) == [1, 2]
        assert found.failures[1].startswith("the query leaves ")
    flag, _ = gemma()
    strict = PromptLayout(TEMPLATES[FLAG[0]], flag, 4096, max_length=24, truncate=False)
    found = PairReader(strict, 1 << 20, long_documents="windows").window(
        [("a" * 40, "b"), ("a", "b" * 90)]
    )
    assert set(found.indices) == {1} and "longer than max_length" in found.failures[0]


def test_limits_of_a_prompts_document_hold_for_all_of_it() -> None:
    tokenizer, encode = gemma()
    limits = SideLimits(document=60)
    layout = PromptLayout(TEMPLATES[FLAG[0]], tokenizer, 4096, max_length=24, limits=limits)
    [found] = read(layout, [("a", "b" * 300)])
    cut = encode("B: " + "b" * 300)[:60]
    separator, tail = encode("\n"), encode("\n") + encode(PROMPTS[FLAG[0]])
    asked = [1, *encode("A: a")]
    size = min(24, 24 + len(tail) - len(separator) - len(asked))
    want = in_windows(cut, encode("B:"), size)
    assert found == [asked + separator + part + tail for part in want] and len(want) > 2


CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "<|im_end|>\n{% endfor %}<|im_start|>assistant"
)
REVERSED = CHAT.replace("in messages", "in messages | reverse")


def chat_by_hand(encode: Encode, query: str, text: str, limit: int) -> list[list[int]]:
    head = f"<|im_start|>query\n{query}<|im_end|>\n<|im_start|>document\n"
    tail = encode("<|im_end|>\n<|im_start|>assistant")
    whole = encode(f"{head}{text}<|im_end|>\n<|im_start|>assistant")
    if len(whole) <= limit:
        return [whole]
    before = encode(head)
    size = limit - len(before) - len(tail)
    assert whole[: len(before)] == before and whole[-len(tail) :] == tail
    first, *others = windows(whole[len(before) : -len(tail)], size)
    return [before + part + tail for part in (first, *others)]


def test_chats() -> None:
    tokenizer, encode = small_qwen()
    texts = ["", "a", "it was what it is", "the passage was what it is " * 6, "b" * 200]
    pairs = [(query, text) for query in ("what is a", "", "is it") for text in texts]
    least = len(chat_by_hand(encode, "what is a", "", 9999)[0])
    for limit in (least + 16, least + 17, least + 29, 400):
        layout = ChatLayout(ChatTemplate(CHAT), tokenizer, limit)
        assert layout.windowless is None
        found = read(layout, pairs)
        assert found == [chat_by_hand(encode, *pair, limit) for pair in pairs]
        pack, of, failures = layout.lay_out_windows(pairs)
        assert not failures and (max(map(len, found)) > 1) == (limit < 400)
        check_shared(pack)
        # All that stands before a document, in all windows.
        assert pack.shared is not None and pack.queries is not None
        assert len(set(pack.queries.tolist())) == 3 and pack.shared.min() >= 9
        plain, _ = layout.lay_out(pairs)
        firsts = [rows(pack)[np.flatnonzero(of == place)[0]] for place in range(len(pairs))]
        assert firsts == rows(plain)


def test_a_chat_may_leave_its_suffix_out_and_just_fit() -> None:
    tokenizer, encode = small_qwen()
    exact = len(chat_by_hand(encode, "a", "b b b b b b b b b b", 9999)[0])
    pairs = [("a", "b b b b b b b b b b"), ("a", "b " * 40)]
    for restores in (True, False):
        template = ChatTemplate(CHAT, restores_suffix=restores)
        for limit in (exact - 1, exact, exact + 1):
            layout = ChatLayout(template, tokenizer, limit)
            plain = rows(layout.lay_out(pairs)[0])
            found = read(layout, pairs)
            assert [one[0] for one in found] == plain
            assert len(found[0]) == 1 + (limit < exact) and len(found[1]) > 2
            tail = encode("<|im_end|>\n<|im_start|>assistant")
            ends = [one[-len(tail) :] == tail for one in found[1]]
            assert all(ends) if restores else ends == [False] * (len(ends) - 1) + [True]


def test_chats_that_cannot_be_windowed_say_so() -> None:
    tokenizer, encode = small_qwen()
    last = ChatLayout(ChatTemplate(REVERSED), tokenizer, 60)
    assert last.windowless == "where its chat template is cut, the query does not stay"
    refusing = "{{ raise_exception('no') if '1 2' in messages[-1].content }}"
    picky = CHAT.replace("{% for", refusing + "{% for", 1)
    layout = ChatLayout(ChatTemplate(picky), tokenizer, 60)
    assert layout.windowless == "its chat template does not say where a document begins"
    limit = len(chat_by_hand(encode, "", "", 9999)[0]) + 40
    layout = ChatLayout(ChatTemplate(CHAT), tokenizer, limit)
    pairs = [("b" * 35, "b" * 99), ("b", "b" * 99), ("b" * 90, "")]
    found = PairReader(layout, 1 << 20, long_documents="windows").window(pairs)
    assert set(found.indices) == {1}
    assert all(found.failures[n].startswith("the query leaves ") for n in (0, 2))
