"""Prompts id by id: each oracle uses the raw library and writes the layout out by hand."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from prompts import (
    FLAG,
    PROMPTS,
    QWEN_HEAD,
    QWEN_TAIL,
    QWEN_TASK,
    Encode,
    chat_oracle,
    check_shared,
    encoder,
    flag_oracle,
    gemma,
    joining,
    minicpm,
    monot5,
    monot5_oracle,
    mxbai_oracle,
    qwen_oracle,
    rows,
    small_qwen,
)
from tokenizers import models

from packrank.errors import InputError, ModelError
from packrank.text.layout import common_prefix
from packrank.text.prompt import PromptLayout
from packrank.text.templates import TEMPLATES
from packrank.text.tokenizer import Tokenizer

TEXTS = ["", "a", " a", "panda  is\na b", "\n", "é", "漢 a", "  ", "it was the panda, or 1 " * 3]


@pytest.fixture(scope="module")
def qwen2(data_dir: Path) -> tuple[Tokenizer, Encode]:
    backend = tokenizers.Tokenizer.from_file(str(data_dir / "tokenizers/qwen2/tokenizer.json"))
    return Tokenizer(backend), encoder(backend)


@pytest.mark.parametrize("make", [gemma, minicpm])
@pytest.mark.parametrize("name", FLAG)
@pytest.mark.parametrize("limit", [512, 24, 13, 12, 11, 10])
def test_flagembedding(make: Callable[[], tuple[Tokenizer, Encode]], name: str, limit: int) -> None:
    tokenizer, encode = make()
    layout = PromptLayout(TEMPLATES[name], tokenizer, 4096, max_length=limit)
    pairs = list(itertools.product(TEXTS, TEXTS))
    pack, failures = layout.lay_out(pairs)
    assert not failures
    expected = [flag_oracle(name, encode, [1], q, d, limit) for q, d in pairs]
    assert rows(pack) == expected
    check_shared(pack)
    # What token compression needs: all before the document's part, and all after.
    first = [len(encode("A: " + q)[: limit * 3 // 4]) for q, _ in pairs]
    assert pack.shared is not None
    assert pack.shared.tolist() == [1 + n + len(encode("\n")) for n in first]
    assert layout.num_tail == len(encode("\n")) + len(encode(PROMPTS[name]))
    assert pack.max_seqlen <= layout.longest


def test_flagembedding_cuts_to_a_budget_that_holds_the_prompt_too() -> None:
    """Of a long document as much stays as the query leaves, at every length of the query."""
    tokenizer, encode = gemma()
    pairs = [("a" * n, "b" * 80) for n in range(40)]
    for limit in (10, 11, 20, 33):
        layout = PromptLayout(TEMPLATES["bge-gemma"], tokenizer, 4096, max_length=limit)
        pack, failures = layout.lay_out(pairs)
        assert not failures
        assert rows(pack) == [flag_oracle("bge-gemma", encode, [1], *p, limit) for p in pairs]


def test_bos_where_there_is_none_or_it_is_the_pad_token() -> None:
    one = [("a", "b")]
    pad, encode = gemma(bos_token="<pad>")
    expected = flag_oracle("bge-gemma", encode, [], "a", "b", 512)
    assert rows(PromptLayout(TEMPLATES["bge-gemma"], pad, 4096).lay_out(one)[0]) == [expected]
    expected = flag_oracle(FLAG[2], encode, [0], "a", "b", 512)
    assert rows(PromptLayout(TEMPLATES[FLAG[2]], pad, 4096).lay_out(one)[0]) == [expected]
    # "<bos>" is a token, but not what a null says.
    null, encode = gemma(bos_token=None)
    expected = flag_oracle("bge-gemma", encode, [], "a", "b", 512)
    assert rows(PromptLayout(TEMPLATES["bge-gemma"], null, 4096).lay_out(one)[0]) == [expected]
    assert null.bos_token_id is None
    none, encode = small_qwen()
    expected = flag_oracle("bge-gemma", encode, [], "a", "b", 512)
    assert rows(PromptLayout(TEMPLATES["bge-gemma"], none, 4096).lay_out(one)[0]) == [expected]
    with pytest.raises(ModelError, match="no bos token, which the template begins with"):
        PromptLayout(TEMPLATES["bge-minicpm-layerwise"], none, 4096)


@pytest.mark.parametrize("task", [None, "find pandas"])
def test_mxbai(task: str | None) -> None:
    tokenizer, encode = small_qwen()
    pairs = list(itertools.product(TEXTS, [*TEXTS, "b" * 200]))
    for limit in (8192, 90, 60, 59, 58, 57):
        layout = PromptLayout(
            TEMPLATES["mxbai-v2"], tokenizer, 9999, max_length=limit, instruction=task
        )
        pack, failures = layout.lay_out(pairs)
        assert not failures
        assert rows(pack) == [mxbai_oracle(encode, q, d, limit, task) for q, d in pairs]
        assert pack.max_seqlen <= layout.longest
        check_shared(pack)


@pytest.mark.parametrize(("name", "oracle"), [("qwen3", qwen_oracle), ("qwen3-chat", chat_oracle)])
def test_qwen3_is_cut_at_the_documents_tail(name: str, oracle: Callable[..., list[int]]) -> None:
    tokenizer, encode = small_qwen()
    document = "b" * 30
    whole = len(oracle(encode, "what is a", document, 8192))
    for limit in range(whole - 25, whole + 4):
        layout = PromptLayout(TEMPLATES[name], tokenizer, 9999, max_length=limit)
        pack, failures = layout.lay_out([("what is a", document), ("what is a", "")])
        assert not failures
        expected = [oracle(encode, "what is a", d, limit) for d in (document, "")]
        assert rows(pack) == expected
        assert pack.max_seqlen <= layout.longest == limit
        check_shared(pack)


AWKWARD = st.text(
    st.one_of(
        st.sampled_from(" \n\r\t.,:;<>|'\"_-0189aAsS\u0301\u0338\u200d\u00a0\u3000🦙漢é"),
        st.characters(codec="utf-8"),
    ),
    max_size=12,
)
PIECES = st.lists(
    st.one_of(AWKWARD, st.sampled_from(["<|im_end|>", "<|endoftext|>", "<Document>:", "'s", " "])),
    max_size=4,
).map("".join)


@given(query=PIECES, document=PIECES, task=PIECES)
def test_real_vocabulary(
    qwen2: tuple[Tokenizer, Encode], query: str, document: str, task: str
) -> None:
    """Query and document of Qwen3 are tokenized apart here, and in the oracle as one string."""
    tokenizer, encode = qwen2
    for name, oracle in (("qwen3", qwen_oracle), ("qwen3-chat", chat_oracle)):
        layout = PromptLayout(TEMPLATES[name], tokenizer, 9999, instruction=task)
        pack, _ = layout.lay_out([(query, document)])
        assert rows(pack) == [oracle(encode, query, document, 8192, task)]
        # Apart, or this would show nothing.
        assert pack.shared is not None
        assert pack.shared[0] == len(oracle(encode, query, "", 8192, task)) - len(
            encode(f" {TEMPLATES[name].closing}{QWEN_TAIL}")
        )
    layout = PromptLayout(TEMPLATES["mxbai-v2"], tokenizer, 9999, instruction=task)
    expected = mxbai_oracle(encode, query, document, 8192, task or None)
    assert rows(layout.lay_out([(query, document)])[0]) == [expected]


def test_awkward_strings(
    qwen2: tuple[Tokenizer, Encode], awkward_strings: Callable[[str], list[str]]
) -> None:
    tokenizer, encode = qwen2
    texts = [text for text in awkward_strings("qwen2") if len(text) < 2000]
    pairs = [
        (query, document) for query, document in zip(texts, texts[1:] + texts[:1], strict=True)
    ]
    for name, oracle in (("qwen3", qwen_oracle), ("qwen3-chat", chat_oracle)):
        pack, failures = PromptLayout(TEMPLATES[name], tokenizer, 9999).lay_out(pairs)
        assert not failures
        assert rows(pack) == [oracle(encode, *pair, 8192) for pair in pairs]


@pytest.mark.parametrize(("name", "oracle"), [("qwen3", qwen_oracle), ("qwen3-chat", chat_oracle)])
def test_a_tokenizer_that_does_not_split_where_the_document_begins(
    name: str, oracle: Callable[..., list[int]]
) -> None:
    tokenizer, encode = joining()
    assert encode("t>: ab") != encode("t>:") + encode(" ab")
    pairs = [("q", "ab"), ("p", "ab"), ("q", "b"), ("q", ""), ("q", "a" * 30)]
    whole = len(oracle(encode, "q", "a" * 30, 9999))
    for limit in (8192, whole, whole - 1, whole - 13, whole - 25):
        layout = PromptLayout(TEMPLATES[name], tokenizer, 9999, max_length=limit)
        pack, failures = layout.lay_out(pairs)
        assert not failures
        assert rows(pack) == [oracle(encode, *pair, limit) for pair in pairs]
        check_shared(pack)
        assert pack.queries is not None
        assert (pack.queries == pack.queries[0]).tolist() == [True, False, True, True, True]
        assert pack.shared is not None
        # All but the colon, which is the document's in some.
        assert pack.shared[0] == len(encode(QWEN_HEAD)) + len(encode(oracle_body(name, "q"))) - 1
    _, failures = PromptLayout(TEMPLATES[name], tokenizer, 9999, max_length=whole - 26).lay_out(
        [("q", "a" * 30), ("q" * 40, "ab"), ("q", "")]
    )
    assert list(failures) == [1]
    assert "the query leaves no room for a document" in failures[1]


@pytest.mark.parametrize("limit", [512, 40, 20, 14, 11])
def test_monot5(limit: int) -> None:
    """A prompt keeps its end, where pygaggle would cut it off."""
    tokenizer, encode = monot5()
    layout = PromptLayout(TEMPLATES["monot5"], tokenizer, 4096, max_length=limit)
    pairs = list(itertools.product(TEXTS, TEXTS))
    pack, failures = layout.lay_out(pairs)
    expected = [monot5_oracle(encode, q, d, limit) for q, d in pairs]
    assert rows(pack) == [ids for place, ids in enumerate(expected) if place not in failures]
    assert all(ids[-3:] == [*encode("Relevant:"), 1] for ids in rows(pack))
    assert bool(failures) == (limit < 40)
    for place, reason in failures.items():
        query, _ = pairs[place]
        assert len(encode(f"Query: {query} Document:")) + 3 >= limit, reason


def oracle_body(name: str, query: str) -> str:
    gap = "\n\n" if name == "qwen3-chat" else "\n"
    return f"<Instruct>: {QWEN_TASK}{gap}<Query>: {query}{gap}<Document>:"


@given(
    name=st.sampled_from([name for name, one in TEMPLATES.items() if not one.document_first]),
    limit=st.integers(0, 60),
    queries=st.lists(st.text("ab \n", max_size=40), min_size=1, max_size=3),
    documents=st.lists(st.text("ab \n", max_size=60), max_size=4),
    apart=st.booleans(),
)
def test_sequences_of_one_query_begin_alike(
    name: str, limit: int, queries: list[str], documents: list[str], apart: bool
) -> None:
    tokenizer = TOKENIZERS[(name.startswith("bge"), apart)]
    tokenizer = MONOT5 if name == "monot5" else tokenizer
    most = limit + (9 if name.startswith("bge") else 60 if name == "mxbai-v2" else 150)
    if not apart and name in ("qwen3", "qwen3-chat"):
        most += 500
    layout = PromptLayout(TEMPLATES[name], tokenizer, 9999, max_length=most)
    pairs = [(query, document) for query in queries for document in documents]
    pack, failures = layout.lay_out(pairs)
    assert len(pack) + len(failures) == len(pairs)
    check_shared(pack)
    kept = [query for place, (query, _) in enumerate(pairs) if place not in failures]
    assert pack.queries is not None
    assert len(set(pack.queries.tolist())) == len(set(kept))
    assert len(set(zip(kept, pack.queries.tolist(), strict=True))) == len(set(kept))


MONOT5 = monot5()[0]
TOKENIZERS = {
    (True, True): gemma()[0],
    (True, False): minicpm()[0],
    (False, True): small_qwen()[0],
    (False, False): joining()[0],
}


def test_a_query_that_leaves_no_room() -> None:
    tokenizer, encode = small_qwen()
    room = 20 + len(qwen_oracle(encode, "", "", 8192))
    layout = PromptLayout(TEMPLATES["qwen3"], tokenizer, 9999, max_length=room)
    pack, failures = layout.lay_out(
        [("q" * 19, "dd"), ("q" * 21, "dd"), ("q", "d"), ("q" * 30, "")]
    )
    assert len(pack) == 2
    assert sorted(failures) == [1, 3]
    assert failures[1] == (
        f"the query leaves no room for a document within max_length {room}; shorten it or raise "
        "max_length"
    )


def test_a_cut_query_that_leaves_no_room() -> None:
    """Three quarters for the query, a prefix, and nothing of the document itself."""
    tokenizer, encode = small_qwen()
    prefix = len(encode("document:"))
    limit = 4 * (prefix + len(encode("\n")))
    layout = PromptLayout(TEMPLATES["mxbai-v2"], tokenizer, 9999, max_length=limit)
    pack, failures = layout.lay_out([("b" * 99, "bbb"), ("b", "bbb"), ("b" * 99, "")])
    assert list(failures) == [0, 2]
    assert len(pack) == 1
    layout = PromptLayout(TEMPLATES["mxbai-v2"], tokenizer, 9999, max_length=limit + 2)
    pack, failures = layout.lay_out([("b" * 99, "bbb")])
    assert not failures
    assert rows(pack) == [mxbai_oracle(encode, "b" * 99, "bbb", limit + 2)]


def test_nothing_is_cut_where_it_may_not_be() -> None:
    tokenizer, encode = gemma()
    layout = PromptLayout(TEMPLATES["bge-gemma"], tokenizer, 4096, max_length=20, truncate=False)
    pack, failures = layout.lay_out([("a", "b"), ("a", "b" * 99), ("b" * 99, "b")])
    assert rows(pack) == [flag_oracle("bge-gemma", encode, [1], "a", "b", 20)]
    assert list(failures) == [1, 2]
    assert "longer than max_length 20 allows; shorten it or allow truncation" in failures[1]
    layout = PromptLayout(TEMPLATES["qwen3"], joining()[0], 9999, max_length=700, truncate=False)
    pack, failures = layout.lay_out([("a", "b"), ("a", "b" * 500)])
    assert (len(pack), list(failures)) == (1, [1])


@pytest.mark.parametrize("name", ["bge-gemma", "mxbai-v2", "qwen3", "qwen3-chat"])
def test_positions_limit_the_whole(name: str) -> None:
    tokenizer = gemma()[0] if name == "bge-gemma" else small_qwen()[0]
    free = PromptLayout(TEMPLATES[name], tokenizer, 100_000)
    assert free.max_length == TEMPLATES[name].max_length
    positions = free.longest - free.max_length + 300
    layout = PromptLayout(TEMPLATES[name], tokenizer, positions)
    assert (layout.longest, layout.max_length) == (positions, 300)
    pack, _ = layout.lay_out([("a b " * 200, "b" * 900), ("a", "b" * 900)])
    assert pack.max_seqlen <= positions
    PromptLayout(TEMPLATES[name], tokenizer, positions, max_length=300)
    with pytest.raises(InputError, match=f"max_length is 301, but the model has {positions} pos"):
        PromptLayout(TEMPLATES[name], tokenizer, positions, max_length=301)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_the_least_max_length(name: str) -> None:
    """One less leaves no token, and says so; at the least itself something is scored."""
    make = gemma if name.startswith("bge") else monot5 if name == "monot5" else small_qwen
    tokenizer, least = make()[0], 0
    for limit in itertools.count(1):
        try:
            layout = PromptLayout(TEMPLATES[name], tokenizer, 9999, max_length=limit)
        except InputError as error:
            assert str(error) == (
                f"max_length is {limit}, which the prompt leaves no token of for query and "
                "document; pass more"
            )
            least = limit + 1
        else:
            break
    assert layout.max_length == least > 1
    pack, failures = layout.lay_out([("", "b"), ("b", "")])
    assert len(pack) + len(failures) == 2
    with pytest.raises(InputError, match=r"the prompt alone has .* and the model 4 positions, whi"):
        PromptLayout(TEMPLATES[name], tokenizer, 4)


def test_what_the_prompt_has_beside_query_and_document_must_leave_room_for_both() -> None:
    tokenizer, encode = joining()
    least = len(encode("query:") + encode("document:") + encode("\n")) + 1
    with pytest.raises(InputError, match=f"max_length is {least - 1}, which the prompt leaves no"):
        PromptLayout(TEMPLATES["mxbai-v2"], tokenizer, 9999, max_length=least - 1)
    assert (
        PromptLayout(TEMPLATES["mxbai-v2"], tokenizer, 9999, max_length=least).max_length == least
    )


def test_missing_tokens_are_named() -> None:
    tokenizer, _ = gemma()
    for name in ("mxbai-v2", "qwen3", "qwen3-chat"):
        with pytest.raises(ModelError, match=r"has no token '<\|im_start\|>', which the template"):
            PromptLayout(TEMPLATES[name], tokenizer, 9999)
    words = tokenizers.Tokenizer(models.WordLevel({"?": 0, "a": 1}, unk_token="?"))
    with pytest.raises(ModelError, match="no token"):
        PromptLayout(TEMPLATES["qwen3"], Tokenizer(words, {"unk_token": "?"}), 9999)


def test_instructions() -> None:
    tokenizer, encode = small_qwen()
    odd = "{query} {document} {instruction}"
    for name, oracle in (("qwen3", qwen_oracle), ("mxbai-v2", mxbai_oracle)):
        layout = PromptLayout(TEMPLATES[name], tokenizer, 9999, instruction=odd)
        expected = oracle(encode, odd, odd, 8192, odd)
        assert rows(layout.lay_out([(odd, odd)])[0]) == [expected]
    empty = PromptLayout(TEMPLATES["mxbai-v2"], tokenizer, 9999, instruction="")
    assert rows(empty.lay_out([("a", "b")])[0]) == [mxbai_oracle(encode, "a", "b", 8192)]
    empty = PromptLayout(TEMPLATES["qwen3"], tokenizer, 9999, instruction="")
    assert rows(empty.lay_out([("a", "b")])[0]) == [qwen_oracle(encode, "a", "b", 8192, "")]
    with pytest.raises(InputError, match="the model's prompt has no place for an instruction"):
        PromptLayout(TEMPLATES["bge-gemma"], gemma()[0], 4096, instruction="find pandas")
    with pytest.raises(InputError, match="instruction is a int, expected a str"):
        PromptLayout(TEMPLATES["qwen3"], tokenizer, 9999, instruction=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the instruction holds a lone surrogate"):
        PromptLayout(TEMPLATES["qwen3"], tokenizer, 9999, instruction="\udc80")


@pytest.mark.parametrize("apart", [True, False])
def test_no_pairs(apart: bool) -> None:
    layout = PromptLayout(TEMPLATES["qwen3"], TOKENIZERS[(False, apart)], 9999)
    pack, failures = layout.lay_out([])
    assert (len(pack), failures) == (0, {})
    assert pack.take(np.zeros(0, dtype=np.int64)).queries is not None


def test_common_prefix() -> None:
    ids = np.array([1, 2, 3, 1, 2, 4, 1, 2, 3, 9], dtype=np.int32)
    first, second = np.array([0, 0, 0, 3, 0, 9]), np.array([3, 6, 6, 6, 0, 0])
    lengths = np.array([3, 3, 4, 2, 0, 1])
    assert common_prefix(ids, first, second, lengths).tolist() == [2, 3, 3, 2, 0, 0]
    none = np.zeros(0, dtype=np.int64)
    assert common_prefix(ids, none, none, none).tolist() == []
