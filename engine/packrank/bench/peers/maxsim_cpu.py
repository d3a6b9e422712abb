"""maxsim-cpu, in float32."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from packrank.bench.peers.late import MaxSimPeer, Scores
from packrank.bench.peers.peer import CannotRun, need


def peers(device: torch.device) -> list[MaxSimPeer]:
    """On a CPU one.

    Raises:
        CannotRun: elsewhere, or where it is not installed.
    """
    if device.type != "cpu":
        raise CannotRun("maxsim-cpu runs on a CPU")
    need("maxsim_cpu", "maxsim-cpu is not installed; pip install maxsim-cpu")
    return [MaxSimPeer("maxsim-cpu (float32)", "float32", _prepare)]


def _prepare(query: Tensor, tokens: Tensor, lengths: Sequence[int]) -> Callable[[], Scores]:
    import maxsim_cpu

    q, x = query.numpy(), tokens.numpy()
    if len(set(lengths)) == 1:
        documents = x.reshape(len(lengths), lengths[0], -1)
        return lambda: np.asarray(maxsim_cpu.maxsim_scores(q, documents))
    parts = np.split(x, np.cumsum(lengths)[:-1])
    return lambda: np.asarray(maxsim_cpu.maxsim_scores_variable(q, parts))
