"""late-interaction-kernels, in float16 and bfloat16 on a CUDA device."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from packrank.bench.peers.late import MaxSimPeer, Scores
from packrank.bench.peers.peer import CannotRun, need

_NAME = "late-interaction-kernels"
# Its offsets are int32: past so many elements it reads elsewhere.
_MOST_ELEMENTS = 2**31 - 1


def peers(device: torch.device) -> list[MaxSimPeer]:
    """On a CUDA device one a precision.

    Raises:
        CannotRun: elsewhere, or where it is not installed.
    """
    if device.type != "cuda":
        raise CannotRun(f"{_NAME} runs on a CUDA device")
    need("late_interaction_kernels", f"{_NAME} is not installed; pip install {_NAME}")
    return [
        MaxSimPeer(f"{_NAME} ({name})", name, partial(_prepare, getattr(torch, name)))
        for name in ("float16", "bfloat16")
    ]


def _prepare(
    dtype: torch.dtype, query: Tensor, tokens: Tensor, lengths: Sequence[int]
) -> Callable[[], Scores]:
    from late_interaction_kernels import maxsim, maxsim_varlen

    if tokens.numel() > _MOST_ELEMENTS:
        raise CannotRun(f"{_NAME} takes {_MOST_ELEMENTS} elements at once, of {tokens.numel()}")
    q, x = query.to(dtype), tokens.to(dtype)
    if len(set(lengths)) == 1:
        documents = x.view(len(lengths), lengths[0], -1)
        return lambda: _on_host(maxsim(q[None], documents))
    starts, of_query = (
        torch.tensor([0, *np.cumsum(counts)], dtype=torch.int32, device=tokens.device)
        for counts in (lengths, [len(q)])
    )
    longest = max(lengths)
    return lambda: _on_host(maxsim_varlen(q, x, of_query, starts, len(q), longest))


def _on_host(scores: Tensor) -> Scores:
    found: Scores = scores.float().cpu().numpy().reshape(-1)
    return found
