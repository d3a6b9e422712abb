"""Queries of a file, each with the records that are to be ranked for it."""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from packrank.arguments import check_text
from packrank.checkpoint.files import shown
from packrank.errors import InputError
from packrank.records.file import RecordFile, nothing_in
from packrank.records.formats import Format
from packrank.records.record import QUERIES, Record, id_of
from packrank.stores.document_ids import Numbers
from packrank.stores.store import Store

# What is told of a record that cannot be used: where it is, and why.
OnFailure = Callable[[str, str], None]


@dataclass(frozen=True)
class Query:
    """A query.

    Attributes:
        text: of it.
        id: of it; None of one that comes without a file.
        place: where its file has it, for messages.
    """

    text: str
    id: str | None = None
    place: str = field(default="", compare=False)


class Request(NamedTuple):
    """A query, and records with the texts or the ids of what is to be ranked for it.

    Attributes:
        query: as it is asked.
        records: none of them has an error; None stands for all that a store holds.
    """

    query: Query
    records: Sequence[Record] | None


def read_queries(
    path: str,
    format: Format | None,
    on_failure: OnFailure,
    *,
    trec: bool = False,
    unusable: set[str] | None = None,
) -> list[Query]:
    """The queries of a file, in its order.

    Args:
        path: of records with "id" and "text"; "-" is standard input.
        format: what the file is; None: as its first bytes and its name say.
        on_failure: is told of what cannot be used.
        trec: whether ids must be such as a TREC run can hold.
        unusable: gains the ids, where they are known, of queries that cannot be used.

    Raises:
        InputError: the file is not read, or has nothing that can be used.
        OSError: it cannot be opened.
    """
    found: dict[str, Query] = {}
    wrong: list[tuple[int, str]] = []
    with RecordFile(path, QUERIES, format) as file:
        for record in file.records():
            try:
                if record.error is not None:
                    raise InputError(record.error)
                id, text = record.fields["id"], record.fields["text"]
                check_text(text)
                if id in found:
                    raise InputError(f'"id" is {shown(id)}, as of a query before')
                if trec:
                    check_trec_id(id)
                found[id] = Query(text, id, f"{file.name}, {record.place}")
            except InputError as error:
                if unusable is not None and "id" in record.fields:
                    unusable.add(str(record.fields["id"]))
                wrong.append((record.number, str(error)))
        if not found:
            raise InputError(nothing_in(file, wrong))
        for number, reason in wrong:
            on_failure(f"{file.name}, {file.part} {number}", reason)
    return list(found.values())


def requests_of(
    queries: Sequence[Query],
    file: RecordFile,
    on_failure: OnFailure,
    *,
    trec: bool = False,
    unusable: Container[str] = (),
) -> Iterator[Request]:
    """Queries in their order, each with its candidates.

    A file that can be read twice is: where it has the last candidate of each query comes first, so
    that no more is held than what comes before its turn. Of a pipe all is held.

    Args:
        queries: with ids.
        file: of records with "query", the id of one.
        on_failure: is told of candidates that cannot be used, and of queries that have none.
        trec: whether ids must be such as a TREC run can hold.
        unusable: ids of queries that cannot be used, of whose candidates nothing is told.
    """
    held: dict[str | None, list[Record]] = {query.id: [] for query in queries}

    def told(record: Record, reason: str) -> None:
        on_failure(f"{file.name}, {record.place}", reason)

    def hold(record: Record) -> None:
        id = record.fields["query"]
        if id in held:
            held[id].append(record)
        elif id not in unusable:
            told(record, of_no_query(id))

    last: dict[str, int] = {}
    if file.can_rewind:
        for record in file.records():
            if record.error is None:
                last[record.fields["query"]] = record.number
        file.rewind()
    coming, number = sound_records(file, told), 0
    for query in queries:
        while not file.can_rewind or number < last.get(str(query.id), 0):
            found = next(coming, None)
            if found is None:
                break
            number = found.number
            hold(found)
        records = held.pop(query.id)
        if trec:
            records = fit_for_trec(records, told)
        if records:
            yield Request(query, records)
        else:
            on_failure(f"query {shown(query.id)}", f"{file.name} has no candidate for it")
    for record in coming:
        hold(record)


def of_no_query(id: str) -> str:
    """Why a candidate cannot be used that names a query which is not there."""
    return f'"query" is {shown(id)}, which is the id of no query'


def sound_records(file: RecordFile, on_failure: Callable[[Record, str], None]) -> Iterator[Record]:
    """The records of a file that can be used; of the others `on_failure` is told, and why."""
    for record in file.records():
        if record.error is None:
            yield record
        else:
            on_failure(record, record.error)


def fit_for_trec(
    records: Iterable[Record], on_failure: Callable[[Record, str], None]
) -> list[Record]:
    """Those whose ids a TREC run can hold; of the others `on_failure` is told, and why."""
    found: dict[str, Record] = {}
    for record in records:
        try:
            id = trec_id(record)
            if id in found:
                raise InputError(f'"id" is {shown(id)}, as of {found[id].place} before')
            found[id] = record
        except InputError as error:
            on_failure(record, str(error))
    return list(found.values())


def of_store(
    requests: Iterable[Request], store: Store, on_failure: OnFailure, *, trec: bool = False
) -> Iterator[Request]:
    """Requests with each document of a store once; of ids that cannot be used `on_failure` is told.

    Such are those that the store does not have, or has twice, and, for a TREC run, with blanks.
    """
    for query, records in requests:
        assert records is not None
        known: dict[str, Record] = {}
        for record in records:
            id = str(record.fields["id"])
            try:
                if trec:
                    check_trec_id(id)
                store.indices([id])
                known.setdefault(id, record)
            except InputError as error:
                on_failure(f"query {shown(query.id)}, {record.place}", str(error))
        if known:
            yield Request(query, list(known.values()))


def trec_surplus(ids: Sequence[str]) -> int:
    """How many documents of a store at most a TREC run has no row for: repeated ids, or blanks."""
    if isinstance(ids, Numbers):
        return 0
    distinct = np.unique(np.fromiter(map(hash, ids), np.int64, len(ids)))
    return len(ids) - len(distinct) + sum(not is_fit_for_trec(id) for id in ids)


def trec_id(record: Record) -> str:
    """The id of a document in a TREC run; of one without its number.

    Raises:
        InputError: a run cannot hold it.
    """
    if record.fields.get("id") is None:
        return str(record.number)
    id = id_of(record.fields)
    check_trec_id(id)
    return id


def check_trec_id(id: str) -> None:
    """Raise InputError unless a TREC run, whose columns blanks divide, can hold an id."""
    check_text(id, "id")
    if not is_fit_for_trec(id):
        raise InputError(f'"id" is {shown(id)}, and blanks divide the columns of a TREC run')


def is_fit_for_trec(id: str) -> bool:
    """Whether an id has no blanks, which divide the columns of a TREC run."""
    return id.split() == [id]
