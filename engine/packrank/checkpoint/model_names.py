"""What a model is called: by its user, by its folders, by its files."""

import re
from pathlib import Path

from packrank.checkpoint.adapter import base_folder, base_name, read_config
from packrank.checkpoint.files import field
from packrank.checkpoint.modules import encoder_folder


def names_of(folder: Path, name: str | None) -> list[str]:
    """Last parts of names, and the hub's names of its folders.

    Args:
        folder: as the user names it.
        name: what the user calls the model, where that is not the folder.
    """
    inner = encoder_folder(folder)
    saved = field(read_config(inner), "_name_or_path", str, "", "config.json")
    named = (name or "", str(folder), saved, base_name(inner))
    lasts = [re.split(r"[/\\]", one.rstrip("/\\"))[-1] for one in named]
    parts = (*folder.parts, *base_folder(inner).parts)
    return [*lasts, *(part for part in parts if part.startswith("models--"))]
