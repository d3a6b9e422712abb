"""A file of documents to a store of token embeddings."""

import os

from torch import Tensor
from tqdm import tqdm

from packrank.errors import InputError, StoreError
from packrank.jobs.adding import Added, add_file
from packrank.jobs.codec import codec_for
from packrank.jobs.documents import Documents
from packrank.jobs.pace import Pace
from packrank.late.encoder import finite_vectors
from packrank.late.identity import Identity
from packrank.late_interaction import LateInteraction
from packrank.stores.appender import Appender
from packrank_kernels import BITS


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
) -> Added:
    """Encode documents into a store, which is made if it is not there: see `add_file`.

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
    with documents.open() as file, Appender(store) as writer:
        old = writer.manifest
        if old is not None:
            model.check_store(old.model, old.size, store, str(identity["name"]))
        chosen = (format or "int8") if old is None else old.format
        _check_options(chosen, model.size, store, format, centroids)

        def create() -> None:
            codec = None
            if chosen in BITS:
                bar.set_description_str("training the codec")
                codec = codec_for(model, documents, BITS[chosen], centroids)
                bar.set_description_str()
            writer.create(chosen, model.size, identity, codec)

        def vectors(texts: list[str], cut: set[str]) -> tuple[list[Tensor | None], dict[int, str]]:
            return finite_vectors(model, texts, chosen, cut)

        pace = Pace(model.device, model.document_length)
        return add_file(
            writer, documents, file, bar, pace, create, vectors, append=append, keep=keep
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
