"""How much is done at once, so that every few seconds what has been done is safe, and is told."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

import torch

# A window is encoded at once: some 16 packs, and 100 MB of vectors at 384 dimensions.
WINDOW_CHARACTERS = 1 << 18
_FIRST_CHARACTERS = 1 << 10
_SECONDS = 2.0  # that a window should take
_MOST_FASTER = 2  # times the characters of the window before


class Doubling:
    """Windows that double while one takes less than some two seconds, and else get smaller again.

    Attributes:
        size: of the next window.
    """

    def __init__(self, first: int, most: int) -> None:
        """Begin with the first size, and end with the most."""
        self.size = first
        self._most = most

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep pace while something is done with a window."""
        start = monotonic()
        yield
        seconds = monotonic() - start
        if seconds < _SECONDS:
            self.size = min(2 * self.size, self._most)
        elif seconds > 2 * _SECONDS:
            self.size = max(self.size // 2, 1)


class Pace:
    """Characters of a window that takes some two seconds, whatever the model and the machine.

    On a CPU a text's vectors have the same bits in any company, so windows may follow the clock. A
    GPU takes windows of one size: their ends follow from the documents alone, and so do the bits.

    Attributes:
        characters: that the next window may have.
        most: characters of a document that count; the model reads no more of them.
    """

    def __init__(self, device: torch.device, max_length: int) -> None:
        """Begin with little.

        Args:
            device: of the model.
            max_length: tokens that the model reads of a document.
        """
        self._follows_the_clock = device.type == "cpu"
        self.characters = _FIRST_CHARACTERS if self._follows_the_clock else WINDOW_CHARACTERS
        self.most = 8 * max_length

    def counted(self, text: str) -> int:
        """Characters of a text that cost time."""
        return min(len(text), self.most)

    @contextmanager
    def kept(self, texts: Sequence[str]) -> Iterator[None]:
        """Keep pace while a window of texts is encoded."""
        start = monotonic()
        yield
        if not self._follows_the_clock:
            return
        characters, seconds = sum(map(self.counted, texts)), monotonic() - start
        fitting = int(characters * _SECONDS / seconds) if seconds > 0 else WINDOW_CHARACTERS
        most = min(_MOST_FASTER * self.characters, WINDOW_CHARACTERS)
        self.characters = max(min(fitting, most), 1)
