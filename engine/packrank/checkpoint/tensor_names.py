"""Names of the tensors beside a config.json, from headers alone."""

from pathlib import Path

from packrank.checkpoint.files import field, read_object
from packrank.checkpoint.headers import read_headers


def tensor_names(folder: Path) -> set[str] | None:
    """Names of the tensors in a folder; None where it has no safetensors.

    Raises:
        ModelError: they cannot be read.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return set(read_headers(single))
    if index.is_file():
        return set(field(read_object(index), "weight_map", dict, {}, index))
    return None
