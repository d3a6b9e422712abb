"""A file of documents: its lines, a window at a time, and how far they have been taken."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import BinaryIO

from packrank.arguments import check_text
from packrank.checkpoint.files import shown
from packrank.errors import InputError, StoreError
from packrank.lines import Line, read_jsonl, read_plain
from packrank.stores.manifest import Manifest, Source
from packrank.text.tokenizer import batches

_FIELDS = ("text", "id", "_id")
# A window is encoded at once: some 16 packs, and 100 MB of vectors at 384 dimensions.
_WINDOW_DOCUMENTS = 512
_WINDOW_CHARACTERS = 1 << 18


@dataclass(frozen=True)
class Documents:
    """A file of documents.

    Attributes:
        path: of the file; "-" is standard input.
        jsonl: whether a line is an object with "text" (and "id" or "_id"), else it is a text.
    """

    path: str
    jsonl: bool

    def lines(self, source: Iterable[bytes]) -> Iterator[Line]:
        """What is in lines of the file."""
        return read_jsonl(source, "text") if self.jsonl else read_plain(source)


class Taken:
    """Lines of a file, and which have been taken.

    Attributes:
        lines: how many have been taken.
        failed: how many of those were left out.
        before: what is added to the numbers of lines that are ids.
        is_earlier: whether the file was taken whole before the last one.
    """

    def __init__(self, stream: BinaryIO, before: int, earlier: list[str]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._earlier = earlier
        self.lines = self.failed = 0
        self.before = before
        self.is_earlier = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        raw = next(self._stream)
        self._digest.update(raw.rstrip(b"\r\n") + b"\n")
        self.lines += 1
        return raw

    @property
    def sha256(self) -> str:
        """Of the lines taken, whatever ended them."""
        return self._digest.hexdigest()

    def source(self, complete: bool) -> Source:
        """What a manifest says of them."""
        return Source(self.lines, self.sha256, self.failed, complete, self.before, self._earlier)


def go_on(
    manifest: Manifest | None,
    documents: Documents,
    stream: BinaryIO,
    store: str | os.PathLike[str],
    append: bool,
) -> Taken:
    """The lines of a file, those taken that the store has.

    Raises:
        StoreError: the store has lines of another file, and those of this one may not follow them.
    """
    source = None if manifest is None else manifest.source
    if source is None:
        return Taken(stream, 0 if manifest is None else manifest.documents, [])
    earlier = [*source.earlier, source.sha256] if source.complete else source.earlier
    another = Taken(stream, source.before + source.lines, earlier)
    if append and source.complete and not stream.seekable():
        return another
    taken = Taken(stream, source.before, source.earlier)
    for _ in islice(taken, source.lines):
        pass
    if taken.sha256 == source.sha256:
        taken.failed = source.failed
        return taken
    for _ in taken:
        pass
    if taken.sha256 in source.earlier:
        taken.is_earlier = True
        return taken
    if not append:
        unfinished = "" if source.complete else f"{os.fspath(store)} is unfinished, and "
        raise StoreError(
            f"{unfinished}{documents.path} does not begin with the {source.lines} lines encoded "
            "last; give the same file, or --append to add all of it"
        )
    if not stream.seekable():
        raise StoreError(
            f"{os.fspath(store)} is unfinished, and {documents.path}, which cannot be read twice, "
            f"does not begin with the {source.lines} lines encoded last; give a file"
        )
    stream.seek(0)
    return another


def next_window(lines: Iterator[Line]) -> list[Line]:
    """The next lines, a window of them, with what is needed of each; none at the end."""
    window: list[Line] = []
    characters = 0
    while len(window) < _WINDOW_DOCUMENTS and characters < _WINDOW_CHARACTERS:
        line = next(lines, None)
        if line is None:
            break
        fields = {name: line.fields[name] for name in _FIELDS if name in line.fields}
        window.append(replace(line, fields=fields))
        characters += len(line.fields.get("text", "")) if line.error is None else 0
    return window


def windows_of(texts: list[str]) -> Iterator[Sequence[str]]:
    """Texts, a window at a time."""
    return batches(texts, len, _WINDOW_DOCUMENTS, _WINDOW_CHARACTERS)


def id_of(line: Line, before: int) -> str:
    """The id of the document in a line; where it has none, its number and `before` together."""
    id = line.fields.get("id")
    if id is None:
        id = line.fields.get("_id")  # as in BEIR
    if id is None:
        return str(before + line.number)
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise InputError(f'"id" is {shown(id)}, expected a string')
    check_text(str(id), "id")
    return str(id)
