"""What the commands say, where it goes, and how far they have come."""

import io
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from tqdm import tqdm

from packrank.errors import InputError
from packrank.output_file import Discarded

SHOWN_FAILURES = 20  # of a file; their number is said of others
_LINE_SECONDS = 10.0  # between lines of progress


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
        try:
            yield
        finally:
            for warning in caught:
                say(f"packrank: {warning.message}")


def check_stdout() -> None:
    """Raise InputError if standard output is closed."""
    if sys.stdout is None:
        raise InputError("standard output is closed; send it to a file")


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


class LeftOut:
    """What could not be used: the first ones and why, and how many.

    A context manager: whatever ends its block, they are said; but for `Discarded`, whose sentence
    is about them.
    """

    def __init__(self, rest: str = "more", became: str = "was left out") -> None:
        """None yet.

        Args:
            rest: what is said of those that are only counted.
            became: what is said to have become of each.
        """
        self.count = 0
        self._rest, self._became = rest, became
        self._first: list[tuple[str, str]] = []

    def __enter__(self) -> "LeftOut":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not Discarded:
            self.report()

    def add(self, what: str, reason: str) -> None:
        """Note one."""
        self.count += 1
        if self.count <= SHOWN_FAILURES:
            self._first.append((what, reason))

    @property
    def first(self) -> str:
        """The first one, and why."""
        what, reason = self._first[0]
        return f"{what}: {reason}"

    def report(self) -> None:
        """Say of the first ones what they are, and why they were left out."""
        for what, reason in self._first:
            say(f"packrank: {what} {self._became}: {reason}")
        if self.count > len(self._first):
            say(f"packrank: and {self.count - len(self._first)} {self._rest}")


def progress(total: int | None, unit: str, quiet: bool) -> "tqdm[None]":
    """How far a command has come: a bar on a terminal, elsewhere a line now and then.

    Args:
        total: how much there is, None if that is not known.
        unit: what is counted, in the plural.
        quiet: say nothing.
    """
    if quiet or sys.stderr is None or sys.stderr.isatty():
        hidden = quiet or sys.stderr is None
        return tqdm(total=total, unit=f" {unit}", unit_scale=True, disable=hidden)
    return _Lines(
        total=total,
        unit=unit,
        file=io.StringIO(),  # where tqdm moves a cursor
        leave=False,
        delay=_LINE_SECONDS,
        mininterval=_LINE_SECONDS,
        miniters=1,
    )


class _Lines(tqdm):  # type: ignore[misc]  # it has no types
    """Progress as lines that may be kept: no bar, no cursor, at most one in so many seconds."""

    monitor_interval = 0  # no thread that watches it

    @staticmethod
    def format_meter(
        n: float,
        total: float | None,
        elapsed: float,
        *_: object,
        unit: str = "",
        rate: float | None = None,
        initial: float = 0,
        **__: object,
    ) -> str:
        """A line: how many of how many, and how many a second; nothing before the first."""
        if not n:
            return ""
        each = rate or (n - initial) / max(elapsed, 1e-9)
        of = "" if total is None else f" of {total:,.0f}"
        speed = f"{each:,.0f}" if each >= 10 else f"{each:.2g}"
        return f"{n:,.0f}{of} {unit}, {speed} {unit}/s"

    @staticmethod
    def status_printer(_: object) -> Callable[[str], None]:
        """What prints a line."""
        return lambda line: say(f"packrank: {line}") if line else None
