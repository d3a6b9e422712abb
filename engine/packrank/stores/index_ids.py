"""Ids that other packages keep beside an index, from the place of a document to its id.

PyLate: a pickled dict of numbers to ids; before version 1.4, a table of SQLite whose values are
pickled one by one (of the package sqlitedict). RAGatouille: a JSON object, by passages, of which
several may have the id of one document.

A pickle is a program. What is read here can build numbers, strings and dicts of them, numpy's
too, and call nothing else.
"""

import io
import json
import pickle
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from packrank.errors import StoreError
from packrank.stores.reading import Reading, first_line


def read_ids(reading: Reading, path: Path) -> dict[int, str]:
    """Place -> id, of the documents that the file knows.

    Raises:
        StoreError: it cannot be read, or holds something else.
    """
    read = {".pkl": _of_pickle, ".sqlite": _of_sqlite, ".json": _of_json}[path.suffix]
    try:
        return dict(map(_checked, read(reading, path)))
    except StoreError:
        raise
    except _Refused as error:
        raise StoreError(f"{path} cannot be used: {error}") from None
    except Exception as error:  # a damaged file makes its reader raise anything
        raise StoreError(f"{path} cannot be read: {first_line(error)}") from None


class _Refused(Exception):
    """What a file holds that is no number and no id."""


class _Dtype:
    """A type of numpy's numbers and strings, as a pickle builds it."""

    def __init__(self, kind: str, *_: object) -> None:
        self.kind, self.order = kind[:1], "little"

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.order = "big" if state[1] == ">" else "little"


def _scalar(dtype: object, raw: object) -> int | str:
    """A number or string of numpy: who takes ids out of an array has these."""
    if isinstance(dtype, _Dtype) and isinstance(raw, bytes):
        if dtype.kind == "U":
            return raw.decode(f"utf-32-{dtype.order[0]}e").rstrip("\0")
        if dtype.kind in ("i", "u"):
            return int.from_bytes(raw, dtype.order, signed=dtype.kind == "i")  # type: ignore[arg-type]
    raise _Refused("it holds something of numpy that is no string or whole number")


_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
_NUMPY = {"dtype": _Dtype, "scalar": _scalar}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES and name in _NUMPY:
            return _NUMPY[name]
        raise _Refused(f"it names {module}.{name}, and ids are numbers and strings alone")


def _unpickle(file: IO[bytes]) -> Any:
    return _Unpickler(file).load()


def _of_pickle(reading: Reading, path: Path) -> Iterable[tuple[object, object]]:
    with reading.open(path) as file:
        found = _unpickle(file)
    if not isinstance(found, dict):
        raise _Refused(f"it holds a {type(found).__name__}, expected a dict")
    return found.items()


def _of_sqlite(reading: Reading, path: Path) -> Iterable[tuple[object, object]]:
    reading.open(path).close()
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        rows = database.execute('SELECT key, value FROM "unnamed"').fetchall()
    return [(_number(key), _unpickle(io.BytesIO(value))) for key, value in rows]


def _of_json(reading: Reading, path: Path) -> Iterable[tuple[object, object]]:
    found = json.loads(reading.bytes(path))
    if not isinstance(found, dict):
        raise _Refused(f"it holds a {type(found).__name__}, expected an object")
    return [(_number(key), value) for key, value in found.items()]


def _number(text: object) -> object:
    """A number that was written as text."""
    plain = isinstance(text, str) and text.isdecimal() and len(text) < 20
    return int(text) if plain and str(int(text)) == text else text  # type: ignore[call-overload]


def _checked(pair: tuple[object, object]) -> tuple[int, str]:
    place, id = pair
    if type(place) is not int or place < 0:
        raise _Refused(f"{place!r} is no place of a document")
    if type(id) is not int and type(id) is not str:
        raise _Refused(f"the id of document {place} is a {type(id).__name__}, no string or number")
    return place, str(id)
