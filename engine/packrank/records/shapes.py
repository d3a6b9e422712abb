"""What rows to be scored look like: which of their columns are queries, and which documents.

| shape | a row is | and has | and gains |
|---|---|---|---|
| pairs | a pair | a query and a document, each as a text or by its id | `score` |
| lists | a query | a query, and a list of documents | `scores`, a list as long |
| training | a query | `query`, `pos`, `neg`, as of FlagEmbedding | `pos_scores`, `neg_scores` |

A line of a TREC run is a pair by ids. Sources: `KDProcessing` of PyLate and `util.resolve_ids` of
sentence-transformers read lists by ids, `scores` among them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from packrank.arguments import check_text
from packrank.errors import InputError
from packrank.records.record import Kind, id_of, shown

# Columns by what they are, the first that is there.
_QUERY_IDS = ("query_id", "qid")
_DOCUMENT_IDS = ("document_id", "doc_id", "docid", "pid", "passage_id")
_LIST_IDS = ("document_ids", "doc_ids", "docids", "passage_ids")
LISTS = ("documents", *_LIST_IDS)
_QRELS = {"query-id", "corpus-id"}


class Problem(NamedTuple):
    """Why something cannot be scored.

    Attributes:
        kind: in a word or two, to be counted by.
        reason: in a sentence.
    """

    kind: str
    reason: str


class Asked(NamedTuple):
    """A pair that a row asks for.

    Attributes:
        query: a text, or an id.
        document: a text, or an id.
    """

    query: str
    document: str


@dataclass(frozen=True)
class Side:
    """Where a row has one side of its pairs.

    Attributes:
        column: its name.
        by_id: whether it holds ids, and texts lie elsewhere.
        is_list: whether it holds a list of them.
        scores: the column that its scores go to; "" of a query.
        is_optional: whether a row need not have it.
        has_title: whether the row's "title" goes before it.
    """

    column: str
    by_id: bool = False
    is_list: bool = False
    scores: str = ""
    is_optional: bool = False
    has_title: bool = False


@dataclass(frozen=True)
class Shape:
    """Which columns of a row are scored.

    Attributes:
        query: the one of queries.
        documents: those of documents.
    """

    query: Side
    documents: tuple[Side, ...]

    @property
    def is_pairs(self) -> bool:
        """Whether a row is one pair, whatever it holds."""
        return not self.documents[0].is_list

    @property
    def kind(self) -> Kind:
        """What a file of such rows is a list of."""
        sides = (self.query, *self.documents)
        one = [side for side in sides if not side.is_list]
        many = [side for side in sides if side.is_list]
        needed = [side for side in many if not side.is_optional]
        return Kind(
            "pair" if self.is_pairs else "query",
            tuple(side.column for side in one if not side.by_id),
            tuple(side.column for side in one if side.by_id),
            lists=tuple(side.column for side in needed if not side.by_id),
            id_lists=tuple(side.column for side in needed if side.by_id),
            is_run=self.is_pairs,
        )

    def size(self, value: object) -> int:
        """How many scores a row gets, whatever becomes of them."""
        return sum(self.sizes(value))

    def sizes(self, value: object) -> list[int]:
        """The same, of each of the columns of documents."""
        if self.is_pairs:
            return [1]
        held = value if isinstance(value, Mapping) else {}
        lists = [held.get(side.column) for side in self.documents]
        return [len(found) if isinstance(found, list) else 0 for found in lists]

    def query_of(self, value: object) -> str | None:
        """The text or id of a row's query; None if it has none that can be used."""
        try:
            held = value if isinstance(value, Mapping) else {}
            return _one(held.get(self.query.column), self.query, held)
        except _Refused:
            return None

    def place(self, value: object, slot: int) -> str:
        """Which element of which list one of a row's scores is of, counted from 1."""
        for side, count in zip(self.documents, self.sizes(value), strict=True):
            if slot < count:
                return f"{side.column} {slot + 1}"
            slot -= count
        raise AssertionError("a slot is of one of the lists")

    def pairs(self, value: object) -> tuple[list[Asked | Problem], Problem | None]:
        """What a row asks for, as many as its `size`, and what is wrong with all of it.

        Args:
            value: the row, an object.
        """
        try:
            if not isinstance(value, Mapping):
                raise _Refused("not an object", "it is no object")
            query = _one(value.get(self.query.column), self.query, value)
        except _Refused as refused:
            return [refused.problem] * self.size(value), refused.problem
        asked: list[Asked | Problem] = []
        whole: Problem | None = None
        for side in self.documents:
            found = value.get(side.column)
            if not side.is_list:
                asked.append(_asked(query, found, side, value))
            elif found is None and side.is_optional:
                continue
            elif isinstance(found, list):
                asked += [_asked(query, one, side, value) for one in found]
            else:
                whole = _wrong(side.column, found, "a list")
        return asked, whole


