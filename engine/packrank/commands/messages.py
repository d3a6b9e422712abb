"""What the commands say, where it goes, and how far they have come."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from packrank.errors import InputError

SHOWN_FAILURES = 20  # of a file; their number is said of others


def say(line: str) -> None:
    """Print to standard error, unless it is closed or full."""
    with suppress(OSError):  # of a pipe that nobody reads
        if sys.stderr is not None:
            print(line, file=sys.stderr)


@contextmanager
def saying_warnings() -> Iterator[None]:
    """Say what Python would warn of, a line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        say(f"packrank: {warning.message}")


def check_stdout() -> None:
    """Raise InputError if standard output is closed."""
    if sys.stdout is None:
        raise InputError("standard output is closed; send it to a file")


def printable(text: str) -> str:
    """A text with a "?" for what standard output cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown.encode(encoding, "replace").decode(encoding)


def report(failures: Sequence[tuple[int, str]], part: str) -> None:
    """Say of records, the first ones of them by their numbers, why they were left out.

    Args:
        failures: numbers and reasons.
        part: what a record is of its file.
    """
    for number, reason in failures[:SHOWN_FAILURES]:
        say(f"packrank: {part} {number} was left out: {reason}")
    if len(failures) > SHOWN_FAILURES:
        say(f"packrank: and {len(failures) - SHOWN_FAILURES} more {part}s")


def hides_bar(quiet: bool) -> bool:
    """Whether a progress bar would be in the way."""
    return quiet or sys.stderr is None or not sys.stderr.isatty()
