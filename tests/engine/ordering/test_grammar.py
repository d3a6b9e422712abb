"""What may be written next, so that it is an order."""

import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models

from packrank.ordering.grammar import Grammar
from packrank.ordering.permutation import read_permutation
from packrank.text.tokenizer import Tokenizer

PIECES = [
    *"[]>0123456789 ABCx",
    *("] >", " >", " > [", "[1", "12", "Ġ[", "▁[", "ĠĠ", "] > [", "1]", "▁", "B]", "[A"),
]


def made_of(pieces: list[str]) -> Tokenizer:
    vocab = {piece: place for place, piece in enumerate(dict.fromkeys(["</s>", *pieces]))}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="</s>"))
    backend.add_special_tokens(["</s>"])
    return Tokenizer(backend)


def written(tokenizer: Tokenizer, ids: list[int]) -> str:
    text = "".join(tokenizer.token(one) for one in ids)
    return text.replace("Ġ", " ").replace("▁", " ")


@pytest.mark.parametrize("letters", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_whatever_is_chosen_is_an_order(letters: bool, count: int) -> None:
    if letters and count > 3:
        return  # the vocabulary has no more letters
    tokenizer, chance = made_of(PIECES), random.Random(count)
    allowed = Grammar(tokenizer, [0], 1 << 20, letters=letters).of(count)
    for _ in range(30):
        ids: list[int] = []
        while True:
            may = allowed(ids).tolist()
            assert may == sorted(may)
            assert may
            chosen = chance.choice(may)
            if chosen == 0:
                break
            ids.append(chosen)
            assert len(ids) < 100
        answer = written(tokenizer, ids)
        assert read_permutation(answer, count, letters=letters).is_whole, answer


def test_every_way_to_write_an_order_is_open() -> None:
    tokenizer = made_of(PIECES)
    allowed = Grammar(tokenizer, [0], 1 << 20, letters=False).of(2)
    for pieces in (
        list("[2] > [1]"),
        ["[", "2", "] > [", "1", "]"],
        ["▁[", "2", "] >", "Ġ[", "1", "]"],
        ["[", "2", "]", " > [", "1]"],
    ):
        ids = [tokenizer.token_id(piece) for piece in pieces]
        for place, token_id in enumerate(ids):
            assert token_id in allowed(ids[:place]), pieces[: place + 1]  # type: ignore[arg-type]
        assert allowed(ids).tolist() == [0]  # type: ignore[arg-type]


def test_what_would_be_no_order_is_closed() -> None:
    tokenizer = made_of(PIECES)
    allowed = Grammar(tokenizer, [0], 1 << 20, letters=False).of(12)

    def after(text: str) -> set[str]:
        ids = [tokenizer.token_id(sign) for sign in text]
        return {tokenizer.token(one) for one in allowed(ids).tolist()}  # type: ignore[arg-type]

    assert after("") == {"[", "[1", "Ġ[", "▁["}
    assert after("[") == {*"123456789", "12", "1]"}
    assert after("[1") == {*"012", "1]", "]", "] >", "] > ["}
    assert after("[12") == {"]", "] >", "] > ["}
    assert after("[1] > [1") == {*"012", "1]"}
    assert after("[12] > [1") == {*"01", "1]", "]", "] >", "] > ["}
    assert after("[1]") == {" ", " >", " > [", "▁"}
    assert "0" not in after("[12] > [")


def test_on_a_real_vocabulary(data_dir: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(data_dir / "tokenizers/qwen2/tokenizer.json"))
    tokenizer, chance = Tokenizer(backend), random.Random(3)
    stop = tokenizer.token_id("<|im_end|>")
    assert stop is not None
    allowed = Grammar(tokenizer, [stop], 1 << 20, letters=False).of(20)
    places = chance.sample(range(20), 20)
    answer = " > ".join(f"[{place + 1}]" for place in places)
    [ids] = tokenizer.encode([answer])
    for place, token_id in enumerate(ids.tolist()):
        assert token_id in allowed(ids[:place].tolist())
    assert allowed(ids.tolist()).tolist() == [stop]
