"""What is cut off texts that are too long together, by their lengths alone."""

from typing import Literal, NamedTuple, get_args

from packrank.errors import InputError

Truncation = Literal["longest_first", "only_second", "off"]
_TRUNCATIONS = get_args(Truncation)
# What becomes of a document that does not fit beside its query: see `text.windows`.
LongDocuments = Literal["truncate", "windows"]


class SideLimits(NamedTuple):
    """Most tokens of each text of a pair by itself, None for no limit."""

    query: int | None = None
    document: int | None = None

    def failure(self, query: int, document: int) -> str:
        """What to say of a pair of so many tokens, one of them too many, that may not be cut."""
        is_query = self.query is not None and query > self.query
        name, length = ("query", query) if is_query else ("document", document)
        return (
            f"the {name} has {length} tokens, more than {name}_length "
            f"{self.query if is_query else self.document}; shorten it or allow truncation"
        )


NO_LIMITS = SideLimits()


def truncated(
    lengths: tuple[int, ...], num_special: int, max_length: int | None, truncation: Truncation
) -> tuple[int, ...]:
    """Lengths of the texts of a sequence after truncation.

    The same as the `tokenizers` library's `truncate_encodings`, except that "only_second"
    raises wherever no token of the document would be left.

    Args:
        lengths: tokens of one text, or of two.
        num_special: special tokens of the sequence.
        max_length: most tokens of the sequence, special ones included; None for no limit.
        truncation: what may be cut; one text is cut by either strategy.

    Raises:
        InputError: the texts do not fit and may not, or cannot, be cut.
    """
    total = sum(lengths) + num_special
    if max_length is None or total <= max_length:
        return lengths
    budget = max_length - num_special
    what = "pair" if len(lengths) == 2 else "text"
    if budget < 0:
        raise InputError(
            f"max_length is {max_length}, but a {what} has {num_special} special tokens"
        )
    if truncation == "off":
        raise InputError(
            f"the {what} has {total} tokens, more than max_length {max_length}; shorten it or "
            "allow truncation"
        )
    if truncation not in _TRUNCATIONS:
        names = ", ".join(map(repr, _TRUNCATIONS))
        raise InputError(f"truncation is {truncation!r}, expected one of {names}")
    if len(lengths) == 1:
        return (budget,)
    first, second = lengths
    if truncation == "longest_first":
        return _longest_first(first, second, budget)
    if first >= budget:
        raise InputError(
            f"the query alone has {first} tokens, which leaves no room for a document within "
            f"max_length {max_length}; shorten it or use truncation 'longest_first'"
        )
    return first, budget - first


def _longest_first(first: int, second: int, budget: int) -> tuple[int, int]:
    """The shorter text keeps up to half of the budget and the longer takes the rest.

    Of two equally long ones the second counts as the longer.
    """
    shorter = min(first, second, budget // 2)
    longer = budget - shorter
    return (longer, shorter) if first > second else (shorter, longer)
