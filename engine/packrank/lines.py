"""Files of one record a line: a line is read, or fails alone and by its number."""

import codecs
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from packrank.errors import InputError


@dataclass(frozen=True)
class Line:
    """One line that is not blank.

    Attributes:
        number: its place in the file, from 1.
        fields: the JSON object it holds; {"text": ...} in a file of plain text.
        error: why it cannot be used, None if it can.
    """

    number: int
    fields: dict[str, Any]
    error: str | None = None


def is_jsonl(path: str) -> bool:
    """Whether the name of a file is one of JSON Lines."""
    return Path(path).suffix.lower() in (".jsonl", ".ndjson")


def open_lines(path: str) -> AbstractContextManager[BinaryIO]:
    """A file opened for reading, or standard input for "-".

    Raises:
        OSError: it cannot be opened.
        InputError: standard input is closed.
    """
    if path != "-":
        return open(path, "rb")
    if sys.stdin is None:
        raise InputError("standard input is closed; name a file to read")
    return nullcontext(sys.stdin.buffer)


def read_plain(source: Iterable[bytes]) -> Iterator[Line]:
    """The lines of a text file; each is its own "text". Blank lines are passed over."""
    for number, raw in _numbered(source):
        try:
            yield Line(number, {"text": _decode(raw).rstrip("\r\n")})
        except InputError as error:
            yield Line(number, {}, str(error))


def read_jsonl(source: Iterable[bytes], *texts: str) -> Iterator[Line]:
    """The objects of a JSON Lines file. Blank lines are passed over.

    Args:
        source: lines of UTF-8.
        texts: fields that must be there and be strings.
    """
    for number, raw in _numbered(source):
        fields: dict[str, Any] = {}
        try:
            fields = _parse(_decode(raw))
            for name in texts:
                _check_string(fields, name)
            yield Line(number, fields)
        except InputError as error:
            yield Line(number, fields, str(error))


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A new file of UTF-8 text that takes `path`'s place when the block ends without an error.

    Until then it has another name in the same folder, so `path` is never half written.

    Raises:
        InputError: `path` is no file, or its folder cannot be written to.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file; name one that may be written")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.touch(exist_ok=False)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with open(unfinished, "w", encoding="utf-8") as sink:
            yield sink
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _numbered(source: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    for number, raw in enumerate(source, start=1):
        content = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if content.strip():
            yield number, content


def _decode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte {error.start + 1} is 0x{raw[error.start]:02x}, which is not valid UTF-8"
        ) from None


def _parse(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON: {error.msg} at character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InputError(f"holds {_shown(fields)}, expected a JSON object")
    return fields


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{_shown(digits)} is no number that can be held")
    return value


def _check_string(fields: dict[str, Any], name: str) -> None:
    if name not in fields:
        raise InputError(f'the object has no "{name}"')
    if not isinstance(fields[name], str):
        raise InputError(f'"{name}" is {_shown(fields[name])}, expected a string')


def _shown(value: object) -> str:
    """A value as JSON, cut to a length that fits a message."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
