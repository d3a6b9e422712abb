"""Texts of pairs, as far as they are pairs, and their characters."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.arguments import check_text
from packrank.documents import Text
from packrank.errors import InputError
from packrank.text.pairs import texts_of

Counts = NDArray[np.int64]


def characters(text: str) -> tuple[int, int]:
    """Of a text: how many are ASCII, and how many are not."""
    if text.isascii():
        return len(text), 0
    ascii = len(text.encode("ascii", "ignore"))
    return ascii, len(text) - ascii


def counted(pairs: Sequence[Any]) -> Counts:
    """[n, 2] characters of the texts of pairs: ASCII, and others."""
    found, last, asked = np.zeros((len(pairs), 2), dtype=np.int64), "", (0, 0)
    for place, pair in enumerate(pairs):
        query, document, _ = known_of(pair)
        if query is not last:  # of a ranking there is one
            last, asked = query, characters(query)
        found[place] = asked
        found[place] += characters(document)
    return found


def known_of(pair: Any) -> tuple[str, str, int]:
    """Of a pair, as far as it is one: its texts, and a document's known tokens."""
    if type(pair) is tuple and len(pair) == 2 and type(pair[0]) is type(pair[1]) is str:
        return pair[0], pair[1], 0  # as nearly all are: thousands while others wait
    part = parts_of(pair)
    if part is None:
        return "", "", 0
    query, text = part
    return (query, text, 0) if isinstance(text, str) else (query, "", len(text))


def parts_of(pair: Any) -> tuple[str, Text] | None:
    """The query and the document of a pair, as its reader takes them; None where it is none."""
    try:
        return texts_of(pair)
    except InputError:
        return None


def valid(text: Text) -> str | None:
    """A text that can be tokenized; None: it cannot, or is tokens."""
    if not isinstance(text, str):
        return None
    try:
        check_text(text)
    except InputError:
        return None
    return text
