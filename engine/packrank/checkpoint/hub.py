"""A model's folder, from a path or a hub name."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from packrank.errors import ModelError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
# Never *.bin: pickles can run code, and weights are read from safetensors alone.
_WANTED = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "artifact.metadata"]
_UNWANTED = ["onnx/*", "openvino/*"]


@dataclass(frozen=True)
class HubOptions:
    """How the hub is asked; as `huggingface_hub.snapshot_download` takes them.

    Attributes:
        revision: a branch, tag or commit; None: the newest.
        token: of private models; None: the one that `hf auth login` saved.
        cache_folder: where snapshots are kept; None: the hub's usual place.
        local_files_only: take what is kept, and ask nobody.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_folder: str | os.PathLike[str] | None = None
    local_files_only: bool = False


# Folders that `resolve` found, and how it was asked: for what their files name of the hub.
_asked: dict[Path, HubOptions] = {}


def is_hub_name(model: str) -> bool:
    """Whether a model is neither a folder nor a file here, and could be a name on the hub."""
    return not os.path.exists(os.path.expanduser(model)) and _may_be_there(model)


def is_cached(folder: Path) -> bool:
    """Whether a folder lies in a cache of the hub's, wherever that is, by whatever link."""
    inner = folder.resolve()
    return any(
        above.name == "snapshots" and above.parent.name.startswith("models--")
        for above in inner.parents
    )


def resolve(model: str | os.PathLike[str], hub: HubOptions = HubOptions()) -> Path:
    """The folder of a model: a local folder as it is, else a snapshot of the hub's.

    Args:
        model: a folder, or a name on the Hugging Face hub ("organisation/name").
        hub: how that is asked.

    Raises:
        ModelError: neither a folder nor a name that the hub serves.
    """
    if not isinstance(model, str | os.PathLike) or not isinstance(name := os.fspath(model), str):
        raise ModelError(
            f"the model is a {type(model).__name__}, expected a folder or a hub name "
            "(organisation/name)"
        )
    folder = Path(os.path.expanduser(name))
    if name and folder.is_dir():
        _asked[folder] = hub
        return folder
    if folder.is_file():
        raise ModelError(f"{name} is a file; pass the folder that holds config.json")
    if not isinstance(model, str) or not _may_be_there(name):
        raise ModelError(
            f"there is no folder {name!r}; pass a model folder or a hub name (organisation/name)"
        )
    from huggingface_hub import snapshot_download

    try:
        snapshot = snapshot_download(
            name,
            revision=hub.revision,
            token=hub.token,
            cache_dir=None if hub.cache_folder is None else os.fspath(hub.cache_folder),
            local_files_only=hub.local_files_only,
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
        )
    except Exception as error:  # the hub client has no common base for what it raises
        reason = str(error).strip().split("\n")[0].rstrip(". ") or type(error).__name__
        raise ModelError(
            f"{name} is not a folder and could not be fetched from the hub ({reason}); "
            "pass a local model folder"
        ) from None
    _asked[Path(snapshot)] = hub
    return Path(snapshot)


def asked_as(folder: Path) -> HubOptions:
    """How the hub was asked for the model that a folder is of; as usual where it was not."""
    found = (_asked[place] for place in (folder, *folder.parents) if place in _asked)
    return next(found, HubOptions())


def _may_be_there(name: str) -> bool:
    """Whether the hub may have a model by this name; else it must be a path."""
    if not _HUB_NAME.fullmatch(name):
        return False
    # Imported here, as what needs no hub need not wait for it.
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except ValueError:
        return False
    return True
