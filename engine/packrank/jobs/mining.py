"""Finished rows of queries with positives to rows of hard negatives."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from packrank.errors import InputError
from packrank.jobs.lookup import Texts
from packrank.jobs.negatives import Form, Rules, mine
from packrank.jobs.output import Finished
from packrank.records.shapes import Asked, Problem, Shape

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

    def positives(self, shape: Shape, columns: Mapping[str, bool]) -> str | None:
        """The column that says what is positive; None of training lines, which have theirs.

        Raises:
            InputError: there is none.
        """
        if len(shape.documents) > 1 or shape.documents[0].column == "pos":
            return None
        is_list = not shape.is_pairs
        usual = _POSITIVES if is_list else _LABELS
        name = self.column or next((one for one in usual if one in columns), None)
        if name is None or name not in columns or columns[name] != is_list:
            what = "a list of a query's positives" if is_list else "labels, above 0 of a positive"
            raise InputError(
                f"hard negatives are told from positives, and there is no column of {what} "
                f"({', '.join(usual)}); name it by --positive-column"
            )
        return name

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
        leave_out: is told of a query without hard negatives, and why.
    """

    mining: Mining
    shape: Shape
    positives: str | None
    queries: Texts | None
    documents: Texts | None
    leave_out: Callable[[str, str], None]

    def rows(self, query: object, candidates: Iterable[Candidate]) -> Iterator[dict[str, Any]]:
        """Rows of a query."""
        found = [one for one in candidates if not np.isnan(one.score)]
        names = _named(self.documents, [one.name for one in found])
        [text] = _named(self.queries, [str(query)])
        positives = [n for n, one in enumerate(found) if one.is_positive]
        others = [n for n, one in enumerate(found) if not one.is_positive]
        if not positives:
            self.leave_out(f"query {query}", "none of its positives has a score")
            return
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
            few = f"{len(mined.negatives)} of its candidates are far enough behind its positives"
            self.leave_out(f"query {query}", few)
        yield from rows

    def candidates_of_list(self, one: Finished, label: int) -> list[Candidate]:
        """Those of a row that is a query."""
        asked, _ = self.shape.pairs(one.row.value)
        known = one.row.value.get(self.positives) if self.positives is not None else None
        positives = {str(name) for name in known} if isinstance(known, list) else set()
        sides = [
            side.column
            for side in self.shape.documents
            for _ in one.row.value.get(side.column) or ()
        ]
        return [
            Candidate(pair.document, score, side == "pos" or pair.document in positives)
            for pair, score, side in zip(asked, one.scores[:, label].tolist(), sides, strict=True)
            if isinstance(pair, Asked)
        ]

    def candidates_of_pairs(self, rows: Sequence[Finished], label: int) -> list[Candidate]:
        """Those of rows of one query."""
        found = []
        for one in rows:
            [pair], _ = self.shape.pairs(one.row.value)
            if isinstance(pair, Asked):
                is_positive = _is_positive(one.row.value.get(self.positives))
                found.append(Candidate(pair.document, float(one.scores[0, label]), is_positive))
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
        return False
