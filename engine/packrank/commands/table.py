"""Rankings for people: columns as wide as what they hold, lines as wide as the terminal."""

import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from packrank.commands.messages import printable
from packrank.jobs.answers import Answer, Row

_WIDEST_ID = 40  # columns; a longer id moves what follows it


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


def table(answer: Answer, screen: Screen) -> Iterator[str]:
    """The lines of a ranking, under a heading where its query has an id."""
    if answer.query.id is not None:
        yield screen.line(
            f"query {screen.shown(answer.query.id)}:", screen.shown(answer.query.text)
        )
    heading, names = _names(answer.rows, screen)
    stored = all(row.record is None for row in answer.rows)
    yield screen.line(f"rank     score  {heading}" + ("" if stored else "  text"))
    for rank, (row, name) in enumerate(zip(answer.rows, names, strict=True), start=1):
        text = "" if row.record is None else f" {screen.shown(row.record.fields['text'])}"
        yield screen.line(f"{rank:4} {row.score:9.4f} ", name, text).rstrip()


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


def _names(rows: Sequence[Row], screen: Screen) -> tuple[str, list[str]]:
    """What documents are called, under what heading: ids, or where no document has one numbers."""
    records = [row.record for row in rows if row.record is not None]
    if records and all(row.id is None for row in rows):
        heading = f"{records[0].part:>7}"
        return heading, [f"{record.number:7}" for record in records]
    names = [
        f"({row.record.place})"
        if row.id is None and row.record is not None
        else screen.shown(str(row.id))
        for row in rows
    ]
    if not records:
        return "id", names
    size = min(max(map(columns, ["id", *names])), _WIDEST_ID)
    heading, *names = [name + " " * (size - columns(name)) for name in ["id", *names]]
    return heading, names
