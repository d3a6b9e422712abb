"""Finished rows of queries with positives to rows of hard negatives."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from packrank.errors import InputError
from packrank.jobs.lookup import Texts
from packrank.jobs.negatives import Form, Rules, mine
from packrank.jobs.output import Finished
from packrank.records.shapes import Asked, Problem, Shape, Side

# Columns that say what is positive, by shape: of a list its positives, of a pair its label.
_POSITIVES = ("positive_ids", "positives")
_LABELS = ("label", "labels", "relevance")


class Candidate(NamedTuple):
    """A document of a query.

    Attributes:
        name: its text or id.
        score: of it; NaN where there is none.
        is_positive: whether it answers the query.
    """

    name: str
    score: float
    is_positive: bool


@dataclass(frozen=True)
class Mining:
    """How hard negatives are mined of scored rows.

    Attributes:
        rules: which candidates are taken.
        form: of the rows that are written.
        column: that says what is positive; None: `pos` of training lines, else the usual names.
    """

    rules: Rules
    form: Form
    column: str | None = None

    def shape(self, shape: Shape, columns: Mapping[str, bool]) -> tuple[Shape, str | None]:
        """The shape that is scored, positives of lists included.

        And the column that says what is positive: of pairs their label, else a list; None of
        training lines, which have theirs.

        Raises:
            InputError: there is none.
        """
        if len(shape.documents) > 1:
            if self.column is not None:
                raise InputError("positives of training lines are in pos; name no other column")
            return shape, None
        is_list = not shape.is_pairs
        usual = _POSITIVES if is_list else _LABELS
        name = self.column or next((one for one in usual if one in columns), None)
        if name is None or name not in columns or columns[name] != is_list:
            what = "a list of a query's positives" if is_list else "labels, above 0 of a positive"
            raise InputError(
                f"hard negatives are told from positives, and there is no column of {what} "
                f"({', '.join(usual)}); name it by --positive-column"
            )
        if not is_list:
            return shape, name
        [side] = shape.documents
        positives = Side(name, side.by_id, is_list=True, scores=f"{name}_scores")
        return replace(shape, documents=(side, positives)), name

    def types(self, pyarrow: Any) -> dict[str, Any]:
        """Columns of the rows, and what each holds."""
        text, score = pyarrow.string(), pyarrow.float32()
        name, form = self.form.name, self.form
        lists = name == "labeled-list"
        found = {form.anchor: text, form.positive: pyarrow.list_(text) if lists else text}
        with_scores = form.scores or name == "n-tuple-scores"
        if name == "triplet":
            found["negative"] = text
        elif name.startswith("n-tuple"):
            found |= {f"negative_{n + 1}": text for n in range(self.rules.number)}
        elif not with_scores:
            found |= (
                {"labels": pyarrow.list_(pyarrow.int64())} if lists else {"label": pyarrow.int64()}
            )
        if with_scores:
            single = name == "labeled-pair"
            found["score" if single else "scores"] = score if single else pyarrow.list_(score)
        return found


@dataclass(frozen=True)
class Miner:
    """Mines one query after the other.

    Attributes:
        mining: how.
        shape: of the rows.
        positives: the column that says what is positive; None of training lines.
        queries: texts of queries, where rows have ids; None: they have texts, or there are none.
        documents: the same of documents.
        leave_out: is told of a query whose negatives cannot be told, and why.
        few: is called for a query that has too few.
    """

    mining: Mining
    shape: Shape
    positives: str | None
    queries: Texts | None
    documents: Texts | None
    leave_out: Callable[[str, str], None]
    few: Callable[[], None]

    def rows(self, query: object, candidates: Iterable[Candidate]) -> Iterator[dict[str, Any]]:
        """Rows of a query."""
        every = list(candidates)
        found = [one for one in every if not np.isnan(one.score)]
        positives = [n for n, one in enumerate(found) if one.is_positive]
        others = [n for n, one in enumerate(found) if not one.is_positive]
        if not positives or any(one.is_positive for one in every if np.isnan(one.score)):
            what = "one of its positives" if positives else "none of its positives"
            self.leave_out(f"query {query}", f"{what} has {'no' if positives else 'a'} score")
            return
        names = _named(self.documents, [one.name for one in found])
        [text] = _named(self.queries, [str(query)])
        scores = np.array([one.score for one in found], dtype=np.float32)
        rules = self.mining.rules
        if rules.range_max is None:  # all that were scored may be negatives
            rules = replace(rules, range_max=max(len(found), rules.range_min + rules.number))
        try:
            mined = mine(
                text,
                [names[n] for n in positives],
                scores[positives],
                [names[n] for n in others],
                scores[others],
                rules,
            )
        except InputError as error:
            self.leave_out(f"query {query}", str(error))
            return
        rows = self.mining.form.rows(mined)
        if not rows:
            self.few()
        yield from rows

    def candidates_of_list(self, one: Finished, label: int) -> list[Candidate]:
        """Those of a row that is a query."""
        asked, _ = self.shape.pairs(one.row.value)
        sizes = self.shape.sizes(one.row.value)
        sides = [
            side.column
            for side, size in zip(self.shape.documents, sizes, strict=True)
            for _ in range(size)
        ]
        positives = "pos" if self.positives is None else self.positives
        return [
            Candidate(pair.document if isinstance(pair, Asked) else "", score, side == positives)
            for pair, score, side in zip(asked, one.scores[:, label].tolist(), sides, strict=True)
        ]

    def candidates_of_pairs(self, rows: Sequence[Finished], label: int) -> list[Candidate]:
        """Those of rows of one query.

        Raises:
            InputError: a label is no number.
        """
        found = []
        for one in rows:
            [pair], _ = self.shape.pairs(one.row.value)
            name = pair.document if isinstance(pair, Asked) else ""
            value = one.row.value if isinstance(one.row.value, Mapping) else {}
            is_positive = _is_positive(value.get(self.positives, 0))
            found.append(Candidate(name, float(one.scores[0, label]), is_positive))
        return found


def _named(texts: Texts | None, names: list[str]) -> list[str]:
    """Texts of ids, as far as they are known."""
    if texts is None:
        return names
    found = texts.find(names)
    return [name if isinstance(found[name], Problem) else str(found[name]) for name in names]


def _is_positive(label: object) -> bool:
    try:
        return float(label) > 0  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InputError(f"a label is {label!r}, expected a number, above 0 if positive") from None
