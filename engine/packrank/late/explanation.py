"""Why a document has its score: which of its tokens each query token matched."""

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor

from packrank.request import Token


class Match(NamedTuple):
    """What one query token found.

    Attributes:
        query_token: its place in `Explanation.query_tokens`.
        document_token: place in `Explanation.document_tokens`, the first of equals; None in a
            document without vectors.
        score: what it adds to the sum, a float32.
    """

    query_token: int
    document_token: int | None
    score: float


@dataclass(frozen=True)
class Explanation:
    """Which document token each query token matched.

    Attributes:
        query: the text.
        document: the text.
        query_tokens: all that the model read, those that are not scored included.
        document_tokens: the same.
        matches: one of every scored query token, in order.
        score: as `LateInteraction.rank` has it. The sum of the matches' scores, bit for bit where
            it is float32 in the order of `packrank_kernels.maxsim`.
        mean: whether the score is that sum divided by the number of matches.
        query_cut: how many tokens of the query were left out, for its length.
        document_cut: the same of the document.
    """

    query: str
    document: str
    query_tokens: tuple[Token, ...]
    document_tokens: tuple[Token, ...]
    matches: tuple[Match, ...]
    score: float
    mean: bool = False
    query_cut: int = 0
    document_cut: int = 0

    @classmethod
    def of(
        cls,
        query: str,
        document: str,
        query_tokens: tuple[Token, ...],
        document_tokens: tuple[Token, ...],
        tokens: Tensor,
        scores: Tensor,
        score: float,
        mean: bool,
        cut: tuple[int, int] = (0, 0),
    ) -> "Explanation":
        """Put together; `tokens` and `scores` are a row [Q] each of `packrank_kernels.Matches`.

        `cut` is how many tokens of query and document were left out.
        """
        asking = [i for i, token in enumerate(query_tokens) if token.scored]
        found = [i for i, token in enumerate(document_tokens) if token.scored]
        matches = zip(asking, tokens.tolist(), scores.tolist(), strict=True)
        return cls(
            query,
            document,
            query_tokens,
            document_tokens,
            tuple(Match(i, found[j] if j >= 0 else None, value) for i, j, value in matches),
            score,
            mean,
            *cut,
        )

    @property
    def shares(self) -> dict[int, float]:
        """What each matched document token adds to the sum, by its place."""
        shares: dict[int, float] = {}
        for match in self.matches:
            if match.document_token is not None:
                place = match.document_token
                shares[place] = shares.get(place, 0.0) + match.score
        return shares

    @property
    def summary(self) -> str:
        """The score in a sentence."""
        how = "mean" if self.mean else "sum"
        cut = [
            f"; {number} tokens of the {what} were left out"
            for what, number in (("query", self.query_cut), ("document", self.document_cut))
            if number
        ]
        return f"score {self.score:.4f}, the {how} of {len(self.matches)} matches{''.join(cut)}"

    def to_dict(self) -> dict[str, Any]:
        """All of it by names, for JSON: None for -inf, of a document without token vectors."""
        fields = asdict(self)
        matches = [match._asdict() | {"score": _number(match.score)} for match in self.matches]
        return fields | {"matches": matches, "score": _number(self.score)}


def _number(score: float) -> float | None:
    return score if math.isfinite(score) else None
