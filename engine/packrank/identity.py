"""What tells models apart, for a store to remember which one encoded it."""

import hashlib
import os
from pathlib import Path

from packrank.errors import StoreError
from packrank.late_settings import Settings

Identity = dict[str, str | int | bool]

_MODEL_FILES = (".json", ".safetensors", ".txt", ".model", ".metadata")
_BLOCK = 1 << 20


def identify(settings: Settings, folder: Path, name: str) -> Identity:
    """What a store says of the model that encodes it.

    The fingerprint is of the files that make the model: weights, settings and vocabulary.

    Args:
        settings: of the model.
        folder: holds its files, which are read whole.
        name: as the user gave it.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix in _MODEL_FILES and not any(part.startswith(".") for part in parts):
            digest.update(f"{'/'.join(parts)} {path.stat().st_size}\n".encode())
            with open(path, "rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
    return {
        "name": name,
        "fingerprint": digest.hexdigest(),
        "kind": settings.kind,
        "document_length": settings.document.max_length,
        "normalize": settings.normalize,
    }


def check_same(
    known: dict[str, object] | None, mine: Identity, store: str | os.PathLike[str]
) -> None:
    """Raise StoreError if a store says that another model encoded it."""
    if known is not None and known.get("fingerprint") != mine["fingerprint"]:
        raise StoreError(
            f"{os.fspath(store)} was encoded by {known.get('name')}, and {mine['name']} is another "
            "model; name another store"
        )
