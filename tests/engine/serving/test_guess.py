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


@pytest.mark.parametrize(("tokens", "characters"), [(1, 10), (2, 1), (1, 3)])
def test_what_texts_have_is_learned(tokens: int, characters: int) -> None:
    guess = TokenGuess()
    assert guess.rate * 300 == pytest.approx(100)
    for _ in range(100):
        guess.learn(40 * characters, 40 * tokens)
        guess.learn(0, 0)
    once = 300 * guess.rate
    for _ in range(10_000):
        guess.learn(40 * characters, 40 * tokens)
    last = 300 * tokens / characters
    assert guess.rate * 300 == pytest.approx(last, rel=1e-3)
    assert min(100, last) <= once <= max(100, last)


def test_a_queue_is_as_long_as_what_was_read_says(toy: Open) -> None:
    """A token of four letters and a blank; three special ones more, cut at 16."""
    text = " ".join(["high"] * 9)
    with Engine(toy(), cache_bytes=0) as engine:
        engine.submit("q", [text] * 3000).result(30)
        assert engine._guess.rate * len("q" + text) == pytest.approx(10, abs=1)
        rate = engine._guess.rate
        engine.submit("q", [text * 2] * 3000).result(30)  # cut: it says nothing of texts
        engine.submit("q", [text] * 3000, document_length=2).result(30)
        engine.submit("q", [" " * 5000] * 100).result(30)
        assert engine._guess.rate == rate


@pytest.mark.parametrize(("limits", "kept"), [({}, 13), ({"document_length": 10}, 11)])
def test_pairs_that_are_cut_say_that_they_have_no_fewer(
    toy: Open, limits: dict[str, Any], kept: int
) -> None:
    """A queue whose texts are all cut would else be taken for shorter than it is for ever."""
    text = " ".join("a" * 15)  # two characters a token, of which 13 are read at most
    with Engine(toy(), cache_bytes=0) as engine:
        engine.submit("q", [text] * 10_000, **limits).result(60)
        assert engine._guess.rate == pytest.approx(kept / len("q" + text), rel=0.01)


def test_a_guess_keeps_within_what_texts_can_have() -> None:
    for tokens in (0, 10**9):
        guess = TokenGuess()
        for _ in range(1000):
            guess.learn(10_000, tokens)
        assert 0.01 < guess.rate < 10


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
        assert cost("a" * 30, document_length=2) == (3 + 1 + 2, 3 + 1 + 10)  # all are tokenized
        assert cost("a" * 3000) == (100, 3 + 1 + 1000)
        assert cost("a" * 30_000) == ((3 + 1 + 10_000) // 16, 3 + 1 + 10_000)  # as long as that
        tokens = Tokenization("this model", "any")
        for count, kept in ((3, 3), (1000, 96)):  # of ids no more than are run
            ids = TokenizedText(np.arange(count, dtype=np.int32), tokens)
            assert cost(ids) == (3 + 1 + kept, 3 + 1 + kept)
            assert cost(ids, document_length=2) == (3 + 1 + 2, 3 + 1 + 2)
        assert min(cost(7)) >= 1
