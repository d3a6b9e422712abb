"""What `dispatch` would choose, and why not the rest: for people, who may not read `TABLE`."""

import torch

from packrank_kernels.dispatch import TABLE


def backends(device: torch.device, dtype: torch.dtype) -> dict[str, list[tuple[str, str | None]]]:
    """The backends of every op, in order of preference.

    Args:
        device: where the tensors of a call would be.
        dtype: what they would hold.

    Returns:
        op -> [(name, reason)]; reason is None where the backend accepts such a call, else the
        sentence that `backend=name` would raise. "auto" runs the first that accepts.

    Raises:
        ValueError: `device` is a CUDA device, and torch sees none.
    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"backends: device is {device}, and torch sees no CUDA device")
    return {
        op: [(backend.name, backend.why_not(device, dtype)) for backend in row]
        for op, row in TABLE.items()
    }
