"""A file of documents: its records, a window at a time, and how far they have been taken.

What is taken are the lines of the file; of a table its rows, of a JSON array its elements.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from packrank.arguments import check_text
from packrank.errors import StoreError
from packrank.jobs.pace import WINDOW_CHARACTERS, Pace
from packrank.records.file import Part, RecordFile
from packrank.records.formats import Format
from packrank.records.record import DOCUMENTS, Record, id_of
from packrank.stores.manifest import Manifest, Source
from packrank.text.tokenizer import batches

_FIELDS = ("text", "id")
_WINDOW_DOCUMENTS = 512


@dataclass(frozen=True)
class Documents:
    """A file of documents.

    Attributes:
        path: of the file; "-" is standard input.
        format: what it is; None: as its first bytes and its name say.
    """

    path: str
    format: Format | None = None

    def open(self) -> RecordFile:
        """The file, opened."""
        return RecordFile(self.path, DOCUMENTS, self.format)


class Taken:
    """Lines of a file, and which have been taken.

    Attributes:
        lines: how many have been taken.
        failed: how many of those were left out.
        before: what is added to the numbers of lines that are ids.
        is_earlier: whether the file was taken whole before the last one.
    """

    def __init__(self, file: RecordFile, before: int, earlier: list[str]) -> None:
        self._parts = file.raw()
        self._digest = hashlib.sha256()
        self._earlier = earlier
        self.lines = self.failed = 0
        self.before = before
        self.is_earlier = False

    def __iter__(self) -> Iterator[Part]:
        return self

    def __next__(self) -> Part:
        part = next(self._parts)
        self._digest.update(part.raw.rstrip(b"\r\n") + b"\n")
        self.lines += 1
        return part

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
    file: RecordFile,
    store: str | os.PathLike[str],
    append: bool,
) -> Taken:
    """The lines of a file, those taken that the store has.

    Raises:
        StoreError: the store has lines of another file, and those of this one may not follow them.
    """
    source = None if manifest is None else manifest.source
    if source is None:
        return Taken(file, 0 if manifest is None else manifest.documents, [])
    earlier = [*source.earlier, source.sha256] if source.complete else source.earlier
    another = Taken(file, source.before + source.lines, earlier)
    if append and source.complete and not file.can_rewind:
        return another
    taken = Taken(file, source.before, source.earlier)
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
            f"{unfinished}{documents.path} does not begin with the {source.lines} {file.part}s "
            "added last; give the same file, or --append to add all of it"
        )
    if not file.can_rewind:
        raise StoreError(
            f"{os.fspath(store)} is unfinished, and {documents.path}, which cannot be read twice, "
            f"does not begin with the {source.lines} {file.part}s added last; give a file"
        )
    file.rewind()
    return another


def next_window(records: Iterator[Record], pace: Pace) -> list[Record]:
    """The next records, a window of them, with what is needed of each; none at the end."""
    window: list[Record] = []
    characters = counted = 0
    while (
        len(window) < _WINDOW_DOCUMENTS
        and characters < WINDOW_CHARACTERS
        and counted < pace.characters
    ):
        record = next(records, None)
        if record is None:
            break
        fields = {name: record.fields[name] for name in _FIELDS if name in record.fields}
        window.append(replace(record, fields=fields))
        if record.error is None:
            characters += len(record.fields["text"])
            counted += pace.counted(record.fields["text"])
    return window


def windows_of(texts: list[str]) -> Iterator[Sequence[str]]:
    """Texts, a window at a time."""
    return batches(texts, len, _WINDOW_DOCUMENTS, WINDOW_CHARACTERS)


def name_of(record: Record, before: int) -> str:
    """The id of a document; where it has none, its number and `before` together."""
    if record.fields.get("id") is None:
        return str(before + record.number)
    id = id_of(record.fields)
    check_text(id, "id")
    return id
