"""Signals end a program at once, or by an exception, so that what it began is put in order."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)

_keeping = False  # whether there is anything to put in order
_holding = False  # whether a signal waits for the end of what is being put in order
_told: int | None = None  # the signal that has come


class Stopped(BaseException):
    """The program was told to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stopping() -> Iterator[None]:
    """End the process at SIGINT, SIGTERM and SIGHUP: at once until `keep`, then by an exception.

    What is imported and loaded before has code that takes an exception for another, or for none.
    SIGINT raises KeyboardInterrupt, as often as it comes; the others Stopped, once: what then ends
    in order is left to do so. A signal that is ignored or has a handler keeps that, and so do all
    outside the main thread.
    """
    global _keeping, _holding, _told
    _keeping, _holding, _told = False, False, None
    before: dict[int, Any] = {}

    def stop(number: int, _: FrameType | None) -> None:
        global _told, _holding
        _told = number
        if _holding:
            _holding = False
            return
        if not _keeping:
            with suppress(OSError):
                os.write(2, b"packrank: stopped\n")
            os._exit(128 + number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) in _DEFAULTS:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)


def keep() -> None:
    """From here on there is a file, or work, to put in order before the process ends."""
    global _keeping
    _keeping = True


@contextmanager
def holding() -> Iterator[None]:
    """A signal that comes in this block ends the program after it; a second one at once."""
    global _holding
    _holding = True
    try:
        yield
    finally:
        _holding = False
    check()


def check() -> None:
    """Raise again for a signal whose exception what ran meanwhile has swallowed."""
    if _told == signal.SIGINT:
        raise KeyboardInterrupt
    if _told is not None:
        raise Stopped(_told)


def told() -> int | None:
    """The signal that has come since `stopping`, whatever a library has made of its exception."""
    return _told
