"""The stack of signal handlers, kept: OpenVINO puts its own in its place, and frees that later.

Then the next signal, such as that of Ctrl-C, ends the process by a fault, and what was measured is
lost.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Stack(ctypes.Structure):
    """stack_t of Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack(new: Stack | None = None) -> Stack:
    """This thread's, as it is, or was before it was replaced."""
    before = Stack()
    ctypes.CDLL(None).sigaltstack(None if new is None else ctypes.byref(new), ctypes.byref(before))
    return before


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """As it was, after the block."""
    if sys.platform != "linux":
        yield
        return
    before = signal_stack()
    try:
        yield
    finally:
        signal_stack(before)
