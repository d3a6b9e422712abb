"""A stream cut into records, each as its bytes: lines, rows of a table, elements of an array."""

import codecs
import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from packrank.errors import InputError

_CHUNK = 1 << 16
_RATHER = "write such texts as JSON Lines, or between quotation marks with those in them doubled"
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["{}\[\],]', re.DOTALL)


def rows(lines: Iterable[bytes], delimiter: str) -> Iterator[bytes]:
    """Rows of a table, the header among them: a quoted field may go on over several lines."""
    taken: list[bytes] = []

    def texts() -> Iterator[str]:
        for number, raw in enumerate(lines):
            taken.append(raw)
            yield _decode(raw if number else raw.removeprefix(codecs.BOM_UTF8))

    reader = _reader(texts(), delimiter)
    while True:
        try:
            next(reader)
        except StopIteration:
            return
        except csv.Error:
            pass  # whoever reads the row meets it again
        yield b"".join(taken)
        taken.clear()


def cells(row: bytes, delimiter: str) -> list[str]:
    """The fields of a row.

    Raises:
        InputError: its quotes or bytes are wrong.
    """
    lines = io.StringIO(_decode(row), newline="\n")
    try:
        found: list[str] = next(_reader(lines, delimiter), [])
    except csv.Error as error:
        why = f"not a row of a table: {error}".replace("\t", "tab")
        raise InputError(f"{why}; {_RATHER}") from None
    for cell in found:
        for c in cell:
            if "\udc80" <= c <= "\udcff":
                raise InputError(
                    f"holds the byte 0x{ord(c) - 0xDC00:02x}, which is not valid UTF-8"
                )
        if delimiter == "\t" and "\t" in cell and "\n" in cell:
            raise InputError(
                "a quoted field holds tabs and ends of lines, as where a quotation mark begins a "
                "field that is not quoted; write such texts as CSV or JSON Lines"
            )
    return found


def run_row(line: str) -> dict[str, str]:
    """The fields of a line of a TREC run: query, Q0, document, rank, score and tag.

    Raises:
        InputError: it has others.
    """
    found = line.split()
    if len(found) != 6:
        raise InputError(
            f"the line has {len(found)} columns, and one of a TREC run has 6: query, Q0, document, "
            "rank, score and tag"
        )
    query, _, document, rank, score, tag = found
    return {"query_id": query, "document_id": document, "rank": rank, "score": score, "tag": tag}


def elements(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The elements of a JSON array, as far apart as its commas say; none is parsed.

    Args:
        stream: the array.
        name: of the file, for messages.

    Raises:
        InputError: there is no array, it has no end, or something follows it.
    """
    buffer, size = stream.read(_CHUNK).removeprefix(codecs.BOM_UTF8).lstrip(), _CHUNK
    if not buffer.startswith(b"["):
        raise InputError(f"{name} does not begin with [, as a JSON array does")
    depth, at, start, number = 1, 1, 1, 0
    while True:
        before = number
        for token in _TOKEN.finditer(buffer, at):
            at, mark = token.end(), token[0]
            if mark == b'"':  # of a string that ends further on
                at = token.start()
                break
            depth += (mark in b"{[") - (mark in b"}]")
            if (mark == b"," and depth == 1) or not depth:
                element = buffer[start : token.start()].strip()
                if element or depth or number:
                    number += 1
                    yield element
                start = at
            if not depth:
                break
        else:
            at = len(buffer)
        if not depth:
            break
        size = _CHUNK if number > before else 2 * size
        more = stream.read(size)
        if not more:
            raise InputError(
                f"{name} was cut off: its array does not end after {number} whole elements"
            )
        buffer, at, start = buffer[start:] + more, at - start, 0
    rest = buffer[at:]
    while rest:
        if rest.strip():
            raise InputError(
                f"{name} goes on after its array of {number} elements; give one array a file"
            )
        rest = stream.read(_CHUNK)


def _decode(row: bytes) -> str:
    """Its text, in which bytes that are no UTF-8 are lone surrogates."""
    return row.decode("utf-8", "surrogateescape")


def _reader(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    # Of all readers of the process; Python's own limit is shorter than documents are.
    csv.field_size_limit(sys.maxsize)
    return csv.reader(lines, delimiter=delimiter, strict=True)
