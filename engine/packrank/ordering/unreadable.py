"""Documents that cannot be read beside the others of their query."""

from packrank.errors import InputError


class Unreadable(InputError):
    """Some documents of a query cannot be read.

    Attributes:
        reasons: place among them -> why.
    """

    def __init__(self, reasons: dict[int, str]) -> None:
        place, reason = next(iter(reasons.items()))
        super().__init__(f"document {place}: {reason}")
        self.reasons = reasons
