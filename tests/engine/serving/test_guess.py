"""How many tokens texts will have: learned from what others had."""

import pytest
from toy_model import Open

from packrank import Engine
from packrank.serving.guess import TokenGuess


@pytest.mark.parametrize(("tokens", "characters"), [(1, 10), (2, 1), (1, 3)])
def test_what_texts_have_is_learned(tokens: int, characters: int) -> None:
    guess = TokenGuess()
    assert guess.tokens(300) == 104
    for _ in range(100):
        guess.learn(40 * characters, 40 * tokens)
        guess.learn(0, 0)
    once = guess.tokens(300) - 4
    for _ in range(10_000):
        guess.learn(40 * characters, 40 * tokens)
    assert guess.tokens(300) - 4 == pytest.approx(300 * tokens / characters, abs=1)
    assert min(100, once) <= once <= max(100, 300 * tokens / characters)


def test_a_queue_is_as_long_as_what_was_read_says(toy: Open) -> None:
    """ "high" is a token of four letters and a blank; five tokens more of a pair, cut at 16."""
    text = " ".join(["high"] * 9)
    with Engine(toy(), cache_bytes=0) as engine:
        engine.submit("q", [text] * 3000).result(30)
        assert engine._guess.tokens(len("q") + len(text)) == pytest.approx(9 + 4 + 4, abs=1)
        rate = engine._guess.tokens(10_000)
        engine.submit("q", [text * 2] * 3000).result(30)  # cut: it says nothing of texts
        assert engine._guess.tokens(10_000) == rate
