"""A model's folder, from a path or a hub name."""

import os
import re
from pathlib import Path

from packrank.errors import ModelError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# Never *.bin: pickles can run code, and weights are read from safetensors alone.
_WANTED = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "artifact.metadata"]
_UNWANTED = ["onnx/*", "openvino/*"]


def is_hub_name(model: str) -> bool:
    """Whether a model is neither a folder nor a file here, and could be a name on the hub."""
    there = os.path.exists(os.path.expanduser(model))
    return not there and _HUB_NAME.fullmatch(model) is not None


def is_cached(folder: Path) -> bool:
    """Whether a folder lies in a cache of the hub's, wherever that is, by whatever link."""
    inner = folder.resolve()
    return any(
        above.name == "snapshots" and above.parent.name.startswith("models--")
        for above in inner.parents
    )


def resolve(model: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of a model: a local folder as it is, else a snapshot of the hub's.

    Args:
        model: a folder, or a name on the Hugging Face hub ("organisation/name").
        revision: of what the hub serves: a branch, tag or commit; None: the newest.

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
        return folder
    if folder.is_file():
        raise ModelError(f"{name} is a file; pass the folder that holds config.json")
    if not isinstance(model, str) or not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"no folder {name!r}; pass a model folder or a hub name (organisation/name)"
        )
    from huggingface_hub import snapshot_download  # here, as what needs no hub need not wait

    try:
        snapshot = snapshot_download(
            name, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
        )
    except Exception as error:  # the hub client has no common base for what it raises
        reason = str(error).strip().split("\n")[0].rstrip(". ") or type(error).__name__
        raise ModelError(
            f"{name} is not a folder and could not be fetched from the hub ({reason}); "
            "pass a local model folder"
        ) from None
    return Path(snapshot)
