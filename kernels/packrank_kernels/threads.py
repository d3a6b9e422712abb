"""One number of threads for the kernels and for torch, so that they never oversubscribe."""

import torch

from packrank_kernels.backend import native


def set_num_threads(num_threads: int) -> None:
    """Let the kernels of this process, and torch's, use this many threads from now on.

    The tokenizers library keeps its own, one a core; `RAYON_NUM_THREADS` limits them.

    Args:
        num_threads: at least 1, the caller's thread included.

    Raises:
        ValueError: num_threads is less than 1.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads is {num_threads}, expected at least 1")
    torch.set_num_threads(num_threads)
    native.set_num_threads(num_threads)


def get_num_threads() -> int:
    """The number of threads in force.

    It is torch's own until `set_num_threads` is called. The kernels read it at their first call: a
    later `torch.set_num_threads` does not reach them.
    """
    return torch.get_num_threads()
