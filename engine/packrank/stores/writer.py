"""Vectors that somebody else made, into a store."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.arguments import check_choice, check_text, checked_count, checked_ids
from packrank.errors import InputError, StoreError
from packrank.stores.appender import Appender
from packrank.stores.codec_training import check_faiss, num_centroids, train_codec
from packrank.stores.given import check_finite, sample_of, vectors_of
from packrank.stores.manifest import MOST_DIMENSIONS
from packrank_kernels import BITS, FORMATS, Codec

# Brought to the format at once: 128 MB at 128 dimensions.
_TOKENS_AT_ONCE = 1 << 18


class StoreWriter:
    """Writes token vectors that were made elsewhere (by ColBERT, PyLate, an API) into a store.

    ::

        with StoreWriter("passages.store", format="float16") as writer:
            for ids, vectors in batches:
                writer.append(ids, vectors)

    `append` makes everything safe where the last time is ten seconds ago; so do `commit`, and the
    end of the block, by an error too. Open it again and it goes on: `num_documents` says how many
    are there, `id in writer` whether one is. The bytes of a store follow from its documents,
    however they got there. What it holds is opened by `Store.open`, for `maxsim(queries, store)`,
    or `LateInteraction(model, store=path)`. One process writes at a time, in one thread.

    Attributes:
        path: the folder.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,
        model: str | Mapping[str, Any] | None = None,
        sample: Any = None,
        centroids: int | None = None,
    ) -> None:
        """Open a store to write to; a new one is made when the first documents come.

        Args:
            path: of the folder: a store, empty, or not there yet.
            format: float32, float16, bfloat16, int8 (8 bits and a scale a token) or, ColBERTv2's
                residual codes, 8bit, 4bit, 2bit, 1bit; of a new store int8 if None. Must be that
                of the store if it is there.
            model: what made the vectors, for the store to remember: a name; or
                `LateInteraction.identity`, to which `LateInteraction` then holds whoever attaches
                the store. None: nobody says, and it can be attached to any model of as many
                dimensions. Must be that of the store if it is there.
            sample: [T, D], a tensor or an array: token vectors like those that will come, in no
                particular order, by which 8bit to 1bit are trained; some 64 a centroid are enough.
                Used where such a store is made, which takes it; it needs the `residual` extra.
            centroids: of such a store; None: as many as ColBERT takes for a collection of as many
                tokens as the sample. It takes 16 sqrt(tokens), rounded down to a power of two.

        Raises:
            InputError: an argument is of the wrong kind.
            StoreError: somebody else writes to the store; it is damaged, unfinished, of another
                format or another model; or the folder holds something else, or cannot be written.
        """
        if format is not None:
            check_choice("format", format, FORMATS)
        centroids = checked_count("centroids", centroids)
        said = _said(model)
        self._appender = Appender(path)
        self._is_closed = False
        self.path = self._appender.path
        try:
            known = self._appender.manifest
            if known is None:
                self._format, self._model = format or "int8", said
                self._codec = _codec(self._format, sample, centroids)
                return
            if known.source is not None and not known.source.complete:
                raise StoreError(f"{self.path} is unfinished; run packrank encode again first")
            if format not in (None, known.format):
                raise StoreError(
                    f"{self.path} is of format {known.format}, and format is {format}; leave it "
                    "out, or name another store"
                )
            _check_model(known.model, said, self.path)
            self._format, self._model, self._codec = known.format, known.model, None
        except BaseException:
            self._appender.close()
            raise

    @property
    def num_documents(self) -> int:
        """Documents that are in the store, with those that were appended."""
        return self._appender.num_documents

    def __contains__(self, id: object) -> bool:
        """Whether a document has this id; the first call reads the ids that are there."""
        return isinstance(id, str) and self._appender.holds(id)

    def append(self, ids: Sequence[str], documents: Any, lengths: Any = None) -> None:
        """Add documents, all of them or, where one is refused, none.

        Args:
            ids: [N] strings that no other document of the store has.
            documents: N of [L, D], float64 to float16 or bfloat16, tensors or arrays, on one
                device; L may be 0. Or one [T, D], the tokens of all documents end to end, with
                `lengths`.
            lengths: [N] whole numbers: of [T, D], how many tokens each document has.

        Raises:
            InputError: an argument is of the wrong kind or shape, an id comes twice, or a vector
                is not finite in the format; or a document of [L, D] begins or ends with a row of
                zeros, as one that was filled up.
            StoreError: a document of the store has one of the ids, the store cannot be written, or
                the writer is closed.
        """
        if self._is_closed:
            raise StoreError(f"the writer of {self.path} is closed; open it again")
        names = checked_ids(ids)
        every = vectors_of(documents, lengths)
        if len(names) != len(every):
            raise InputError(f"there are {len(names)} ids for {len(every)} documents")
        if not every:
            return
        size, wanted = every[0].shape[1], self._size
        if wanted not in (None, size):
            raise InputError(f"documents are of {size} dimensions, and {self.path} of {wanted}")
        check_finite(every, self._format)
        for name in names:
            if self._appender.holds(name):
                raise StoreError(
                    f"{self.path} has a document {name!r} already; leave out what it holds "
                    "(`id in writer`)"
                )
        if self._appender.manifest is None:
            _check_size(self._format, size)
            self._appender.create(self._format, size, self._model, self._codec)
        with self._appender.whole(names):
            for start, stop in _runs([len(x) for x in every]):
                self._appender.append(names[start:stop], [x.float() for x in every[start:stop]])
        if self._appender.is_due:
            self._appender.commit()

    def commit(self) -> None:
        """Make what was appended safe now; to do so after every batch is not needed.

        Raises:
            StoreError: the disk is full; what was appended since the last commit is gone then.
        """
        if self._appender.manifest is not None:
            self._appender.commit()

    def close(self) -> None:
        """Commit, and let others write to the store."""
        try:
            self.commit()
        finally:
            self._is_closed = True
            self._appender.close()

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(*(() if error is None else (StoreError,))):  # the first error says more
            self.close()

    @property
    def _size(self) -> int | None:
        """D, once it is known."""
        if self._appender.manifest is not None:
            return self._appender.manifest.size
        return None if self._codec is None else self._codec.size


