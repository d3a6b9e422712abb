"""Which model encoded a store, for the store to remember and a model to be held to."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from packrank.checkpoint.config import ModelConfig
from packrank.checkpoint.weights import Weights
from packrank.errors import StoreError
from packrank.late.settings import Settings
from packrank.text.tokenizer import Tokenizer

Identity = dict[str, str | int | bool]

# Of a checkpoint: what it is called, heads that token vectors do not go through, and what shapes of
# tensors say as well. Only RoBERTa's positions hang on pad_token_id.
_HEADS = {"architecture", "inner_exits", "labels", "num_labels", "saved_activation"}
_SHAPES = {"max_position_embeddings", "type_vocab_size", "vocab_size"}
_UNUSED = _HEADS | _SHAPES | {"pooling"}
_UNUSED_TENSORS = ("pooler.", "embeddings.position_ids", "linear.")


def identify(
    settings: Settings,
    config: ModelConfig,
    tokenizer: Tokenizer,
    encoder: Path,
    prefix: str,
    name: str,
) -> Identity:
    """What a store says of the model that encodes it.

    "vectors" is a SHA-256, in hexadecimal, of all that determines a document's vectors but the
    length that documents are cut to: layout, tokenizer, architecture, weights by name. Files that
    were saved anew, and settings of queries, leave it as it is.

    Args:
        settings: of the model.
        config: of the encoder.
        tokenizer: of the encoder.
        encoder: the folder of its weights, which are read whole.
        prefix: before the encoder's names in a checkpoint that has more than the encoder.
        name: as the user gave it.
    """
    unused = _UNUSED if config.family == "roberta" else _UNUSED | {"pad_token_id"}
    said = {
        "document": {**asdict(settings.document), "max_length": None},
        "lower_case": settings.lower_case,
        "normalize": settings.normalize,
        "projection": [
            {**asdict(dense), "folder": None, "config": None} for dense in settings.projection
        ],
        "encoder": {key: value for key, value in asdict(config).items() if key not in unused},
        "keeps_end": tokenizer.keeps_end,
    }
    digest = hashlib.sha256()
    digest.update(json.dumps(said, sort_keys=True, default=_plain).encode())
    digest.update(hashlib.sha256(tokenizer.serialized.encode()).digest())
    weights = Weights.open(encoder)
    if not any(name.startswith(prefix) for name in weights.files):
        prefix = ""
    names = [name for name in weights.files if name.startswith(prefix)]
    plain = [name.removeprefix(prefix) for name in names]
    digest.update(_digest(weights, dict(zip(plain, names, strict=True)), without=_UNUSED_TENSORS))
    for dense in settings.projection:
        weights = Weights.open(dense.folder)
        names = [name for name in weights.files if name.startswith(("linear.", "residual."))]
        digest.update(_digest(weights, dict(zip(names, names, strict=True))))
    return {
        "name": name,
        "vectors": digest.hexdigest(),
        "kind": settings.kind,
        "document_length": settings.document.max_length,
        "normalize": settings.normalize,
    }


def check_same(
    known: Mapping[str, Any] | None,
    mine: Identity,
    store: str | os.PathLike[str],
    files: Callable[[], str],
) -> None:
    """Raise StoreError if a store says that another model encoded it.

    Args:
        known: what it says.
        mine: of the model.
        store: for the message.
        files: the model's `fingerprint`, by which earlier stores know theirs.
    """
    if known is None or not known.keys() & {"vectors", "fingerprint"}:
        return
    path, name, length = os.fspath(store), known.get("name"), known.get("document_length")
    if "vectors" in known:
        same = known["vectors"] == mine["vectors"]
    else:
        same = known["fingerprint"] == files()
    if not same:
        if name == mine["name"]:
            why = "and its files have changed"
        else:
            why = f"and {mine['name']} is another model"
        raise StoreError(f"{path} was encoded by {name}, {why}; name another store")
    if length != mine["document_length"]:
        raise StoreError(
            f"{path} was encoded with document_length {length}, and this model cuts documents to "
            f"{mine['document_length']} tokens; load it with document_length={length}, or name "
            "another store"
        )


def other_name(known: Mapping[str, Any] | None, name: str) -> str | None:
    """The model that a store names without saying more of it, unless it is called like this one.

    A copy is called like its original if the last parts of both names are the same.
    """
    if known is None or known.keys() & {"vectors", "fingerprint"}:
        return None
    other = known.get("name")
    if not isinstance(other, str) or _called(other) & _called(name):
        return None
    return other


def check_size(known: int, mine: int, store: str | os.PathLike[str]) -> None:
    """Raise StoreError if a store's vectors are of another size than a model's."""
    if known != mine:
        raise StoreError(
            f"{os.fspath(store)} holds vectors of {known} dimensions, and the model makes {mine}"
        )


def _called(name: str) -> set[str]:
    """What a model is called: the last part of a path or name, and the hub's of its own folders."""
    parts = name.lower().replace("\\", "/").rstrip("/").split("/")
    return {parts[-1], *(x.rsplit("--", 1)[-1] for x in parts if x.startswith("models--"))}


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else str(value)


def _digest(weights: Weights, names: dict[str, str], without: tuple[str, ...] = ()) -> bytes:
    """Of tensors, under the names that are keys and not theirs in the files."""
    digest = hashlib.sha256()
    for name, stored in sorted(names.items()):
        if not name.startswith(without):
            tensor = weights.stored(stored)
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()
