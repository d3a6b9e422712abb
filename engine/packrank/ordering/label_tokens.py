"""Tokens that stand for a label where a model answers by one word."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from packrank.errors import ModelError
from packrank.text.tokenizer import Tokenizer

# A word at the start of a text and after a blank, as byte-level BPE and SentencePiece have it.
_BLANKS = ("", "Ġ", "▁")


def after_words(tokenizer: Tokenizer, labels: Sequence[str]) -> list[list[int]]:
    """Of each label the tokens that read as it, with or without a blank, in either case.

    So upstream compares what was generated, stripped and in capitals, with the label.

    Raises:
        ModelError: a label is no token.
    """
    pieces = [
        [f"{blank}{word}" for word in dict.fromkeys((label, label.lower())) for blank in _BLANKS]
        for label in labels
    ]
    return _ids(tokenizer, labels, pieces)


def after_brackets(tokenizer: Tokenizer, labels: Sequence[str]) -> list[list[int]]:
    """Of each letter the tokens that are this letter and nothing else, a byte's among them.

    Raises:
        ModelError: a letter is no token.
    """
    return _ids(tokenizer, labels, [[label, f"<0x{ord(label):02X}>"] for label in labels])


def after_prefix(tokenizer: Tokenizer, prefix: str, labels: Sequence[str]) -> list[list[int]]:
    """Of each label the last token of it after a prefix, which is what a T5 would write.

    Raises:
        ModelError: two labels end in the same token.
    """
    found = [[int(ids[-1])] for ids in tokenizer.encode([f"{prefix} {one}" for one in labels])]
    if len({ids[0] for ids in found}) < len(labels):
        raise ModelError(f"the tokenizer does not tell the labels {', '.join(labels)} apart")
    return found


def likeliest(logits: NDArray[np.float32], tokens: list[list[int]]) -> NDArray[np.float32]:
    """[M, labels], of each label its likeliest token's, from [M, all tokens of all labels]."""
    starts = np.cumsum([0, *map(len, tokens)])[:-1]
    return np.maximum.reduceat(logits, starts, axis=1)


def _ids(
    tokenizer: Tokenizer, labels: Sequence[str], pieces: Sequence[Sequence[str]]
) -> list[list[int]]:
    found = []
    for label, names in zip(labels, pieces, strict=True):
        ids = [id for id in map(tokenizer.token_id, names) if id is not None]
        if not ids:
            raise ModelError(
                f"the tokenizer has no token {label!r}, by which the model would answer"
            )
        found.append(list(dict.fromkeys(ids)))
    return found