def _said(model: Any) -> dict[str, Any] | None:
    """What a store remembers of a model."""
    if model is None:
        return None
    if isinstance(model, str):
        check_text(model, "model")
        return {"name": model}
    if not isinstance(model, Mapping) or not all(
        isinstance(model.get(part, other), str)
        for part, other in (("name", None), ("vectors", ""), ("fingerprint", ""))
    ):
        raise InputError(
            f"model is a {type(model).__name__}, expected a name or LateInteraction.identity"
        )
    try:
        said: dict[str, Any] = json.loads(json.dumps(dict(model)))
    except (TypeError, ValueError):
        raise InputError("model holds what JSON cannot; give LateInteraction.identity") from None
    return said


def _check_model(
    known: Mapping[str, Any] | None, said: Mapping[str, Any] | None, path: os.PathLike[str]
) -> None:
    """Raise StoreError unless vectors of the one may be added to those of the other."""
    if known is None and said is None:
        return
    if said is None:
        assert known is not None
        if known.keys() & {"vectors", "fingerprint"}:
            raise StoreError(
                f"{os.fspath(path)} was encoded by {known.get('name')}; pass its "
                "LateInteraction.identity as model to add more of its vectors"
            )
        return
    if known is None:
        raise StoreError(
            f"{os.fspath(path)} does not say what made its vectors, and model is "
            f"{said['name']}; leave it out, or name another store"
        )
    aside = {"name"} if "vectors" in known else set()
    if any(known.get(key) != said.get(key) for key in (known.keys() | said.keys()) - aside):
        raise StoreError(
            f"{os.fspath(path)} holds vectors of {known.get('name')}, and model is "
            f"{said['name']}, another one or with other settings; name another store"
        )


def _codec(format: str, sample: Any, centroids: int | None) -> Codec | None:
    """Trained on a sample, where the format takes one."""
    if format not in BITS:
        for name, value in (("sample", sample), ("centroids", centroids)):
            if value is not None:
                raise InputError(f"{name} is for formats 8bit to 1bit, and format is {format}")
        return None
    if sample is None:
        raise InputError(
            f"format {format} is trained on vectors like those that will come; pass some 64 a "
            "centroid as sample, or take format int8"
        )
    check_faiss()
    rows = sample_of(sample)
    _check_size(format, rows.shape[1])
    return train_codec(rows, BITS[format], centroids or num_centroids(len(rows)))


def _check_size(format: str, size: int) -> None:
    multiple = 8 // BITS[format] if format in BITS else 1
    if not 0 < size <= MOST_DIMENSIONS or size % multiple:
        raise InputError(
            f"vectors are of {size} dimensions, and format {format} takes a multiple of {multiple} "
            f"up to {MOST_DIMENSIONS}"
        )


def _runs(lengths: list[int]) -> Iterator[tuple[int, int]]:
    """Documents of about as many tokens as are brought to the format at once."""
    ends: NDArray[np.int64] = np.cumsum(lengths)
    start = 0
    while start < len(ends):
        done = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, done + _TOKENS_AT_ONCE)) + 1
        stop = min(max(stop, start + 1), len(ends))
        yield start, stop
        start = stop
