"""Which of the layouts that open as a store a folder holds."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packrank.checkpoint.kind import COLBERT_FILE, FAST_PLAID_FILE, PYLATE_FOLDER
from packrank.errors import StoreError
from packrank.stores.files import is_file
from packrank.stores.manifest import MANIFEST

# From places to ids, beside an index: PyLate's, the one of today first, and RAGatouille's.
_PYLATE_IDS = ("plaid_ids_to_documents_ids.pkl", "plaid_ids_to_documents_ids.sqlite")
_RAGATOUILLE_IDS = "pid_docid_map.json"


@dataclass(frozen=True)
class Layout:
    """What a folder holds.

    Attributes:
        kind: a store, or whose form of an index.
        folder: where its vectors are.
        ids: the file that has the ids of an index; None where they are numbers.
    """

    kind: Literal["packrank", "colbert", "fast-plaid"]
    folder: Path
    ids: Path | None = None

    @property
    def name(self) -> str:
        """For people."""
        if self.kind == "packrank":
            return "packrank"
        beside = "" if self.ids is None else f" with the ids of {self.ids.name}"
        return f"index of {'ColBERT' if self.kind == 'colbert' else self.kind}{beside}"


def layout_of(folder: Path) -> Layout | None:
    """What a folder holds by the names of its files; None if nothing that opens as a store.

    Raises:
        StoreError: its files contradict each other.
    """
    if is_file(folder / MANIFEST):
        return Layout("packrank", folder)
    found: list[Layout] = []
    if is_file(folder / COLBERT_FILE):
        found.append(Layout("colbert", folder, _ids(folder)))
    if is_file(folder / FAST_PLAID_FILE):
        found.append(Layout("fast-plaid", folder, _ids(folder)))
    if is_file(folder / PYLATE_FOLDER / FAST_PLAID_FILE):
        inner = Layout("fast-plaid", folder / PYLATE_FOLDER, _ids(folder))
        if inner.ids is None:
            raise StoreError(
                f"{folder} is an index of PyLate without {_PYLATE_IDS[0]}, which has the ids; "
                f"bring that back, or open {inner.folder} for numbers as ids"
            )
        found.append(inner)
    if len(found) > 1:
        names = " and ".join(f"{one.name} in {one.folder}" for one in found)
        raise StoreError(f"{folder} holds more than one index: {names}; leave one of them there")
    return found[0] if found else None


def stores_in(folder: Path) -> list[str]:
    """Names of folders in a folder that hold what opens as a store."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        return [name for name in names if layout_of(folder / name) is not None]
    except (OSError, StoreError):
        return []


def _ids(folder: Path) -> Path | None:
    pylate = [folder / name for name in _PYLATE_IDS if is_file(folder / name)]
    ragatouille = folder / _RAGATOUILLE_IDS
    if not is_file(ragatouille):
        return pylate[0] if pylate else None
    if pylate:
        raise StoreError(
            f"{folder} has ids in {pylate[0].name} and in {ragatouille.name}; leave those there "
            "that are the index's"
        )
    return ragatouille
