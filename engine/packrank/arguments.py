"""Checks of arguments that every front door takes, each refusal one sentence."""

import os
from collections.abc import Mapping
from functools import partial
from numbers import Integral
from typing import Any, TypeVar

from packrank.errors import InputError

_Reopened = TypeVar("_Reopened", bound="Reopened")


def checked_count(name: str, value: Any) -> int | None:
    """A whole number of at least 1, numpy's too, or None; InputError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} is {value!r}, expected a whole number of at least 1, or None")
    return int(value)


def checked_exact(exact: Any, top_k: int | None) -> bool | int:
    """True, False, or how many of the best are scored anew, at least top_k; else InputError."""
    if isinstance(exact, bool):
        return exact
    if not isinstance(exact, Integral) or exact < 1:
        raise InputError(
            f"exact is {exact!r}, expected True, False or a whole number of at least 1"
        )
    if top_k is None or exact < top_k:
        raise InputError(
            f"exact is {exact} and top_k {top_k}: of the {exact} best, scored anew, top_k are "
            "returned; give a top_k of at most that, or exact=True for all scores"
        )
    return int(exact)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless value is one of the choices."""
    if value not in choices:
        expected = ", ".join(repr(choice) for choice in choices)
        raise InputError(f"{name} is {value!r}, expected one of {expected}")


def check_choice_or_none(name: str, value: object, choices: tuple[str, ...]) -> None:
    """The same, where None leaves it to the model."""
    if value is not None:
        check_choice(name, value, choices)


def check_str(name: str, value: object) -> None:
    """Raise unless value is a string."""
    if not isinstance(value, str):
        raise InputError(f"{name} is a {type(value).__name__}, expected a str")


def check_text(text: str, name: str = "text") -> None:
    """Raise InputError, with the name, unless a text is valid Unicode without lone surrogates."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the {name} holds a lone surrogate at character {error.start}, which is not valid "
            "Unicode; decode its source with errors='replace'"
        ) from None


def listed(name: str, values: Any, expected: str) -> list[Any]:
    """The values as a list.

    What can be gone through and is no sequence all the same is refused: a lone string, a mapping,
    what has no order, and a table, of which one would meet the names of its columns.
    """
    kind = type(values).__name__
    if hasattr(values, "columns") or hasattr(values, "column_names"):
        raise InputError(f"{name} is a {kind}, expected a sequence of {expected}; pass a column")
    try:
        if isinstance(values, str | bytes | bytearray | memoryview | Mapping | set | frozenset):
            raise TypeError
        coming = iter(values)  # an array without dimensions refuses, too
    except TypeError:
        message = f"{name} is a {kind}, expected a sequence of {expected}"
        raise InputError(message) from None
    return list(coming)


def listed_texts(name: str, values: Any) -> list[str]:
    """The values as a list of strings."""
    texts = listed(name, values, "strings")
    for index, text in enumerate(texts):
        check_str(f"{name}[{index}]", text)
    return texts


def checked_ids(values: Any) -> list[str]:
    """Ids for new documents of a store: valid strings, each another one."""
    ids = listed_texts("ids", values)
    places: dict[str, int] = {}
    for place, id in enumerate(ids):
        check_text(id, f"id of document {place}")
        first = places.setdefault(id, place)
        if first != place:
            raise InputError(f"ids[{first}] and ids[{place}] are both {id!r}; ids must differ")
    return ids


def listed_requests(
    requests: Any, refused: dict[int, str] | None = None
) -> list[tuple[str, list[Any]]]:
    """Queries, each with what should be its documents; InputError that says which is none.

    Args:
        requests: (query, documents) each.
        refused: takes place -> reason of queries that are no valid text, in place of the error.
    """
    checked = []
    for place, request in enumerate(listed("requests", requests, "(query, documents) each")):
        if not isinstance(request, tuple | list) or len(request) != 2:
            raise InputError(
                f"requests[{place}] is a {type(request).__name__}, expected (query, documents)"
            )
        query, documents = request
        try:
            check_str(f"the query of requests[{place}]", query)
            check_text(query, f"query of requests[{place}]")
        except InputError as error:
            if refused is None:
                raise
            refused[place] = str(error)
        name = f"the documents of requests[{place}]"
        checked.append((query, listed(name, documents, "strings")))
    return checked


class Reopened:
    """What is pickled and copied as the call that made it, which is made again, wherever."""

    _call: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls: type[_Reopened], *arguments: Any, **options: Any) -> _Reopened:
        """Keep the call, with the places of a model's and a store's folder for their names."""
        self = super().__new__(cls)
        places = [key for key in ("model", "store", "cache_folder") if key in options]
        folders = {key: _placed(options[key]) for key in places}
        self._call = (*map(_placed, arguments[:1]), *arguments[1:]), options | folders
        return self

    def opened_with(self: _Reopened, **changes: Any) -> _Reopened:
        """What the same call makes with other options."""
        arguments, options = self._call
        return type(self)(*arguments, **options | changes)

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        """The call, but for a token, which must not lie about in files."""
        arguments, options = self._call
        options = {key: value for key, value in options.items() if key != "token"}
        return partial(type(self), *arguments, **options), ()


def _placed(value: Any) -> Any:
    """The whole path of a folder; anything else as it is."""
    is_folder = isinstance(value, str | os.PathLike) and os.path.isdir(value)
    return os.path.abspath(value) if is_folder else value
