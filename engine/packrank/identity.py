"""What tells models apart, for stores and margins to remember which one they are of."""

import hashlib
import os
from pathlib import Path

from packrank.errors import StoreError
from packrank.late_folder import read_modules
from packrank.late_settings import Settings

Identity = dict[str, str | int | bool]

# What is read of a model: weights, settings and vocabulary.
_MODEL_FILES = {
    "added_tokens.json",
    "artifact.metadata",
    "chat_template.jinja",
    "config.json",
    "config_sentence_transformers.json",
    "merges.txt",
    "model.safetensors.index.json",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
}
_BLOCK = 1 << 20


def fingerprint(folder: Path) -> str:
    """SHA-256, in hexadecimal, of the files that make a model: weights, settings and vocabulary.

    Args:
        folder: holds them, or names those that do in modules.json; they are read whole.
    """
    digest = hashlib.sha256()
    folders = dict.fromkeys((folder, *(module.folder for module in read_modules(folder))))
    for place, part in enumerate(folders):
        for path in sorted(part.glob("*")):  # a folder may be missing
            if path.is_file() and (path.name in _MODEL_FILES or path.suffix == ".safetensors"):
                digest.update(f"{place}/{path.name} {path.stat().st_size}\n".encode())
                with open(path, "rb") as file:
                    while block := file.read(_BLOCK):
                        digest.update(block)
    return digest.hexdigest()


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
