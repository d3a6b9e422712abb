"""How many tokens texts will have, by their characters and by what others had."""

import math

# Tokens a character: more than most texts have, so that a queue is no longer than it says.
_FIRST = 1 / 3
_MEMORY = 50_000  # characters, after which what was is worth a third
_LEAST = 4  # of special tokens


class TokenGuess:
    """Tokens a character, as it lately was: a queue of Chinese is not one of English.

    Threads may share it.
    """

    def __init__(self) -> None:
        self._rate = _FIRST

    def tokens(self, characters: int) -> int:
        """About how many tokens so many characters have."""
        return int(characters * self._rate) + _LEAST

    def learn(self, characters: int, tokens: int) -> None:
        """Note how many tokens so many characters had."""
        if characters:
            kept = math.exp(-characters / _MEMORY)
            self._rate = kept * self._rate + (1 - kept) * tokens / characters
