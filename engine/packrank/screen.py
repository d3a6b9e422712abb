"""What an output can show: how many columns of which characters."""

import shutil
import sys
import unicodedata
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True)
class Screen:
    """What a table is shown on.

    Attributes:
        width: columns that a line may have; None: any number, as in a file or a pipe.
        encoding: of characters.
    """

    width: int | None
    encoding: str

    @classmethod
    def of(cls, sink: TextIO) -> "Screen":
        """Standard output, or a file of UTF-8."""
        if sink is not sys.stdout:
            return cls(None, "utf-8")
        width = shutil.get_terminal_size().columns if sink.isatty() else None
        return cls(width, sink.encoding or "utf-8")

    def line(self, *parts: str) -> str:
        """Parts of a line, each of which can be shown, cut to the width."""
        return cut(" ".join(parts), self.width)

    def shown(self, text: str) -> str:
        """A text in one line, with a "?" for what cannot be shown."""
        return printable(" ".join(text.split()), self.encoding)


def printable(text: str, encoding: str) -> str:
    """A text with a "?" for what an output of this encoding cannot show."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown.encode(encoding, "replace").decode(encoding)


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(map(_columns, text))


def cut(text: str, width: int | None) -> str:
    """A text in so many columns: where it takes more, dots stand for its end."""
    if width is None or columns(text) <= width:
        return text
    dots = "..."[:width]
    taken = 0
    for place, c in enumerate(text):
        taken += _columns(c)
        if taken > width - len(dots):
            return text[:place] + dots
    return text


def _columns(c: str) -> int:
    if unicodedata.category(c) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1
