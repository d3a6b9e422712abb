"""Whether an engine still answers, told by what became of the packs that it ran."""

from packrank.errors import InputError

_PACKS = 5  # that fail one after the other before all is said to: one may be its request's fault


class Health:
    """What an engine's threads note; whoever asks waits for nobody.

    Attributes:
        failed: why nothing is answered any more, without a word of any text; None: as far as one
            knows all is.
    """

    def __init__(self) -> None:
        self.failed: str | None = None
        self._in_a_row = 0
        self._is_over = False

    def has_run(self) -> None:
        """A pack has."""
        self._in_a_row = 0
        if not self._is_over:
            self.failed = None

    def has_not_run(self, error: BaseException) -> None:
        """What one request has of a pack failed by itself; not where its arguments are to blame."""
        if isinstance(error, InputError):
            return
        self._in_a_row += 1
        if self._in_a_row >= _PACKS and not self._is_over:
            kind = type(error).__name__
            self.failed = f"the last {self._in_a_row} packs have failed, the last with {kind}"

    def is_over(self, error: BaseException) -> None:
        """A thread of the engine has ended by an error; nothing runs after that."""
        self._is_over = True
        self.failed = f"a thread of the engine has ended with {type(error).__name__}"
