"""Texts by id, of a table that is read once and kept on the disk; or tokens, of a token store."""

import hashlib
import os
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from packrank.arguments import check_text
from packrank.checkpoint.files import shown
from packrank.closing import Closing
from packrank.documents import TokenizedText
from packrank.errors import InputError
from packrank.records.file import RecordFile
from packrank.records.paths import files_of
from packrank.records.record import Kind, Record
from packrank.records.shapes import Problem
from packrank.stores import disk
from packrank.stores.document_ids import Places, StoredIds
from packrank.stores.token_store import TokenStore

_IDS = ("id", "_id")
_BEIR = {"query": "queries.jsonl", "document": "corpus.jsonl"}


def files_of_table(path: str | os.PathLike[str] | None, what: str) -> list[str]:
    """The files that `Texts` reads of a path, none if there is none."""
    return [] if path is None else files_of([os.fspath(path)], _BEIR[what])


class Texts(Closing):
    """Texts by id; use as a context manager. In memory are some 40 bytes a text.

    Attributes:
        name: of the table, for messages.
        digest: SHA-256 of ids and texts, in their order.
        left_out: records that have no id or cannot be read: where, and why.
        mean_length: bytes of a text.
    """

    def __init__(self, path: str, what: str) -> None:
        """Read a table.

        Args:
            path: of records with an id ("id", "_id", "query_id" or "document_id") and a "text" (or
                "query" or "document", and "title"); or a folder with queries.jsonl and
                corpus.jsonl, as BEIR has them.
            what: "query" or "document".

        Raises:
            InputError: it cannot be read, or has neither.
            OSError: likewise, or there is no room for the texts.
        """
        self.name, self._what = f"the {what}s", what
        self.left_out: list[tuple[str, str]] = []
        self._problems: dict[int, str] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="packrank-texts-")
        self._digest = hashlib.sha256()
        try:
            self._read(path)
        except BaseException:
            self._folder.cleanup()
            raise
        self.digest = self._digest.hexdigest()

    def _read(self, path: str) -> None:
        folder = Path(self._folder.name)
        text_ends, id_ends = array("q", [0]), array("q", [0])
        with (
            RecordFile(path, Kind(self._what, beir=_BEIR[self._what])) as file,
            open(folder / "texts", "wb") as texts,
            open(folder / "ids", "wb") as ids,
        ):
            self.name = file.name
            kind = _kind(file, self._what)
            file.want(kind)
            [name], [column] = kind.ids, kind.strings
            for record in file.records():
                id = self._id_of(record, name, len(text_ends) - 1)
                if id is None:
                    continue
                text = "" if record.error is not None else record.fields[column]
                for sink, ends, value in ((ids, id_ends, id), (texts, text_ends, text)):
                    raw = value.encode(errors="surrogatepass")
                    ends.append(ends[-1] + sink.write(raw))
                    self._digest.update(b"%d " % len(raw) + raw)
        self._ids = StoredIds(folder / "ids", np.frombuffer(id_ends, np.int64))
        self._ends = np.frombuffer(text_ends, np.int64)
        self.mean_length = text_ends[-1] // max(len(self._ids), 1)
        self._places = Places(self._ids)
        self._texts = os.open(folder / "texts", os.O_RDONLY | os.O_CLOEXEC)

    def _id_of(self, record: Record, name: str, place: int) -> str | None:
        """The id of a record; None where nobody can ask for it."""
        id = record.fields.get(name)
        if not isinstance(id, str | int) or isinstance(id, bool):
            self.left_out.append((record.place, record.error or "it has no id"))
            return None
        try:
            check_text(str(id), "id")
        except InputError as error:
            self.left_out.append((record.place, str(error)))
            return None
        if record.error is not None:
            self._problems[place] = record.error
        return str(id)

    def find(self, ids: Sequence[str]) -> dict[str, str | Problem]:
        """The text of each id, or why it has none."""
        distinct = list(dict.fromkeys(ids))
        return {
            id: self._found(id, places)
            for id, places in zip(distinct, self._places.find(distinct), strict=True)
        }

    def _found(self, id: str, places: list[int]) -> str | Problem:
        if not places:
            return Problem("unknown id", f"{self.name} has no {self._what} {shown(id)}")
        for place in places:
            if (reason := self._problems.get(place)) is not None:
                return Problem("no text", f"of {self._what} {shown(id)}, {reason}")
        texts = {self._text(place) for place in places}
        if len(texts) > 1:
            return Problem(
                "ambiguous id", f"{self.name} has several texts of {self._what} {shown(id)}"
            )
        text = texts.pop()
        if not text.strip():
            return Problem("empty text", f"the text of {self._what} {shown(id)} is empty")
        return text

    def _text(self, place: int) -> str:
        start, stop = self._ends[place : place + 2].tolist()
        return disk.read(self._texts, start, stop - start).decode(errors="surrogatepass")

    def close(self) -> None:
        """Let go of the texts."""
        os.close(self._texts)
        self._folder.cleanup()


class Tokens:
    """Token ids of documents by id, of a token store; see `Texts`.

    Attributes:
        digest: of what the store holds.
        mean_length: tokens of a document.
    """

    def __init__(self, store: TokenStore) -> None:
        self._store, self.digest = store, store.digest
        self.mean_length = store.num_tokens // max(len(store), 1)

    def find(self, ids: Sequence[str]) -> dict[str, TokenizedText | Problem]:
        """The tokens of each id, or why it has none."""
        distinct = list(dict.fromkeys(ids))
        return {
            id: self._found(id, tokens)
            for id, tokens in zip(distinct, self._store.find(distinct), strict=True)
        }

    def _found(self, id: str, tokens: TokenizedText | None) -> TokenizedText | Problem:
        name = shown(id)
        if tokens is None:
            return Problem("unknown id", f"{self._store.path} has no document {name}")
        if not len(tokens):
            return Problem("empty text", f"the text of document {name} has no token")
        return tokens


def _id_names(what: str) -> tuple[str, ...]:
    return (f"{what}_id", *_IDS)


def _kind(file: RecordFile, what: str) -> Kind:
    columns: dict[str, Any] = file.columns()
    text = next((name for name in ("text", what) if name in columns), None)
    id = next((name for name in _id_names(what) if name in columns), None)
    if text is None or id is None:
        known = ", ".join(map(repr, columns)) or "nothing"
        lacking = "text" if text is None else "id"
        raise InputError(
            f"{file.name} has no {lacking} of a {what}; expected columns '{what}_id' (or 'id', "
            f"'_id') and 'text', and it has {known}"
        )
    ids = ("id",) if id in _IDS else (id,)
    return Kind(what, (text,), ids, text=text if what == "document" else None)
