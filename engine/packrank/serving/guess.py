"""How many tokens texts will have, by their characters and by what others had."""

import math

import numpy as np
from numpy.typing import NDArray

from packrank.serving.texts import Counts, characters

# Tokens a character at first, of ASCII and of others. Most English has fewer of the first, and most
# Chinese not many more of the second, so that a queue is about as long as it says.
_FIRST = 1 / 3, 1.0
# Within which a rate keeps. There are texts of fewer, such as runs of blanks, and a single
# character may be more; but a queue of other texts is not to be guessed by them.
_LEAST, _MOST = 1 / 8, 4.0
_MEMORY = 50_000  # characters, after which what was is worth a third


class TokenGuess:
    """Tokens a character, as it lately was: of ASCII, and of others, as those of Chinese are.

    One thread learns, any may ask.

    Attributes:
        of_ascii: tokens a character.
        of_others: likewise.
    """

    def __init__(self) -> None:
        self.of_ascii, self.of_others = _FIRST

    def tokens(self, text: str) -> int:
        """About how many a text has."""
        ascii, others = characters(text)
        return int(ascii * self.of_ascii + others * self.of_others)

    def learn(self, counts: Counts, tokens: Counts, whole: NDArray[np.bool_]) -> None:
        """Note how many tokens texts had.

        What they have most of is what they tell of. Those of hardly any tokens tell nothing.

        Args:
            counts: [n, 2] characters: ASCII, and others.
            tokens: [n] of them.
            whole: [n] whether those are all; where they are not, there were no fewer.
        """
        rates = [self.of_ascii, self.of_others]
        told = np.where(whole, tokens >= counts.sum(axis=1) * _LEAST, tokens > counts @ rates)
        is_ascii = counts[:, 0] >= counts[:, 1]
        for own, mostly in enumerate((is_ascii, ~is_ascii)):
            some = told & mostly
            here = counts[some].sum(axis=0)
            if here[own]:
                rest = float(tokens[some].sum() - here[1 - own] * rates[1 - own])
                kept, seen = math.exp(-here[own] / _MEMORY), rest / float(here[own])
                rates[own] = kept * rates[own] + (1 - kept) * min(max(seen, _LEAST), _MOST)
        self.of_ascii, self.of_others = rates
