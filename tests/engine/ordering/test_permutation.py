"""Written rankings, read and put right."""

import random

import pytest

from packrank.ordering.permutation import LETTERS, name_of, read_permutation


@pytest.mark.parametrize(
    ("answer", "count", "places", "is_whole"),
    [
        ("[2] > [1]", 2, [1, 0], True),
        ("[2] > [1]", 3, [1, 0, 2], False),
        ("[2] > [2] > [9]", 3, [1, 0, 2], False),
        ("[0] > [1]", 2, [0, 1], False),
        ("", 3, [0, 1, 2], False),
        ("", 0, [], True),
        ("②>①", 2, [1, 0], True),
        ("❷>❶", 2, [1, 0], True),
        ("²>₁", 2, [1, 0], True),
        ("2>1", 2, [1, 0], True),
        ("[\u1369] > [2]", 2, [0, 1], False),
        ("9" * 5000, 3, [0, 1, 2], False),
        ("<think>[1] > [2]</think>[2] > [1]", 2, [1, 0], True),
        ("a</think>b</think>[3] > [2] > [1]", 3, [2, 1, 0], True),
        ("Here are the 3 passages: [2] > [1]", 3, [2, 1, 0], False),
    ],
)
def test_of_numbers(answer: str, count: int, places: list[int], is_whole: bool) -> None:
    assert read_permutation(answer, count) == (places, is_whole)


@pytest.mark.parametrize(
    ("answer", "count", "places", "is_whole"),
    [
        ("[B] > [A]", 2, [1, 0], True),
        ("[A] > [C]", 4, [0, 2, 1, 3], False),
        ("[AB]", 12, [11, *range(11)], False),  # what stands together is one number, 12
        ("[b] > [A]", 2, [0, 1], False),
        ("[T] > [A]", 20, [19, 0, *range(1, 19)], False),
    ],
)
def test_of_letters(answer: str, count: int, places: list[int], is_whole: bool) -> None:
    assert read_permutation(answer, count, letters=True) == (places, is_whole)


@pytest.mark.parametrize("letters", [False, True])
def test_what_is_written_is_read(letters: bool) -> None:
    chance = random.Random(0)
    for count in range(1, 27 if letters else 40):
        places = chance.sample(range(count), count)
        answer = " > ".join(f"[{name_of(place, letters=letters)}]" for place in places)
        assert read_permutation(answer, count, letters=letters) == (places, True)
    assert LETTERS[0] == "A"
    assert len(LETTERS) == 26


def test_any_text_becomes_a_permutation() -> None:
    chance = random.Random(1)
    signs = "[]> 0123456789ABZab①②₃\u0968\u00bd\u2488\n<think></think>"
    for _ in range(500):
        answer = "".join(chance.choices(signs, k=chance.randrange(40)))
        for letters in (False, True):
            count = chance.randrange(25)
            places, is_whole = read_permutation(answer, count, letters=letters)
            assert sorted(places) == list(range(count))
            assert is_whole or count or places == []
