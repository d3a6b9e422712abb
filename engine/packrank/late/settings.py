"""What a late-interaction folder asks for, whichever format it is written in."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path


@dataclass(frozen=True)
class Side:
    """How the texts of one side, queries or documents, become sequences of scored tokens.

    Attributes:
        max_length: most tokens, special ones and the marker included; a text is cut to fit. That
            of queries may exceed `Expansion.length`: longer queries are then read whole.
        prompt: put before every text.
        marker: the token put after the first one, None if there is none.
        skipped: tokens that are read but not scored.
        refilled: a token that becomes the one of `Expansion` where a text has it.
        strips: whether blanks around prompt and text together are dropped.
        lowers: whether both are read in lower case, special tokens that they spell included.
    """

    max_length: int
    prompt: str = ""
    marker: int | None = None
    skipped: frozenset[int] = frozenset()
    refilled: int | None = None
    strips: bool = False
    lowers: bool = False

    def read(self, text: str) -> str:
        """What the tokenizer is given of a text."""
        whole = self.prompt + text
        if self.strips:
            whole = whole.strip()
        return whole.lower() if self.lowers else whole

    def span(self, text: str, start: int, stop: int) -> tuple[int, int]:
        """The characters of prompt and text together that some of `read(text)` stand for."""
        whole = self.prompt + text
        before = len(whole) - len(whole.lstrip()) if self.strips else 0
        if self.lowers:
            # A character may be several in lower case.
            ends = list(accumulate(len(c.lower()) for c in whole[before:]))
            first = bisect_right(ends, start)
            start, stop = first, bisect_left(ends, stop) + 1 if stop > start else first
        return before + start, before + stop


@dataclass(frozen=True)
class Expansion:
    """Filling of short queries with one token, whose vectors are scored like the others.

    Attributes:
        length: tokens that a query has at least; it may have more, up to the `max_length` of its
            side, where sentence-transformers' strategy is "min".
        token_id: what it is filled with.
        attend: whether the other tokens, and themselves, see the fillers as keys.
    """

    length: int
    token_id: int
    attend: bool


@dataclass(frozen=True)
class Dense:
    """One layer of the projection: activation(x weightᵀ + bias), plus the residual if any.

    Attributes:
        folder: holds its weights.
        config: the file that gives its sizes.
        in_features: size of x.
        out_features: size of the result.
        bias: whether there is one.
        activation: as `packrank_kernels.linear` takes it.
        residual: whether x (times "residual.weight" where the sizes differ) is added.
    """

    folder: Path
    config: Path
    in_features: int
    out_features: int
    bias: bool = False
    activation: str | None = None
    residual: bool = False


@dataclass(frozen=True)
class Settings:
    """All that a late-interaction folder says beyond its encoder.

    Attributes:
        kind: "Stanford ColBERT", "PyLate", "sentence-transformers" or "encoder".
        query: layout of queries.
        document: layout of documents.
        expansion: None where queries keep their length.
        projection: layers applied to every token vector, in order.
        normalize: whether token vectors are brought to length 1.
        mean: whether a score is divided by the number of query tokens.
        lower_case: whether the tokenizer reads texts in lower case, but for special tokens.
    """

    kind: str
    query: Side
    document: Side
    expansion: Expansion | None = None
    projection: tuple[Dense, ...] = ()
    normalize: bool = True
    mean: bool = False
    lower_case: bool = False
