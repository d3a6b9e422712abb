"""Hard negatives of one query, as sentence-transformers' mine_hard_negatives chooses them."""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.arguments import check_choice, check_str, check_text
from packrank.errors import InputError

FORMS = ("triplet", "n-tuple", "n-tuple-scores", "labeled-pair", "labeled-list")
SAMPLINGS = ("top", "random")

_NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(%?)")
# Columns that a form may add, which names of the first two must not hide.
_ADDED = re.compile(r"negative(_[0-9]+)?|labels?|scores?")


@dataclass(frozen=True)
class Rules:
    """Which candidates may be negatives, and which of those are taken.

    A margin is what a negative is behind the lowest of all positives of its query. Comparisons are
    in float32, and a negative exactly at a limit is kept.

    Attributes:
        number: how many negatives are wanted of a query, at least 1.
        absolute_margin: a negative's score is at least that much lower, at least 0; or None.
        relative_margin: the same, as a share of the lowest positive's magnitude: 0.05 is 5 %.
        min_score: of a negative, or None.
        max_score: of a negative, or None.
        range_min: how many of the best that may be negatives are passed over, at least 0.
        range_max: how many of the best are looked at, beside as many as there are positives;
            range_min + number at least. None is range_min + number + positives, with ten times
            number where a limit may drop some.
        most_positives: as many positives are counted for a query that has fewer. The most of any
            query of a file makes ranges those of mine_hard_negatives over the file.
        in_order: range_max counts candidates as they come, best first of whatever found them, as
            where mine_hard_negatives has a cross_encoder; otherwise by score.
        sampling: "top", the best of them, or "random".
        seed: of "random".

    Raises:
        InputError: a value is none of these.
    """

    number: int = 3
    absolute_margin: float | None = None
    relative_margin: float | None = None
    min_score: float | None = None
    max_score: float | None = None
    range_min: int = 0
    range_max: int | None = None
    most_positives: int = 0
    in_order: bool = False
    sampling: str = "top"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_whole("number of negatives", self.number, 1)
        _check_whole("range_min", self.range_min, 0)
        if self.range_max is not None:
            _check_whole("range_max", self.range_max, self.range_min + self.number)
        _check_whole("most_positives", self.most_positives, 0)
        _check_whole("seed", self.seed, None)
        for name in ("absolute_margin", "relative_margin", "min_score", "max_score"):
            _check_number(name, getattr(self, name), 0 if name.endswith("margin") else -math.inf)
        low, high = self.min_score, self.max_score
        if low is not None and high is not None and low > high:
            raise InputError(
                f"min_score is {low} and max_score {high}: no score is between; swap them"
            )
        if not isinstance(self.in_order, bool):
            raise InputError(f"in_order is {self.in_order!r}, expected True or False")
        check_choice("sampling", self.sampling, SAMPLINGS)

    def ends(self, positives: int) -> tuple[int, int]:
        """Where the range ends without the positives of a query that has so many, and with them."""
        positives = max(positives, self.most_positives)
        if self.range_max is not None:
            return self.range_max, self.range_max + positives
        limits = (self.absolute_margin, self.relative_margin, self.max_score)
        drops = self.in_order or any(limit is not None for limit in limits)
        end = self.range_min + self.number * (10 if drops else 1) + positives
        return end, end + positives


@dataclass(frozen=True)
class Mined:
    """A query's positives, each once, and its negatives, which are those of every positive.

    Attributes:
        query: its text.
        positives: in the order given.
        positive_scores: of these.
        negatives: best first.
        negative_scores: of these.
        places: of these among the candidates.
        complete: there are as many as were wanted.
    """

    query: str
    positives: list[str]
    positive_scores: list[float]
    negatives: list[str]
    negative_scores: list[float]
    places: list[int]
    complete: bool


