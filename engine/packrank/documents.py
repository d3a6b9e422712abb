"""What a caller gives for a document: a text, or one with an id and what else belongs to it.

In place of a text there may be its tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from packrank.errors import InputError


@dataclass(frozen=True)
class Tokenization:
    """What determines the token ids of a document.

    Attributes:
        name: of the model, for messages.
        tokenizer: SHA-256, in hexadecimal, of vocabulary and rules.
        before: what is tokenized as one string with the document, and stands before it.
        after: what stands after it.
    """

    name: str
    tokenizer: str
    before: str = ""
    after: str = ""

    def refusal(self, mine: "Tokenization | None") -> str | None:
        """Why ids that were made so are not those that a model would make; None if they are.

        Args:
            mine: how the model makes them; None: it has none for a document alone.
        """
        if mine is None:
            return (
                "the model tokenizes a document together with what stands around it, so that it "
                "has no tokens of its own; pass its text"
            )
        if self.tokenizer != mine.tokenizer:
            known = f"the tokenizer of {self.name} made them"
            if self.name == mine.name:
                return f"{known}, and it has changed since"
            return f"{known}, and {mine.name} has another"
        mine_around, around = (f"{x.before}...{x.after}" for x in (mine, self))
        if (self.before, self.after) != (mine.before, mine.after):
            return (
                f"they are of a document as {self.name} reads it, {around!r}, and {mine.name} "
                f"reads {mine_around!r}"
            )
        return None


class TokenizedText:
    """A document as the token ids of its text; a `TokenStore` has them.

    It stands for the text wherever a `Reranker` takes one, and the scores are the same. Two of the
    same ids are equal.

    Attributes:
        token_ids: [L] int32, without special tokens; nobody may write to them.
        tokenization: how they were made; a model that makes them otherwise refuses them.
    """

    __slots__ = ("token_ids", "tokenization")

    def __init__(self, token_ids: NDArray[np.int32], tokenization: Tokenization) -> None:
        self.token_ids = token_ids
        self.tokenization = tokenization

    def __len__(self) -> int:
        """L."""
        return len(self.token_ids)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TokenizedText)
            and self.tokenization == other.tokenization
            and np.array_equal(self.token_ids, other.token_ids)
        )

    def __hash__(self) -> int:
        return hash(self.token_ids.tobytes())

    def __repr__(self) -> str:
        return f"TokenizedText({len(self)} tokens)"


Text = str | TokenizedText
Document = Text | tuple[str | int, Text] | Mapping[str, Any]
_EXPECTED = 'a str, (id, text), or a mapping of "text"'


class Given(NamedTuple):
    """A document as a caller gives it.

    Attributes:
        text: what is read, or its tokens.
        id: the caller's name for it, None if there is none.
        metadata: what else came with it.
    """

    text: Text
    id: str | None
    metadata: dict[str, Any]


def document_of(value: Any) -> Given:
    """The document that a value stands for.

    Of a mapping, a "title" goes before the "text", joined by a blank, as in BEIR; "id" or "_id" is
    the id; all else, with what a mapping called "metadata" holds, is metadata.

    Args:
        value: a text, (id, text), or a mapping; of tokens, title and text are tokenized together.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(value, Text):
        return Given(value, None, {})
    if isinstance(value, tuple | list) and len(value) == 2:
        return Given(_text(value[1]), _id(value[0]), {})
    if not isinstance(value, Mapping):
        size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
        raise InputError(f"the document is a {type(value).__name__}{size}, expected {_EXPECTED}")
    if "text" not in value:
        raise InputError(f'the document has no "text"; expected {_EXPECTED}')
    text, title = _text(value["text"]), value.get("title")
    if title is not None:
        if isinstance(text, TokenizedText):
            raise InputError(
                "the document has a title beside its tokens; tokenize both as one text, and leave "
                "it out"
            )
        text = f"{_str('title', title)} {text}".strip()
    others = {key: one for key, one in value.items() if key not in ("text", "id", "_id")}
    if isinstance(others.get("metadata"), Mapping):
        others |= others.pop("metadata")
    named = value.get("id")
    return Given(text, _id(value.get("_id") if named is None else named), others)


def _text(value: Any) -> Text:
    return value if isinstance(value, TokenizedText) else _str("text", value)


def _str(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"the document's {name} is a {type(value).__name__}, expected a str")
    return value


def _id(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"the document's id is {value!r}, expected a string or a whole number")
    return str(int(value))
