"""A file of documents to a store, a window of lines at a time; goes on where it was stopped.

What is encoded is committed every few seconds. The bytes of a store follow from the documents
alone, however often it was stopped on the way, and however fast the machine is.
"""

import os
import time
from dataclasses import dataclass

from torch import Tensor
from tqdm import tqdm

from packrank.checkpoint.files import shown
from packrank.errors import InputError, StoreError
from packrank.jobs.codec import codec_for
from packrank.jobs.documents import Documents, Taken, go_on, name_of, next_window
from packrank.jobs.pace import Pace
from packrank.late.encoder import finite_vectors
from packrank.late.identity import Identity
from packrank.late_interaction import LateInteraction
from packrank.records.file import nothing_in
from packrank.records.record import Record
from packrank.stores.appender import Appender
from packrank_kernels import BITS


@dataclass(frozen=True)
class Encoded:
    """What encoding a file came to.

    Attributes:
        documents: added now.
        tokens: of those.
        failures: (number, reason) of the first records that were left out now.
        num_failed: how many of the file were left out, now and before.
        part: what a record is of the file; see `Record`.
        begun: parts of the file that had been encoded before.
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


def encode_file(
    model: LateInteraction,
    identity: Identity,
    documents: Documents,
    store: str | os.PathLike[str],
    bar: "tqdm[None]",
    *,
    format: str | None = None,
    centroids: int | None = None,
    append: bool = False,
    keep: int = 20,
) -> Encoded:
    """Encode documents into a store, which is made if it is not there.

    The id of a document without one is the number of its line, counted on from file to file. If
    the file begins with the lines that were encoded last, what follows them is encoded; of a file
    that was encoded whole before the last one, nothing.

    Args:
        model: what encodes.
        identity: of the model, under the name that the store is to keep; must be that of the
            store.
        documents: the file.
        store: the folder.
        bar: moves by one a record.
        format: of a new store, int8 if None; must be that of the store if it is there.
        centroids: of a new codec; if None as many as ColBERT would take.
        append: any other file, whole; it is refused otherwise.
        keep: most failures to return.

    Raises:
        StoreError: the store cannot be written, or is of another model, format or file.
        InputError: the file holds no document, or the format does not fit the model.
        OSError: the file cannot be read.
    """
    start = time.perf_counter()
    with documents.open() as file, Appender(store) as writer:
        old = writer.manifest
        if old is not None:
            model.check_store(old.model, old.size, store, str(identity["name"]))
        chosen = (format or "int8") if old is None else old.format
        _check_options(chosen, model.size, store, format, centroids)
        taken = go_on(old, documents, file, store, append)
        begun = taken.lines
        bar.initial = bar.last_print_n = bar.n = begun  # of an earlier run, so no part of the rate
        records = file.records(taken)
        failures: list[tuple[int, str]] = []
        num_cut = 0
        pace = Pace(model.device, model.document_length)
        while window := next_window(records, pace):
            if old is None and any(record.error is None for record in window):
                codec = None
                if chosen in BITS:
                    bar.set_description_str("training the codec")
                    codec = codec_for(model, documents, BITS[chosen], centroids)
                    bar.set_description_str()
                writer.create(chosen, model.size, identity, codec)
                # Unfinished from the start, should it be stopped before the next commit.
                old = writer.commit(Taken(file, 0, []).source(complete=False))
            with pace.kept([str(record.fields.get("text", "")) for record in window]):
                failed, cut = _encode_window(writer, model, window, taken.before, chosen)
            num_cut += cut
            taken.failed += len(failed)
            failures += failed[: max(keep - len(failures), 0)]
            if old is not None and writer.is_due:
                writer.commit(taken.source(complete=False))
            bar.update(taken.lines - bar.n)
        if old is None:
            raise InputError(nothing_in(file, failures))
        new = old if taken.is_earlier else writer.commit(taken.source(complete=True))
    return Encoded(
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


def _check_options(
    chosen: str,
    size: int,
    store: str | os.PathLike[str],
    format: str | None,
    centroids: int | None,
) -> None:
    if format not in (None, chosen):
        raise StoreError(
            f"{os.fspath(store)} is of format {chosen}, and --format is {format}; leave it out, "
            "or name another store"
        )
    if centroids is not None and chosen not in BITS:
        raise InputError(f"--centroids is for formats 8bit to 1bit, not {chosen}")
    if chosen in BITS and size % (8 // BITS[chosen]):
        raise InputError(
            f"format {chosen} takes vectors of a multiple of {8 // BITS[chosen]} dimensions, and "
            f"the model makes {size}; take --format int8"
        )


def _encode_window(
    writer: Appender, model: LateInteraction, window: list[Record], before: int, format: str
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
    vectors, reasons = finite_vectors(model, [text for _, _, text in good], format, cut)
    added: dict[str, Tensor] = {}
    num_cut = 0
    for index, (number, id, text) in enumerate(good):
        vector = vectors[index]
        if vector is None:
            failures.append((number, reasons[index]))
        elif id in added or writer.holds(id):
            known = f"the store has a document with the id {shown(id)} already"
            failures.append((number, known))
        else:
            added[id] = vector
            num_cut += text in cut
    writer.append(list(added), list(added.values()), num_cut)
    return sorted(failures), num_cut
