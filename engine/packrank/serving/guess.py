"""How many tokens texts will have, by their characters and by what others had."""

import math

# Tokens a character. At first more than most texts have, so that a queue is no longer than it says;
# none have fewer than the least or more than the most for long.
_FIRST, _LEAST, _MOST = 1 / 3, 0.02, 4.0
_MEMORY = 50_000  # characters, after which what was is worth a third


class TokenGuess:
    """Tokens a character, as it lately was: a queue of Chinese is not one of English.

    One thread learns, any may ask.

    Attributes:
        rate: tokens a character.
    """

    def __init__(self) -> None:
        self.rate = _FIRST

    def learn(self, characters: int, tokens: int) -> None:
        """Note how many tokens so many characters had."""
        if characters:
            kept = math.exp(-characters / _MEMORY)
            seen = min(max(tokens / characters, _LEAST), _MOST)
            self.rate = kept * self.rate + (1 - kept) * seen