def shape_of(
    columns: Mapping[str, bool],
    *,
    query: str | None = None,
    document: str | None = None,
    queries_by_id: bool = False,
    documents_by_id: bool = False,
    scores: str | None = None,
) -> Shape:
    """The shape of rows that have these columns.

    Args:
        columns: names, and whether each holds lists.
        query: the column of queries, if not one of the usual names.
        document: the column of documents, or of lists of them, likewise.
        queries_by_id: texts of queries are known by id.
        documents_by_id: texts of documents are.
        scores: what the column of scores is to be called; by default "score", of lists "scores".

    Raises:
        InputError: they have no shape, or texts are needed by id and none are known.
    """
    if columns.keys() >= _QRELS:
        raise InputError(
            "these are judgements (qrels), by which a ranking is measured; score the candidates "
            "that a first stage found"
        )
    if scores in ("error", "rank"):
        raise InputError(f"a column {scores!r} is written beside the scores; choose another name")
    if query is document is None and not documents_by_id and _is_training(columns):
        if scores is not None:
            raise InputError("scores of pos and neg go to pos_scores and neg_scores; name no other")
        return Shape(Side("query"), (_training("pos"), _training("neg", is_optional=True)))
    asking = _side(columns, query, ("query",), _QUERY_IDS, queries_by_id, "queries")
    ids = (*_LIST_IDS, *_DOCUMENT_IDS)
    found = _side(columns, document, ("documents", "document"), ids, documents_by_id, "documents")
    is_list = columns[found.column]
    name = scores or ("scores" if is_list else "score")
    has_title = not is_list and "title" not in (asking.column, found.column)
    return Shape(asking, (Side(found.column, found.by_id, is_list, name, False, has_title),))


def _training(name: str, *, is_optional: bool = False) -> Side:
    return Side(name, is_list=True, scores=f"{name}_scores", is_optional=is_optional)


def _is_training(columns: Mapping[str, bool]) -> bool:
    return columns.get("query") is False and columns.get("pos") is True


def _side(
    columns: Mapping[str, bool],
    asked: str | None,
    texts: Sequence[str],
    ids: Sequence[str],
    by_id: bool,
    what: str,
) -> Side:
    """Where one side is: the column that is asked for, or the first that is there."""
    if asked is not None:
        if asked not in columns:
            raise InputError(f"there is no column {asked!r}; there are {_listed(columns)}")
        return Side(asked, by_id)
    for name in ids if by_id else texts:
        if name in columns:
            return Side(name, by_id)
    if by_id:
        known = ", ".join(map(repr, ids))
        raise InputError(
            f"--{what} has texts by id, and there is no column of their ids, {known}; there are "
            f"{_listed(columns)}"
        )
    if there := next((name for name in ids if name in columns), None):
        raise InputError(f"the column {there!r} holds ids; give a table of their texts (--{what})")
    wanted = " or ".join(map(repr, texts))
    raise InputError(
        f"there is no column {wanted}, nor one of ids; there are {_listed(columns)}; name the "
        f"column by --{'query' if what == 'queries' else 'document'}-column"
    )


def _listed(columns: Mapping[str, bool]) -> str:
    known = ", ".join(map(repr, columns)) or "none"
    return known if len(known) < 200 else f"{known[:200]} ..."


def _one(found: object, side: Side, row: Mapping[str, Any]) -> str:
    """A text or an id of a row."""
    if side.by_id:
        return _id(found, side.column)
    return _text(found, side.column, row.get("title") if side.has_title else None)


def _asked(query: str, found: object, side: Side, row: Mapping[str, Any]) -> Asked | Problem:
    try:
        return Asked(query, _one(found, side, row))
    except _Refused as refused:
        return refused.problem


def _id(found: object, name: str) -> str:
    if found is None:
        raise _Refused("no id", f'there is no "{name}"')
    try:
        return id_of({name: found}, name)
    except InputError as error:
        raise _Refused("wrong type", str(error)) from None


def _text(found: Any, name: str, title: object) -> str:
    if isinstance(found, Mapping):
        found, title = found.get("text"), found.get("title")
    if found is None:
        raise _Refused("no text", f'there is no "{name}", or it is null')
    for part, of in ((found, name), (title, "title")):
        if part is not None and not isinstance(part, str):
            raise _Refused(*_wrong(of, part, "a text"))
    assert isinstance(found, str)
    text = found if title is None else f"{title} {found}".strip()
    if not text.strip():
        raise _Refused("empty text", f'"{name}" is empty')
    try:
        check_text(text)
    except InputError as error:
        raise _Refused("not Unicode", str(error)) from None
    return text


def _wrong(name: str, found: object, expected: str) -> Problem:
    if found is None:
        return Problem("no text", f'there is no "{name}", or it is null')
    return Problem("wrong type", f'"{name}" is {shown(found)}, expected {expected}')


class _Refused(Exception):
    """Ends the reading of one side of a row."""

    def __init__(self, kind: str, reason: str) -> None:
        self.problem = Problem(kind, reason)
