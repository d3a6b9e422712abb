"""Where a model runs and in what precision: the caller's words as torch's."""

import torch

from packrank.errors import InputError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """What "auto" stands for on this machine, and what a name stands for anywhere.

    Args:
        device: "auto" (a CUDA device if torch sees one, else the CPU), or a name such as "cpu",
            "cuda" or "cuda:1".
        dtype: "auto" (float32 on the CPU, else bfloat16), "float32" or "bfloat16".

    Raises:
        InputError: no such device here, or another dtype.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(
            f"device is {device!r}, expected 'auto', 'cpu', 'cuda' or 'cuda:N'"
        ) from None
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device {device!r} is not supported; there are 'cpu' and 'cuda'")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {device!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices; "
            "use 'cpu' or 'auto'"
        )
    if dtype == "auto":
        return chosen, torch.float32 if chosen.type == "cpu" else torch.bfloat16
    if dtype not in _DTYPES:
        raise InputError(f"dtype is {dtype!r}, expected 'auto', 'float32' or 'bfloat16'")
    return chosen, _DTYPES[dtype]
