"""A record: an object's fields as its kind of file has them, or why it cannot be used."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from packrank.errors import InputError


@dataclass(frozen=True)
class Kind:
    """What a file is a list of.

    Attributes:
        name: of one of them, for messages.
        strings: fields that each must have, and that are strings.
        ids: fields that each must have, and that may be numbers too.
        plain: the field that a line of plain text is, None if such a line cannot be one.
        text: the field that is a document, which a "title" goes before; None if there is none.
        lists: fields that each must have, and that are lists; of what, whoever reads them checks.
        id_lists: likewise, of ids.
        is_run: whether lines of a TREC run are such.
        beir: what a folder as BEIR has them calls the file of these; "" if it has none.
    """

    name: str
    strings: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    plain: str | None = None
    text: str | None = None
    lists: tuple[str, ...] = ()
    id_lists: tuple[str, ...] = ()
    is_run: bool = False
    beir: str = ""

    def lacks(self, columns: Collection[str]) -> list[str]:
        """The columns that a table needs beside these."""
        known = {*columns, "id"} if "_id" in columns else columns
        every = (*self.ids, *self.strings, *self.lists, *self.id_lists)
        return [name for name in every if name not in known]


DOCUMENTS = Kind("document", ("text",), plain="text", text="text", beir="corpus.jsonl")
PAIRS = Kind("pair", ("query", "document"), text="document")
QUERIES = Kind("query", ("text",), ("id",), beir="queries.jsonl")
CANDIDATES = Kind("candidate", ("text",), ("query",), text="text")
STORED_CANDIDATES = Kind("candidate", ids=("query", "id"))
IDS = Kind("id", ids=("id",), plain="id")


@dataclass(frozen=True)
class Record:
    """One record.

    Attributes:
        number: its place in the file, or in all files together, from 1.
        fields: what it holds; see `fields_of`.
        error: why it cannot be used, None if it can.
        part: what it is of the file: "line", "row" (the header is row 1) or "element".
        within: where it is, if the file is one of several.
    """

    number: int
    fields: dict[str, Any]
    error: str | None = None
    part: str = "line"
    within: str = ""

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return self.within or f"{self.part} {self.number}"


def fields_of(value: object, kind: Kind) -> tuple[dict[str, Any], str | None]:
    """The fields of a record, and why it cannot be used, if it cannot.

    A document with a title is both, joined by a blank and stripped, as BEIR hands it to rerankers
    (`beir.reranking.Rerank`) and PyLate to ColBERT (`pylate.evaluation.load_beir`). The document of
    a pair may be an object of "text" and "title". An "_id", BEIR's, is the "id" where there is
    none.

    Args:
        value: from JSON, or a row of a table.
        kind: of the file. Where a line of plain text can be a record, a string can be one.
    """
    if isinstance(value, str) and kind.plain is not None:
        return {kind.plain: value}, None
    if not isinstance(value, dict):
        return {}, f"holds {shown(value)}, expected a JSON object"
    fields = dict(value)
    if fields.get("id") is None and fields.get("_id") is not None:
        fields["id"] = fields["_id"]
    try:
        if kind.text is not None:
            _join_title(fields, kind.text)
        for name in kind.strings:
            _string(fields, name)
        for name in kind.ids:
            fields[name] = id_of(fields, name)
        for name in (*kind.lists, *kind.id_lists):
            if not isinstance(_present(fields, name), list):
                raise InputError(f'"{name}" is {shown(fields[name])}, expected a list')
    except InputError as error:
        return fields, str(error)
    return fields, None


def id_of(fields: Mapping[str, Any], name: str = "id") -> str:
    """An id; of a number its digits.

    Raises:
        InputError: there is none, or it is something else.
    """
    value = _present(fields, name)
    if isinstance(value, bool) or not isinstance(value, str | int):
        shown = repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        raise InputError(f'"{name}" is {shown}, expected a string')
    return str(value)


def parse(text: str) -> Any:
    """A value from JSON.

    Raises:
        InputError: it is none, or has a number that cannot be held.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError as error:
        reason = error.msg.removesuffix(" at")
        raise InputError(f"not valid JSON: {reason} at character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON: {error}") from None


def _join_title(fields: dict[str, Any], name: str) -> None:
    document = fields.get(name)
    if name == "document" and isinstance(document, dict):
        fields[name] = _joined(document, "text")
    else:
        fields[name] = _joined(fields, name)


def _joined(fields: Mapping[str, Any], name: str) -> str:
    text = _string(fields, name)
    if fields.get("title") is None:
        return text
    return f"{_string(fields, 'title')} {text}".strip()


def _string(fields: Mapping[str, Any], name: str) -> str:
    value = _present(fields, name)
    if not isinstance(value, str):
        raise InputError(f'"{name}" is {shown(value)}, expected a string')
    return value


def _present(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        raise InputError(f'the object has no "{name}"')
    return fields[name]


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{shown(digits)} is no number that can be held")
    return value


def shown(value: object) -> str:
    """A value as JSON, cut to a length that fits a message."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 40 else f"{text[:37]}..."
