"""A written ranking, read and put right: "[3] > [1] > [2]" to the places of documents.

Source: castorini/rank_llm, response_utils.py and ListwiseRankLLM.receive_permutation.
"""

import string
from typing import NamedTuple

# Digits that models write in place of plain ones: above and below the line, in circles, white and
# black, of full width; and the last ten by their places in Unicode, as upstream has them.
_DIGITS = str.maketrans(
    {sign: str(value) for value, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
    | {chr(0x2080 + value): str(value) for value in range(10)}
    | {chr(0x245F + value): str(value) for value in range(1, 10)}
    | {chr(0x2775 + value): str(value) for value in range(1, 10)}
    | {chr(0xFF10 + value): str(value) for value in range(10)}
    | {chr(0x1F100 + value): str(value) for value in range(10)}
)
LETTERS = string.ascii_uppercase


class Permutation(NamedTuple):
    """What an answer says.

    Attributes:
        places: of all documents of the window, in their new order.
        is_whole: whether it named each once and said nothing else; else it was put right.
    """

    places: list[int]
    is_whole: bool


def read_permutation(answer: str, count: int, *, letters: bool = False) -> Permutation:
    """The order that an answer gives the documents of a window.

    What is named twice counts where it stands first, what is not there is dropped, and what is not
    named follows in its old order. An answer of which nothing can be made changes nothing.

    Args:
        answer: of a model; what it thought before "</think>" is left out.
        count: documents of the window.
        letters: they are called A, B ..., else 1, 2 ...
    """
    _, _, told = answer.rpartition("</think>")
    try:
        named = [int(number) - 1 for number in _numbers(told, letters).split()]
    except ValueError:  # a digit that stands for no number, or more digits than Python reads
        return Permutation(list(range(count)), False)
    known = [place for place in dict.fromkeys(named) if 0 <= place < count]
    rest = [place for place in range(count) if place not in set(known)]
    is_bare = letters or not any(sign.isalpha() for sign in told)
    return Permutation(known + rest, is_bare and named == known and not rest)


def name_of(place: int, *, letters: bool = False) -> str:
    """What a document is called in a prompt."""
    return LETTERS[place] if letters else str(place + 1)


def _numbers(text: str, letters: bool) -> str:
    """The same with anything but numbers blanked; a letter becomes its number."""
    text = text.translate(_DIGITS)
    if letters:
        return "".join(str(ord(sign) - 64) if sign.isalpha() else " " for sign in text)
    return "".join(sign if sign.isdigit() else " " for sign in text)
