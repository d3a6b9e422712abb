"""What determines a model's logits: where it is equal, one may end a job that another began."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from packrank.checkpoint.fingerprint import fingerprint
from packrank.scoring.assembly import Assembly


def identity(
    folder: Path,
    assembly: Assembly,
    devices: Sequence[torch.device],
    dtype: torch.dtype,
    deterministic: bool,
) -> dict[str, Any]:
    """What determines logits, by names that a message may use; anything JSON holds.

    Args:
        folder: of the model, which is read whole.
        assembly: how it is used.
        devices: where it runs.
        dtype: of its weights.
        deterministic: whether company may change roundings.
    """
    return {
        "model": fingerprint(folder),
        "device": devices[0].type,
        "dtype": str(dtype).removeprefix("torch."),
        "deterministic": deterministic,
        "prompt": assembly.options.prompt,
        **assembly.exit_settings,
    }
