"""Two packages' readings of the same pairs side by side: what was compared, and what differs."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from packrank.verify.reading import Float32, Pair, Reading

Both = list[tuple[int, Reading, Reading]]


@dataclass(frozen=True)
class Row:
    """One thing that was compared.

    Attributes:
        what: "token ids", "logits", "scores", ...
        count: of pairs; of queries where it is the order of their documents.
        differing: how many of them differ.
        largest: difference; None where there is no measure of one.
        tolerance: what roundings may amount to; None where nothing may differ.
        expected: what they should amount to, a root mean square; None as `tolerance`.
        first: the first that differs, or the one that does most, in words; None if none does.
        pair: its texts.
    """

    what: str
    count: int
    differing: int
    largest: float | None = None
    tolerance: float | None = None
    expected: float | None = None
    first: str | None = None
    pair: Pair | None = None


@dataclass(frozen=True)
class Allowed:
    """What roundings should amount to, and what is taken for a fault.

    Attributes:
        expected: root mean square.
        margin: how much more may be.
    """

    expected: float
    margin: float

    @property
    def most(self) -> float:
        """The tolerance."""
        return self.expected * self.margin


def token_row(both: Both, pairs: list[Pair], name: str) -> Row:
    """Whether the ids of pairs are the same, and where they are not.

    Args:
        both: the place of each pair, the engine's reading of it and the reference's.
        pairs: all.
        name: of the reference.
    """
    found = [(place, _first_id(a, b, name)) for place, a, b in both]
    told = [(place, said) for place, said in found if said is not None]
    if not told:
        return Row("token ids", len(both), 0)
    place, said = told[0]
    first = f"the first in pair {place + 1}, {said}"
    return Row("token ids", len(both), len(told), first=first, pair=pairs[place])


def same_tokens(both: Both) -> Both:
    """The pairs whose ids are the same in both."""
    return [each for each in both if _first_id(each[1], each[2], "") is None]


def value_row(
    what: str,
    found: Mapping[int, tuple[list[Float32], list[Float32]]],
    allowed: Allowed,
    pairs: Sequence[Pair],
) -> Row:
    """How far numbers are apart.

    Args:
        what: they are.
        found: place of a pair -> the engine's and the reference's arrays.
        allowed: see there.
        pairs: all.
    """
    apart = {place: _apart(*arrays) for place, arrays in found.items()}
    differing = [place for place, value in apart.items() if value > allowed.most]
    first = pair = None
    if differing:
        worst = max(differing, key=apart.__getitem__)
        first, pair = f"most in pair {worst + 1}, {_by(apart[worst])}", pairs[worst]
    return Row(
        what,
        len(apart),
        len(differing),
        max(apart.values(), default=0.0),
        allowed.most,
        allowed.expected,
        first,
        pair,
    )


def order_row(both: Both, pairs: list[Pair], allowed: Allowed) -> Row:
    """Whether each query's documents come in the same order, those too close to tell aside."""
    by_query: dict[str, list[tuple[int, Float32, Float32]]] = defaultdict(list)
    for place, a, b in both:
        if a.scores is not None and b.scores is not None:
            by_query[pairs[place][0]].append((place, a.scores, b.scores))
    several = {query: found for query, found in by_query.items() if len(found) > 1}
    firsts = [next(_swapped(found, allowed.most), None) for found in several.values()]
    broken = [said for said in firsts if said is not None]
    return Row("order", len(several), len(broken), first=broken[0] if broken else None)


def _swapped(found: list[tuple[int, Float32, Float32]], tolerance: float) -> Iterator[str]:
    for place, ours, theirs in found:
        for other, our_other, their_other in found:
            if np.any((theirs > their_other + 2 * tolerance) & (ours < our_other)):
                yield f"such as pair {place + 1}, which comes after pair {other + 1}"


def _first_id(ours: Reading, theirs: Reading, name: str) -> str | None:
    """Where the ids of a pair begin to differ, in words; None if they do not."""
    parts = ("query", "document") if len(ours.tokens) > 1 else ("",)
    for part, a, b in zip(parts, ours.tokens, theirs.tokens, strict=True):
        if np.array_equal(a, b):
            continue
        where = f"{part} token" if part else "token"
        common = min(len(a), len(b))
        differing = np.flatnonzero(a[:common] != b[:common])
        if not len(differing):
            return f"{len(a)} {where}s where {name} has {len(b)}"
        at = int(differing[0])
        return f"{where} {at + 1}: {a[at]} where {name} has {b[at]}"
    return None


def _apart(ours: list[Float32], theirs: list[Float32]) -> float:
    """The largest difference; infinite where shapes differ or one of two is no number."""
    largest = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            return float("inf")
        with np.errstate(invalid="ignore"):
            each = np.abs(a.astype(np.float64) - b)
        each[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
        each[np.isnan(each)] = np.inf
        largest = max(largest, float(each.max(initial=0.0)))
    return largest


def _by(apart: float) -> str:
    return f"by {apart:.2g}" if np.isfinite(apart) else "in size, or in what is finite"
