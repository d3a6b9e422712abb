import threading

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from packrank import pairs
from packrank.errors import ModelError
from packrank.pairs import PairReader
from packrank.request import Int32
from packrank.tokenizer import Tokenizer

WORDS = ("[CLS]", "[SEP]", "q", "a", "b", "unembedded")


def reader(*, special: bool = True) -> PairReader:
    """At most 8 tokens; the model embeds all words but the last."""
    vocab = {word: i for i, word in enumerate(WORDS)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="q"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        backend.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    return PairReader(Tokenizer(backend), len(WORDS) - 1, 8, "off")


class Watched(Tokenizer):
    """Notes what is asked of it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.__dict__.update(tokenizer.__dict__)
        self.asked: list[list[str]] = []
        self.started = [threading.Event() for _ in range(8)]

    def encode(self, texts: list[str]) -> list[Int32]:  # type: ignore[override]
        self.started[len(self.asked)].set()
        self.asked.append(texts)
        if "break" in texts:
            raise ModelError("broken")
        return super().encode(texts)


def watch(read: PairReader) -> tuple[PairReader, Watched]:
    tokenizer = Watched(read.tokenizer)
    return PairReader(tokenizer, read.vocab_size, read.max_length, read.truncation), tokenizer


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
    read, tokenizer = watch(reader())
    read = PairReader(tokenizer, read.vocab_size, read.max_length, read.truncation, "a ")
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
