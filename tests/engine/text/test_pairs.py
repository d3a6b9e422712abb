import dataclasses
import threading

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from prompts import check_shared, encoder, metaspace, rows
from tokenizers import models, pre_tokenizers, processors

from packrank.errors import ModelError
from packrank.request import Int32, Pack
from packrank.text import pairs
from packrank.text.pairs import PairReader, TokenizerLayout, without_tail
from packrank.text.tokenizer import Tokenizer

WORDS = ("[CLS]", "[SEP]", "q", "a", "b", "unembedded")


def reader(*, special: bool = True) -> PairReader:
    """At most 8 tokens; the model embeds all words but the last."""
    vocab = {word: i for i, word in enumerate(WORDS)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="q"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        backend.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    return PairReader(TokenizerLayout(Tokenizer(backend), 8, "off"), len(WORDS) - 1)


class Watched(Tokenizer):
    """Notes what is asked of it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.__dict__.update(tokenizer.__dict__)
        self.asked: list[list[str]] = []
        self.started = [threading.Event() for _ in range(8)]

    def try_encode(  # type: ignore[override]
        self, texts: list[str]
    ) -> tuple[list[Int32], dict[str, str]]:
        self.started[len(self.asked)].set()
        self.asked.append(texts)
        if "break" in texts:
            raise ModelError("broken")
        return super().try_encode(texts)


def watch(read: PairReader, **options: object) -> tuple[PairReader, Watched]:
    assert isinstance(read.layout, TokenizerLayout)
    tokenizer = Watched(read.layout.tokenizer)
    layout = dataclasses.replace(read.layout, tokenizer=tokenizer, **options)
    return dataclasses.replace(read, layout=layout), tokenizer


def test_sequences_and_their_places() -> None:
    (window,) = reader().windows([("q", "a"), ("q", 1), ("", "b a")])
    assert window.indices == [0, 2]
    assert [x.token_ids.tolist() for x in window.sequences] == [[0, 2, 1, 3, 1], [0, 1, 4, 3, 1]]
    assert [x.token_types.tolist() for x in window.sequences] == [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1]]
    assert list(window.failures) == [1]


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (("q", "a a a a a"), "the pair has 9 tokens, more than max_length 8; shorten it or"),
        (("q", "unembedded"), "it holds token 5, and the model knows 5; is the tokenizer another"),
        (("q", "a\udc80"), "the text holds a lone surrogate at character 1"),
        (("q\udc80", "a"), "the text holds a lone surrogate at character 1"),
        (("q", None), "the document is a NoneType, expected a str"),
        ((b"q", "a"), "the query is a bytes, expected a str"),
        (("q", "a", "b"), "it is a tuple of 3, expected (query, document)"),
        (["q"], "it is a list of 1, expected (query, document)"),
        ("qa", "it is a str, expected (query, document)"),
        ({"query": "q", "document": "a"}, "it is a dict, expected (query, document)"),
        (None, "it is a NoneType, expected (query, document)"),
    ],
)
def test_what_is_no_usable_pair_is_left_out_with_the_reason(pair: object, reason: str) -> None:
    (window,) = reader().windows([("q", "a"), pair, ["q", "b"]])
    assert window.indices == [0, 2]
    assert list(window.failures) == [1]
    assert window.failures[1].startswith(reason)


def test_two_empty_texts_without_special_tokens() -> None:
    (window,) = reader(special=False).windows([("", ""), ("", "a")])
    assert window.indices == [1]
    assert window.failures[0].startswith("both texts are empty")


def test_what_is_left_out_leaves_the_others_what_they_share() -> None:
    read, _ = watch(reader(), causal=True)
    given = [("q", "a"), ("b", "a"), ("q", "unembedded"), ("q", 7), ("q", "b a")]
    (window,) = read.windows(given)
    assert window.indices == [0, 1, 4]
    check_shared(window.sequences)
    # [CLS] query [SEP], and then the document.
    assert window.sequences.shared is not None
    assert window.sequences.shared.tolist() == [3, 3, 3]
    assert window.sequences.queries is not None
    first, other, same = window.sequences.queries.tolist()
    assert first == same != other
    assert [len(w.sequences) for w in read.windows([None])] == [0]


def test_no_pairs_make_no_window() -> None:
    assert list(reader().windows([])) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
def test_windows_cover_all_pairs_in_order(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(pairs, "WINDOW_PAIRS", size)
    given = [("q", "a " * n) if n % 3 else None for n in range(7)]
    windows = list(reader().windows(given))
    assert [len(w.indices) + len(w.failures) for w in windows] == [
        min(size, 7 - start) for start in range(0, 7, size)
    ]
    assert [i for w in windows for i in w.indices] == [1, 2, 4]
    assert sorted(i for w in windows for i in w.failures) == [0, 3, 5, 6]
    lengths = [len(x.token_ids) for w in windows for x in w.sequences]
    assert np.array_equal(lengths, [5, 6, 8])


def test_long_texts_make_small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "WINDOW_CHARACTERS", 10)
    given = [("q", "a" * n) for n in (4, 4, 1, 30, 2)] + [None, ("q", 7), ("q", "a" * 6), ("", "a")]
    windows = list(reader().windows(given))
    places = [sorted([*w.indices, *w.failures]) for w in windows]
    assert places == [[0, 1], [2], [3], [4, 5, 6], [7, 8]]


def test_the_prompt_stands_before_every_query() -> None:
    read, tokenizer = watch(reader(), prompt="a ")
    (window,) = read.windows([("q", "b"), ("", "b")])
    assert [x.token_ids.tolist() for x in window.sequences] == [[0, 3, 2, 1, 4, 1], [0, 3, 1, 4, 1]]
    assert tokenizer.asked == [["a q", "b", "a "]]


def test_every_distinct_text_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr(pairs, "check_text", checked.append)
    list(reader().windows([("q", "a"), ("q", "b"), ("a", "q")]))
    assert sorted(checked) == ["a", "b", "q"]


def test_a_reader_that_is_closed_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "WINDOW_PAIRS", 1)
    windows = reader().windows([("q", "a")] * 5)
    next(windows)
    assert [t for t in threading.enumerate() if t.name.startswith("packrank")]
    windows.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("packrank")]


def test_the_next_window_is_read_while_this_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "WINDOW_PAIRS", 1)
    read, tokenizer = watch(reader())
    for used, _ in enumerate(read.windows([("q", "a")] * 5)):
        assert used == 4 or tokenizer.started[used + 1].wait(timeout=20)
        assert len(tokenizer.asked) <= used + 2


def test_one_window_needs_no_thread() -> None:
    before = threading.active_count()
    for _ in reader().windows([("q", "a")] * 3):
        assert threading.active_count() == before


def test_an_error_in_the_background_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "WINDOW_PAIRS", 1)
    read, _ = watch(reader())
    windows = read.windows([("q", "a"), ("q", "break"), ("q", "a")])
    assert next(windows).indices == [0]
    with pytest.raises(ModelError, match="broken"):
        next(windows)
    assert not [t for t in threading.enumerate() if t.name.startswith("packrank")]


@given(
    limit=st.integers(3, 30),
    queries=st.lists(st.text("ab ", max_size=20), min_size=1, max_size=3),
    documents=st.lists(st.text("ab ", max_size=20), max_size=4),
    left=st.booleans(),
)
def test_the_tokenizers_own_layout_of_a_causal_model(
    limit: int, queries: list[str], documents: list[str], left: bool
) -> None:
    backend = metaspace()
    config = {"truncation_side": "left"} if left else {}
    tokenizer = Tokenizer(backend, config)
    pairs = [(query, document) for query in queries for document in documents]
    plain = TokenizerLayout(tokenizer, limit, "longest_first").lay_out(pairs)[0]
    assert plain.queries is plain.shared is None
    pack, _ = TokenizerLayout(tokenizer, limit, "longest_first", causal=True).lay_out(pairs)
    assert rows(pack) == rows(plain)
    check_shared(pack)
    encode = encoder(backend)
    assert pack.queries is not None
    whole = [
        (query, number)
        for (query, document), number in zip(pairs, pack.queries.tolist(), strict=True)
        if len(encode(query)) + len(encode(document)) + 2 <= limit
    ]
    assert len(set(whole)) == len({query for query, _ in whole})
    assert len(set(whole)) == len({number for _, number in whole})


def test_pairs_of_a_causal_model_share_query_and_what_is_before_the_document() -> None:
    layout = TokenizerLayout(Tokenizer(metaspace()), 9, "longest_first", causal=True)
    pairs = [("ab", "a"), ("ab", "b a"), ("b", "a"), ("ab", "ab ab ab ab"), ("a" * 9, "b" * 9)]
    pack, _ = layout.lay_out([*pairs, ("a" * 9, "b" * 99), ("a" * 9, "b")])
    assert pack.queries is not None
    assert pack.shared is not None
    first = pack.queries[0]
    assert (pack.queries == first).tolist() == [True, True, False, True, False, False, False]
    # A number for each cut: 3 of the query's 10 tokens stay beside a long document.
    assert (pack.queries == pack.queries[4]).tolist() == [False] * 4 + [True, True, False]
    assert pack.shared.tolist() == [5, 5, 4, 5, 5, 5, 7]


def test_what_a_causal_classifier_does_not_read() -> None:
    """Runs of the padding id at the end go; one token stays; prefixes stay alike."""
    rows = [[7, 0, 5, 0, 0], [7, 0, 0], [0, 0], [7, 0, 4], [7, 0, 0, 9, 0]]
    ids = np.concatenate(rows).astype(np.int32)
    pack = Pack(
        ids,
        np.arange(len(ids), dtype=np.int32),
        np.cumsum([0, *map(len, rows)]).astype(np.int32),
        queries=np.array([0, 0, 1, 0, 0], dtype=np.int32),
        shared=np.array([2, 2, 1, 2, 2], dtype=np.int32),
    )
    read = without_tail(pack, 0)
    assert [one.token_ids.tolist() for one in read] == [
        [7, 0, 5],
        [7],
        [0],
        [7, 0, 4],
        [7, 0, 0, 9],
    ]
    assert read.token_types.tolist() == [0, 1, 2, 5, 8, 10, 11, 12, 13, 14, 15, 16]
    assert read.queries is not None and read.shared is not None
    assert read.queries[[0, 3, 4]].tolist() == [0, 0, 0]
    assert len({0, *read.queries[[1, 2]].tolist()}) == 3
    assert read.shared.tolist() == [2, 0, 0, 2, 2]
    assert without_tail(pack, 33) is pack
    nobody = Pack.of([])
    assert without_tail(nobody, 0) is nobody
