"""Tables of text, with bars in the room that is left, in as many columns as a screen has."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from packrank.screen import Screen, columns, cut

_GAP = "  "
_USUAL_NAME, _LEAST_NAME = 16, 6
_USUAL_BAR, _LEAST_BAR, _MOST_BAR = 20, 8, 60
_EIGHTHS = " ▏▎▍▌▋▊▉"
FILLS = "█▓▒░▚·"  # of the parts of a stacked bar
_FILLS_ASCII = "#%+-/."


@dataclass
class Grid:
    """A table.

    Attributes:
        title: in a line above it.
        heading: a name a column.
        rows: a text a column.
        bars: of each row the shares of a whole bar, one for each of `stack`; () for no bar. Empty
            where the table has none.
        stack: what the parts of a bar are; empty where it has one part.
        names: how many columns at the left are names, which give way where the room is short.
        notes: sentences below.
    """

    title: str
    heading: list[str]
    rows: list[list[str]] = field(default_factory=list)
    bars: list[tuple[float, ...]] = field(default_factory=list)
    stack: tuple[str, ...] = ()
    names: int = 1
    notes: list[str] = field(default_factory=list)

    def lines(self, screen: Screen) -> Iterator[str]:
        """The table on a screen: names that are too long for it stand above their row."""
        width = width_of(screen)
        if self.title:
            yield from wrapped(self.title, screen)
        if self.stack:
            fills = _fills(screen)
            legend = [f"{fills[n % len(fills)]} {name}" for n, name in enumerate(self.stack)]
            yield from wrapped(_GAP.join(legend), screen)
        filled = [n for n in range(len(self.heading)) if any(row[n] for row in self.rows)]
        names = sum(n < self.names for n in filled)
        texts = [[screen.shown(row[n]) for n in filled] for row in [self.heading, *self.rows]]
        sizes = [max(columns(row[n]) for row in texts) for n in range(len(filled))]
        if self.bars:
            _narrow(sizes, names, width - len(_GAP) - _USUAL_BAR, _USUAL_NAME)
        _narrow(sizes, names, width, _LEAST_NAME)
        room = width - sum(sizes) - len(_GAP) * len(sizes)
        for place, row in enumerate(texts):
            if any(columns(text) > size for text, size in zip(row[:names], sizes, strict=False)):
                yield from wrapped(", ".join(filter(None, row[:names])), screen)
                row[:names] = [""] * names
            cells = [_cell(text, sizes[n], n < names) for n, text in enumerate(row)]
            if place and self.bars and room >= _LEAST_BAR:
                cells.append(bar(self.bars[place - 1], min(room, _MOST_BAR), screen))
            yield from _fitted(cells, width)
        for note in self.notes:
            yield from wrapped(note, screen)


def bar(shares: Sequence[float], size: int, screen: Screen) -> str:
    """A bar of so many columns when its shares add up to 1: of one part in eighths of a column."""
    shares = [min(max(share, 0.0), 1.0) for share in shares]
    fills, drawn, total = _fills(screen), "", 0.0
    if len(shares) == 1 and fills == FILLS:
        whole, eighths = divmod(round(shares[0] * size * 8), 8)
        return FILLS[0] * whole + _EIGHTHS[eighths].strip()
    for part, share in enumerate(shares):
        total += share
        drawn += fills[part % len(fills)] * (round(min(total, 1.0) * size) - len(drawn))
    return drawn


def wrapped(text: str, screen: Screen) -> Iterator[str]:
    """A sentence in as many lines as it takes."""
    width = width_of(screen)
    lines = textwrap.wrap(
        screen.shown(text), width, subsequent_indent="  ", break_on_hyphens=False
    )  # what may be a command is not to be broken
    for line in lines or [""]:
        yield cut(line, width)


def width_of(screen: Screen) -> int:
    """Of a terminal, or what a file is printed in."""
    return max(screen.width or 80, 40)


def _fills(screen: Screen) -> str:
    """Blocks, where the screen has them."""
    try:
        (FILLS + _EIGHTHS).encode(screen.encoding)
    except (UnicodeEncodeError, LookupError):
        return _FILLS_ASCII
    return FILLS


def _fitted(cells: Sequence[str], width: int) -> Iterator[str]:
    """Cells in a line; those that have no room go below it, since half a number is another one."""
    line = ""
    for n, cell in enumerate(cells):
        if n and columns(line) + len(_GAP) + columns(cell) > width:
            yield line.rstrip()
            line = ""
        line += _GAP * bool(n) + cell
    yield cut(line.rstrip(), width)


def _cell(text: str, size: int, is_name: bool) -> str:
    text = cut(text, size)
    blank = " " * (size - columns(text))
    return text + blank if is_name else blank + text


def _narrow(sizes: list[int], names: int, width: int, least: int) -> None:
    """Take from the widest names, down to a least, what the columns are too wide."""
    while names and sum(sizes) + len(_GAP) * (len(sizes) - 1) > width:
        widest = max(range(names), key=lambda n: sizes[n])
        if sizes[widest] <= least:
            return
        sizes[widest] -= 1
