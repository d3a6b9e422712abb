"""What the commands say, where it goes, and how far they have come."""

import os
import sys
from collections.abc import Sequence

from packrank.errors import InputError


def say(line: str) -> None:
    """Print to standard error, unless it is closed."""
    if sys.stderr is not None:
        print(line, file=sys.stderr)


def check_stdout() -> None:
    """Raise InputError if standard output is closed."""
    if sys.stdout is None:
        raise InputError("standard output is closed; send it to a file")


def printable(text: str) -> str:
    """A text with a "?" for what standard output cannot show."""
    encoding = sys.stdout.encoding or "utf-8"
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown.encode(encoding, "replace").decode(encoding)


def report(failures: Sequence[tuple[int, str]]) -> None:
    """Say of lines, by their numbers, why they were left out."""
    for number, reason in failures:
        say(f"packrank: line {number} was left out: {reason}")


def hides_bar(quiet: bool) -> bool:
    """Whether a progress bar would be in the way."""
    return quiet or sys.stderr is None or not sys.stderr.isatty()


def count_lines(path: str) -> int | None:
    """Lines of a file that can be read twice, for the progress bar."""
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as source:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: source.read(1 << 20), b""))