@dataclass(frozen=True)
class Form:
    """What rows of mined negatives look like.

    Attributes:
        name: one of FORMS. "n-tuple-scores" is "n-tuple" with scores.
        scores: also a column of scores, which of labelled forms takes the labels' place.
        anchor: the column of queries.
        positive: the column of positives, in labelled forms of documents.

    Raises:
        InputError: a form that is none, or two columns of one name.
    """

    name: str = "triplet"
    scores: bool = False
    anchor: str = "anchor"
    positive: str = "positive"

    def __post_init__(self) -> None:
        check_choice("form", self.name, FORMS)
        for column in (self.anchor, self.positive):
            check_str("the name of a column", column)
            if _ADDED.fullmatch(column):
                raise InputError(f"a column {column!r} is what the rows add; choose another name")
        if self.anchor == self.positive:
            raise InputError(
                f"queries and positives are both in a column {self.anchor!r}; choose another name "
                "for one"
            )

    def rows(self, mined: Mined) -> list[dict[str, Any]]:
        """The rows of a query, none where the form leaves it out.

        triplet: a row for every positive and negative, {anchor, positive, negative, [scores]}.
        n-tuple: a row for every positive, {anchor, positive, negative_1 ..., [scores]}, of a query
            that has as many negatives as were wanted.
        labeled-pair: a row for every positive, then for every negative, {anchor, positive, label
            or score}; of a query without negatives its positives alone.
        labeled-list: a row for every positive, {anchor, positive: [it and all negatives], labels
            or scores}, of a query that has negatives.
        """
        if self.name == "triplet":
            return self._triplets(mined)
        if self.name == "labeled-pair":
            return self._pairs(mined)
        if self.name == "labeled-list":
            return self._lists(mined)
        return self._tuples(mined)

    def _triplets(self, mined: Mined) -> list[dict[str, Any]]:
        rows = []
        for text, score in zip(mined.positives, mined.positive_scores, strict=True):
            for negative, lower in zip(mined.negatives, mined.negative_scores, strict=True):
                row: dict[str, Any] = self._row(mined.query, text) | {"negative": negative}
                rows.append(row | ({"scores": [score, lower]} if self.scores else {}))
        return rows

    def _tuples(self, mined: Mined) -> list[dict[str, Any]]:
        if not mined.complete:
            return []
        with_scores = self.scores or self.name == "n-tuple-scores"
        negatives = {f"negative_{i}": text for i, text in enumerate(mined.negatives, 1)}
        rows = []
        for text, score in zip(mined.positives, mined.positive_scores, strict=True):
            scores = {"scores": [score, *mined.negative_scores]} if with_scores else {}
            rows.append(self._row(mined.query, text) | negatives | scores)
        return rows

    def _pairs(self, mined: Mined) -> list[dict[str, Any]]:
        texts = mined.positives + mined.negatives
        scores = mined.positive_scores + mined.negative_scores
        labels = [1] * len(mined.positives) + [0] * len(mined.negatives)
        name, values = ("score", scores) if self.scores else ("label", labels)
        return [
            self._row(mined.query, text) | {name: value}
            for text, value in zip(texts, values, strict=True)
        ]

    def _lists(self, mined: Mined) -> list[dict[str, Any]]:
        if not mined.negatives:
            return []
        rows = []
        for text, score in zip(mined.positives, mined.positive_scores, strict=True):
            row = self._row(mined.query, [text, *mined.negatives])
            scores = [score, *mined.negative_scores]
            labels = [1] + [0] * len(mined.negatives)
            rows.append(row | ({"scores": scores} if self.scores else {"labels": labels}))
        return rows

    def _row(self, query: str, documents: str | list[str]) -> dict[str, Any]:
        return {self.anchor: query, self.positive: documents}


