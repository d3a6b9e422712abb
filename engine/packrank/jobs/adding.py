"""A file of documents into a store, a window of lines at a time; goes on where it was stopped.

What is added is committed every few seconds. The bytes of a store follow from the documents
alone, however often it was stopped on the way, and however fast the machine is.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from tqdm import tqdm

from packrank.checkpoint.files import shown
from packrank.errors import InputError
from packrank.jobs.documents import Documents, Taken, go_on, name_of, next_window
from packrank.jobs.pace import Pace
from packrank.records.file import RecordFile, nothing_in
from packrank.records.record import Record
from packrank.stores.appender import Appender

# Texts to the rows that a store keeps of each, and index -> reason of those that have none; texts
# that were cut go into the set.
Make = Callable[[list[str], set[str]], tuple[Sequence[Tensor | None], Mapping[int, str]]]


@dataclass(frozen=True)
class Added:
    """What adding a file to a store came to.

    Attributes:
        documents: added now.
        tokens: of those.
        failures: (number, reason) of the first records that were left out now.
        num_failed: how many of the file were left out, now and before.
        part: what a record is of the file; see `Record`.
        begun: parts of the file that had been added before.
        num_cut: documents of those that were longer than the model reads them, encoded in part.
        num_cut_in_all: the same of the store; None where nobody counted before.
        bytes_per_token: of the store, codec and offsets not counted.
        seconds: from the first record to the last commit, training included.
    """

    documents: int
    tokens: int
    failures: list[tuple[int, str]]
    num_failed: int
    part: str
    begun: int
    num_cut: int
    num_cut_in_all: int | None
    bytes_per_token: float
    seconds: float


def add_file(
    writer: Appender,
    documents: Documents,
    file: RecordFile,
    bar: "tqdm[None]",
    pace: Pace,
    create: Callable[[], object],
    make: Make,
    *,
    append: bool,
    keep: int,
) -> Added:
    """Add documents to a store, those of a file that it does not have yet.

    The id of a document without one is the number of its line, counted on from file to file. If
    the file begins with the lines that were added last, what follows them is added; of a file
    that was added whole before the last one, nothing.

    Args:
        writer: of the store.
        documents: the file.
        file: the same, opened.
        bar: moves by one a record.
        pace: how much is made at once.
        create: makes the store where there is none; called when there is something to add.
        make: what is kept of documents.
        append: any other file, whole; it is refused otherwise.
        keep: most failures to return.

    Raises:
        StoreError: the store cannot be written, or has lines of another file.
        InputError: the file holds no document.
        OSError: the file cannot be read.
    """
    start = time.perf_counter()
    old = writer.manifest
    taken = go_on(old, documents, file, writer.path, append)
    begun = taken.lines
    bar.initial = bar.last_print_n = bar.n = begun  # of an earlier run, so no part of the rate
    records = file.records(taken)
    failures: list[tuple[int, str]] = []
    num_cut = 0
    while window := next_window(records, pace):
        if old is None and any(record.error is None for record in window):
            create()
            # Unfinished from the start, should it be stopped before the next commit.
            old = writer.commit(Taken(file, 0, []).source(complete=False))
        with pace.kept([str(record.fields.get("text", "")) for record in window]):
            failed, cut = _add_window(writer, make, window, taken.before)
        num_cut += cut
        taken.failed += len(failed)
        failures += failed[: max(keep - len(failures), 0)]
        if old is not None and writer.is_due:
            writer.commit(taken.source(complete=False))
        bar.update(taken.lines - bar.n)
    if old is None:
        raise InputError(nothing_in(file, failures))
    new = old if taken.is_earlier else writer.commit(taken.source(complete=True))
    return Added(
        new.documents - old.documents,
        new.tokens - old.tokens,
        failures,
        taken.failed,
        file.part,
        begun,
        num_cut,
        new.cut,
        new.bytes_per_token,
        max(time.perf_counter() - start, 1e-9),
    )


def _add_window(
    writer: Appender, make: Make, window: list[Record], before: int
) -> tuple[list[tuple[int, str]], int]:
    """Append the documents of a window.

    Returns:
        (number, reason) of those that cannot be, and how many of the others were cut.
    """
    failures: list[tuple[int, str]] = []
    good: list[tuple[int, str, str]] = []  # number, id, text
    for record in window:
        try:
            if record.error is not None:
                raise InputError(record.error)
            good.append((record.number, name_of(record, before), str(record.fields["text"])))
        except InputError as error:
            failures.append((record.number, str(error)))
    if not good:
        return failures, 0
    cut: set[str] = set()
    made, reasons = make([text for _, _, text in good], cut)
    added: dict[str, Tensor] = {}
    num_cut = 0
    for index, (number, id, text) in enumerate(good):
        rows = made[index]
        if rows is None:
            failures.append((number, reasons[index]))
        elif id in added or writer.holds(id):
            known = f"the store has a document with the id {shown(id)} already"
            failures.append((number, known))
        else:
            added[id] = rows
            num_cut += text in cut
    writer.append(list(added), list(added.values()), num_cut)
    return sorted(failures), num_cut
