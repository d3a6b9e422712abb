"""What other packages say: nothing on standard error, and of an error one line."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing of what transformers and its kin warn of, note or count while they load and run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        restore = _silence()
        try:
            yield
        finally:
            restore()


def _silence() -> Callable[[], None]:
    """Make the packages say nothing; returns what undoes that."""
    names = ("sentence_transformers", "pylate")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        from transformers.utils import logging as theirs
    except ImportError:
        theirs = None
    else:
        level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
        theirs.set_verbosity(logging.CRITICAL)
        theirs.disable_progress_bar()

    def restore() -> None:
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)
        if theirs is not None:
            theirs.set_verbosity(level)
            if bars:
                theirs.enable_progress_bar()

    return restore


def reason_of(error: Exception) -> str:
    """What an error of another package says, in a line."""
    line = str(error).strip().partition("\n")[0].rstrip(".")
    return line or type(error).__name__
