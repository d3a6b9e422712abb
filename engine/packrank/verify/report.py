"""What a verification found, and the sentence that it comes to."""

from dataclasses import dataclass
from typing import Any, Literal

from packrank.verify.comparison import Row

Verdict = Literal["verified", "differs", "not compared"]

# Rows that follow from others.
_RESULTS = ("scores", "order")


@dataclass(frozen=True)
class Report:
    """All that was compared of a model.

    Attributes:
        model: as the user names it.
        reference: the package that was compared with, and its version; None: none could be.
        dtype: of the engine; the reference runs in float32.
        rows: what was compared, in the order in which it is computed.
        published: the same of published figures; the first words of each say whose.
        left_out: place -> reason of pairs that were not compared.
        why_not: what was not compared with a reference, and why; None if all was.
    """

    model: str
    reference: str | None
    dtype: str
    rows: tuple[Row, ...]
    published: tuple[Row, ...]
    left_out: dict[int, str]
    why_not: str | None = None

    @property
    def verdict(self) -> Verdict:
        """What it comes to, in a word."""
        if any(row.differing for row in (*self.rows, *self.published)):
            return "differs"
        scored = [row for row in (*self.rows, *self.published) if row.largest is not None]
        return "verified" if any(row.count for row in scored) else "not compared"

    @property
    def sentence(self) -> str:
        """What it comes to, with what a user would ask next."""
        agreed = " and ".join(filter(None, (self._agreed(), self._agreed_published())))
        if self.verdict == "verified":
            rest = f"; not compared: {self.why_not}" if self.why_not else ""
            return f"verified: {agreed}{rest}"
        if self.verdict == "not compared":
            ids = [row for row in self.rows if row.count]
            known = (
                f" (token ids of {ids[0].count} pairs agree with {self.reference})" if ids else ""
            )
            return f"not compared: {self.why_not or 'no pair could be'}{known}"
        wrong = [row for row in self.rows if row.differing]
        # Scores differ where what they are made of does; then that is what to say.
        causes = [row for row in wrong if row.what not in _RESULTS] or wrong[:1]
        said = (
            [f"DIFFERS from {self.reference}: {'; '.join(map(_difference, causes))}"]
            if causes
            else []
        )
        figures = [_difference(row) for row in self.published if row.differing]
        said += [f"DIFFERS from published scores: {'; '.join(figures)}"] if figures else []
        if not wrong and self._agreed():
            said.append(f"{self._agreed()}, so these may not be the weights that were published")
        return "; ".join(said)

    def as_json(self) -> dict[str, Any]:
        """All of it, for a program."""
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "model": self.model,
            "dtype": self.dtype,
            "reference": self.reference,
            "compared": [_fields(row) for row in self.rows],
            "published": [_fields(row) for row in self.published],
            "left_out": [
                {"pair": place + 1, "reason": reason} for place, reason in self.left_out.items()
            ],
        }

    def _agreed(self) -> str | None:
        values = [row for row in self.rows if row.what == "scores" and row.count] or [
            row for row in self.rows if row.largest is not None and row.count
        ]
        if not values:
            return None
        return f"{values[0].count} pairs agree with {self.reference} within {values[0].largest:.1g}"

    def _agreed_published(self) -> str | None:
        if not self.published:
            return None
        count = sum(row.count for row in self.published)
        largest = max(row.largest or 0.0 for row in self.published)
        figures = "figure agrees" if count == 1 else "figures agree"
        return f"{count} published {figures} within {largest:.1g}"


def _difference(row: Row) -> str:
    what = f"the {row.what}" if row.what in ("activation", "order") else row.what
    of = "queries" if row.what == "order" else "pairs"
    bound = f", where roundings explain {row.tolerance:.1g}" if row.tolerance is not None else ""
    return f"{what} of {row.differing} of {row.count} {of}, {row.first}{bound}"


def _fields(row: Row) -> dict[str, Any]:
    largest = row.largest
    if largest is not None and largest == float("inf"):  # JSON has no spelling of it
        largest = None
    return {
        "what": row.what,
        "count": row.count,
        "differing": row.differing,
        "largest_difference": largest,
        "expected": row.expected,
        "tolerance": row.tolerance,
        "first": row.first,
        "pair": None
        if row.pair is None
        else dict(zip(("query", "document"), row.pair, strict=True)),
    }
