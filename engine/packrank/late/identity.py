"""Which model encoded a store, for the store to remember and a model to be held to."""

import os
from pathlib import Path

from packrank.checkpoint.fingerprint import fingerprint
from packrank.errors import StoreError
from packrank.late.settings import Settings

Identity = dict[str, str | int | bool]


def identify(settings: Settings, folder: Path, name: str) -> Identity:
    """What a store says of the model that encodes it.

    Args:
        settings: of the model.
        folder: holds its files, see `fingerprint`.
        name: as the user gave it.
    """
    return {
        "name": name,
        "fingerprint": fingerprint(folder),
        "kind": settings.kind,
        "document_length": settings.document.max_length,
        "normalize": settings.normalize,
    }


def check_same(
    known: dict[str, object] | None, mine: Identity, store: str | os.PathLike[str]
) -> None:
    """Raise StoreError if a store says that another model encoded it."""
    if known is not None and known.get("fingerprint") != mine["fingerprint"]:
        name = known.get("name")
        if name == mine["name"]:
            why = "and its files have changed"
        else:
            why = f"and {mine['name']} is another model"
        raise StoreError(f"{os.fspath(store)} was encoded by {name}, {why}; name another store")


def check_size(known: int, mine: int, store: str | os.PathLike[str]) -> None:
    """Raise StoreError if a store's vectors are of another size than a model's."""
    if known != mine:
        raise StoreError(
            f"{os.fspath(store)} holds vectors of {known} dimensions, and the model makes {mine}"
        )
