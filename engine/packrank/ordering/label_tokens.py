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


def after_prefix(
    tokenizer: Tokenizer, prefix: str, labels: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """The ids of a prefix, and of each label the one token that follows it, as a T5 would write it.

    Raises:
        ModelError: a label is not one token after the prefix, or two are the same.
    """
    begins = tokenizer.encode([prefix])[0].tolist() if prefix else []
    found = []
    for label, ids in zip(
        labels,
        tokenizer.encode([f"{prefix} {one}" if prefix else one for one in labels]),
        strict=True,
    ):
        if ids[:-1].tolist() != begins or ids[-1] == tokenizer.unk_token_id:
            raise ModelError(
                f"the tokenizer has no token {label!r} after {prefix!r}, by which the model would "
                "answer"
            )
        found.append([int(ids[-1])])
    if len({ids[0] for ids in found}) < len(labels):
        raise ModelError(f"the tokenizer does not tell the labels {', '.join(labels)} apart")
    return begins, found


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
