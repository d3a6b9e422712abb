"""What a caller gives for a document: a text, or one with an id and what else belongs to it."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any, NamedTuple

from packrank.errors import InputError

Document = str | tuple[str | int, str] | Mapping[str, Any]
_EXPECTED = 'a str, (id, text), or a mapping of "text"'


class Given(NamedTuple):
    """A document as a caller gives it.

    Attributes:
        text: what is read.
        id: the caller's name for it, None if there is none.
        metadata: what else came with it.
    """

    text: str
    id: str | None
    metadata: dict[str, Any]


def document_of(value: Any) -> Given:
    """The document that a value stands for.

    Of a mapping, a "title" goes before the "text", joined by a blank, as in BEIR; "id" or "_id" is
    the id; all else, with what a mapping called "metadata" holds, is metadata.

    Args:
        value: a text, (id, text), or a mapping.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(value, str):
        return Given(value, None, {})
    if isinstance(value, tuple | list) and len(value) == 2:
        return Given(_str("text", value[1]), _id(value[0]), {})
    if not isinstance(value, Mapping):
        size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
        raise InputError(f"the document is a {type(value).__name__}{size}, expected {_EXPECTED}")
    if "text" not in value:
        raise InputError(f'the document has no "text"; expected {_EXPECTED}')
    text, title = _str("text", value["text"]), value.get("title")
    if title is not None:
        text = f"{_str('title', title)} {text}".strip()
    others = {key: one for key, one in value.items() if key not in ("text", "id", "_id")}
    if isinstance(others.get("metadata"), Mapping):
        others |= others.pop("metadata")
    named = value.get("id")
    return Given(text, _id(value.get("_id") if named is None else named), others)


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
