"""How many tokens texts will have: learned from what others had."""

from typing import Any

import numpy as np
import pytest
from toy_model import Open

from packrank import Engine, Reranker
from packrank.documents import Tokenization, TokenizedText
from packrank.reranker import asked_of
from packrank.serving.guess import TokenGuess
from packrank.serving.source import PairSource
from packrank.serving.texts import characters


def learned(guess: TokenGuess, text: str, tokens: int, *, times: int = 100) -> TokenGuess:
    """What a guess is after so many of a text."""
    for _ in range(times):
        guess.learn(np.array([characters(text)]), np.array([tokens]), np.array([True]))
    return guess


@pytest.mark.parametrize("letter", ["a", "蛇"])
@pytest.mark.parametrize(("tokens", "length"), [(1, 6), (2, 1), (1, 3)])
def test_what_texts_have_is_learned(letter: str, tokens: int, length: int) -> None:
    text, first = letter * 300, 100 if letter == "a" else 300
    guess = TokenGuess()
    assert guess.tokens(text) == first
    once = learned(guess, letter * 40 * length, 40 * tokens).tokens(text)
    learned(guess, "", 0)
    last = 300 * tokens // length
    learned(guess, letter * 40 * length, 40 * tokens, times=10_000)
    assert guess.tokens(text) == pytest.approx(last, abs=1)
    assert min(first, last) <= once <= max(first, last)


def test_what_is_ascii_says_nothing_of_what_is_not() -> None:
    """Else a burst of Chinese after English is several times as long as the queue."""
    english, chinese, mixed = "a" * 1000, "蛇" * 1000, "蛇" * 600 + "a" * 400
    guess = learned(TokenGuess(), english, 200, times=1000)
    assert (guess.tokens(english), guess.tokens(chinese)) == (pytest.approx(200, abs=1), 1000)
    learned(guess, chinese, 700, times=1000)
    assert guess.tokens(english) == pytest.approx(200, abs=1)
    assert guess.tokens(chinese) == pytest.approx(700, abs=1)
    learned(guess, mixed, 620, times=1000)  # 0.9 a character, beside 0.2
    assert guess.tokens(english) == pytest.approx(200, abs=1)
    assert guess.tokens(mixed) == pytest.approx(620, abs=1)
    learned(guess, "é" * 2 + "a" * 98, 32, times=10_000)  # of what it has most of
    assert guess.tokens(chinese) == pytest.approx(900, abs=1)
    assert guess.tokens("é" * 2 + "a" * 98) == pytest.approx(32, abs=1)


def test_blanks_say_nothing_of_texts() -> None:
    for letter in ("a", "蛇"):
        guess = learned(TokenGuess(), letter * 800, 99)
        assert (guess.of_ascii, guess.of_others) == (1 / 3, 1)
        learned(guess, letter * 800, 100, times=10_000)
        assert min(guess.of_ascii, guess.of_others) == pytest.approx(1 / 8)


@pytest.mark.parametrize("text", ["", "abc", "é", "蛇 a\n", "\ud800x", "\U0001f40d!"])
def test_characters_are_ascii_or_not(text: str) -> None:
    ascii = sum(ord(one) < 128 for one in text)
    assert characters(text) == (ascii, len(text) - ascii)


def test_a_queue_is_as_long_as_what_was_read_says(toy: Open) -> None:
    """A token of four letters and a blank; three special ones more, cut at 16."""
    text = " ".join(["high"] * 9)
    with Engine(toy(), cache_bytes=0) as engine:
        engine.submit("q", [text] * 3000).result(30)
        assert engine._guess.of_ascii * len("q" + text) == pytest.approx(10, abs=1)
        rate = engine._guess.of_ascii
        engine.submit("q", [text * 2] * 3000).result(30)  # cut: it says nothing of texts
        engine.submit("q", [text] * 3000, document_length=2).result(30)
        engine.submit("q", [" " * 5000] * 100).result(30)
        assert engine._guess.of_ascii == rate


@pytest.mark.parametrize(("limits", "kept"), [({}, 13), ({"document_length": 10}, 11)])
def test_pairs_that_are_cut_say_that_they_have_no_fewer(
    toy: Open, limits: dict[str, Any], kept: int
) -> None:
    """A queue whose texts are all cut would else be taken for shorter than it is for ever."""
    text = " ".join("a" * 15)  # two characters a token, of which 13 are read at most
    with Engine(toy(), cache_bytes=0) as engine:
        engine.submit("q", [text] * 10_000, **limits).result(60)
        assert engine._guess.of_ascii == pytest.approx(kept / len("q" + text), rel=0.01)


def test_a_guess_keeps_within_what_texts_can_have() -> None:
    for letter in ("a", "蛇"):
        guess = learned(TokenGuess(), letter * 10_000, 10**9, times=1000)
        assert max(guess.of_ascii, guess.of_others) == pytest.approx(4)


def test_a_cost_is_what_a_pair_takes_to_tokenize_or_to_run(toy: Open) -> None:
    with Engine(toy({"max_position_embeddings": 100}), cache_bytes=0) as engine:
        model = engine.model
        assert isinstance(model, Reranker)

        def cost(document: Any, **options: Any) -> tuple[int, int]:
            """Of the queue, and of a turn of reading."""
            asked = asked_of(model, **options)
            source = PairSource(asked.scorer, None, engine.cache, engine._guess)
            [kept], [read] = source.costs([("q", document)])
            return kept, read

        assert cost("") == (3 + 1, 3 + 1)
        assert cost("a" * 30) == (3 + 1 + 10, 3 + 1 + 10)
        assert cost("蛇" * 30) == (3 + 1 + 30, 3 + 1 + 30)
        assert cost("a" * 30, document_length=2) == (3 + 1 + 2, 3 + 1 + 10)  # all are tokenized
        assert cost("a" * 3000) == (100, 3 + 1 + 1000)
        assert cost("a" * 30_000) == ((3 + 1 + 10_000) // 16, 3 + 1 + 10_000)  # as long as that
        tokens = Tokenization("this model", "any")
        for count, kept in ((3, 3), (1000, 96)):  # of ids no more than are run
            ids = TokenizedText(np.arange(count, dtype=np.int32), tokens)
            assert cost(ids) == (3 + 1 + kept, 3 + 1 + kept)
            assert cost(ids, document_length=2) == (3 + 1 + 2, 3 + 1 + 2)
        assert min(cost(7)) >= 1