def mine(
    query: str,
    positives: Sequence[str],
    positive_scores: NDArray[np.float32],
    candidates: Sequence[str],
    scores: NDArray[np.float32],
    rules: Rules,
) -> Mined:
    """The negatives of one query, as mine_hard_negatives takes them of the same scores.

    No positive is a negative, of equal texts the first that has a score counts, and all positives
    of a query have the same negatives. A positive that is no candidate still takes its place in
    the range, as there, where candidates are those of a corpus that has the positives too.

    It differs where that asks for more than one query, or leaves a result open:
        - the range leaves room for this query's positives, or most_positives, there for as many as
          any query has;
        - "random" draws by seed and query, there by the state of `random` from query to query;
        - of equal scores the earlier candidate is first, there it is any;
        - there a cross_encoder is not asked where neither a margin, min_score nor max_score is set.

    Args:
        query: its text.
        positives: at least one; texts, or ids where each text has one id.
        positive_scores: of these, [P] float32, finite.
        candidates: likewise, [N].
        scores: of these, [N] float32; NaN is of one without a score, as if it was not there.
        rules: which are taken.

    Raises:
        InputError: no positive, one without a score, an infinite score, or another number of
            scores than of texts.
    """
    check_str("the query", query)
    check_text(query, "query")
    high = _checked("positives", positives, positive_scores)
    low = _checked("candidates", candidates, scores)
    if len(positives) == 0:
        raise InputError("the query has no positive, which its negatives are told from; add one")
    if np.isnan(high).any():
        place = int(np.flatnonzero(np.isnan(high))[0])
        raise InputError(f"positive {place} has no score; score it, or leave it out")

    texts, every = [*candidates, *positives], np.concatenate([low, high])
    found = _firsts(texts, np.flatnonzero(~np.isnan(every)))
    if not rules.in_order:
        found = _best_first(found, every)
    end, end_with_positives = rules.ends(len(positives))
    within, own = _within(every, high.min(), rules), set(positives)
    left = [
        place
        for place in found[:end_with_positives].tolist()
        if within[place] and texts[place] not in own
    ]
    best = _best_first(np.array(left, np.int64), every)[rules.range_min : end].tolist()
    if rules.sampling == "random":
        best = [best[place] for place in _drawn(len(best), query, rules)]
    places: list[int] = best[: rules.number]

    kept = _firsts(positives, np.arange(len(positives))).tolist()
    return Mined(
        query=query,
        positives=[positives[place] for place in kept],
        positive_scores=high[kept].tolist(),
        negatives=[candidates[place] for place in places],
        negative_scores=every[places].tolist(),
        places=places,
        complete=len(places) == rules.number,
    )


def margin(text: str) -> tuple[float | None, float | None]:
    """What a command's user says of a margin, as (absolute, relative): 0.1, or 5% for 0.05.

    Raises:
        InputError: it is neither.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise InputError(
            f"the margin is {text!r}, expected a number such as 0.1, or a share of the positive's "
            "score such as 5%"
        )
    return (None, float(f"{match[1]}e-2")) if match[2] else (float(match[1]), None)


def _firsts(texts: Sequence[str], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of places those whose text none of the earlier ones has."""
    seen: dict[str, int] = {}
    for place in places.tolist():
        seen.setdefault(texts[place], place)
    return np.array(list(seen.values()), np.int64)


def _best_first(places: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.int64]:
    return places[np.argsort(-scores[places], kind="stable")]


def _within(scores: NDArray[np.float32], lowest: np.float32, rules: Rules) -> NDArray[np.bool_]:
    """Which scores are within all limits."""
    within = np.ones(len(scores), np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):  # a huge limit is infinite in float32
        if rules.absolute_margin is not None:
            within &= scores + np.float32(rules.absolute_margin) <= lowest
        if rules.relative_margin is not None:
            within &= scores <= lowest - np.abs(lowest) * np.float32(rules.relative_margin)
        if rules.max_score is not None:
            within &= scores <= np.float32(rules.max_score)
        if rules.min_score is not None:
            within &= scores >= np.float32(rules.min_score)
    return within


def _drawn(count: int, query: str, rules: Rules) -> list[int]:
    """Places below count, ascending: as many as are wanted, or all."""
    generator = random.Random(f"{rules.seed} {query}")
    places = generator.sample(range(max(count, rules.number)), rules.number)
    return sorted(place for place in places if place < count)


def _checked(name: str, texts: Sequence[str], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    values = np.asarray(scores, np.float32)
    if values.shape != (len(texts),):
        raise InputError(
            f"scores of {name} have shape {list(values.shape)}, expected [{len(texts)}]: one each"
        )
    if np.isinf(values).any():
        place = int(np.flatnonzero(np.isinf(values))[0])
        raise InputError(f"place {place} of {name} has an infinite score; leave it out")
    return values


def _check_whole(name: str, value: Any, least: int | None) -> None:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or (least is not None and value < least):
        of_at_least = "" if least is None else f" of at least {least}"
        raise InputError(f"{name} is {value!r}, expected a whole number{of_at_least}")


def _check_number(name: str, value: Any, least: float) -> None:
    if value is None:
        return
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < least:
        of_at_least = "" if least == -math.inf else f" of at least {least}"
        raise InputError(f"{name} is {value!r}, expected a number{of_at_least}, or None")
