"""One number of threads for the kernels and for torch, so that they never oversubscribe."""

import os

import torch

from packrank_kernels.backend import native

# Of a forked child, else None. There torch keeps to one thread: its pool (OpenMP's) does not
# survive a fork, and the first parallel loop would wait for ever for the parent's threads. Ours
# starts anew.
_of_child: int | None = None


def set_num_threads(num_threads: int) -> None:
    """Let the kernels of this process, and torch's, use this many threads from now on.

    In a forked child torch's stay at one: its own pool does not survive a fork.

    The tokenizers library keeps its own, one a core; `RAYON_NUM_THREADS` limits them.

    Args:
        num_threads: at least 1, the caller's thread included.

    Raises:
        ValueError: num_threads is less than 1.
    """
    if num_threads < 1:
        raise ValueError(f"num_threads is {num_threads}, expected at least 1")
    global _of_child
    if _of_child is None:
        torch.set_num_threads(num_threads)
    else:
        _of_child = num_threads
    native.set_num_threads(num_threads)


def get_num_threads() -> int:
    """The number of threads in force.

    It is torch's own until `set_num_threads` is called. The kernels read it at their first call: a
    later `torch.set_num_threads` does not reach them.
    """
    return torch.get_num_threads() if _of_child is None else _of_child


def _after_fork_in_child() -> None:
    global _of_child
    _of_child = get_num_threads()
    torch.set_num_threads(1)
    native.set_num_threads(_of_child)


os.register_at_fork(after_in_child=_after_fork_in_child)
