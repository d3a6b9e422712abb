"""A file of documents to a store, a window of lines at a time; goes on where it was stopped.

Where segments end follows from the documents alone, so that a store has the same bytes however
often it was stopped on the way.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from packrank.arguments import check_text
from packrank.checkpoint.files import shown
from packrank.errors import InputError, StoreError
from packrank.late.identity import Identity, check_same, check_size
from packrank.late.token_vectors import not_finite
from packrank.late_interaction import LateInteraction
from packrank.lines import Line, open_lines, read_jsonl, read_plain
from packrank.stores.codec_training import check_faiss, num_centroids, train_codec
from packrank.stores.manifest import Manifest, Source
from packrank.stores.writer import StoreWriter
from packrank.text.tokenizer import batches
from packrank_kernels import Codec

_BITS = {"4bit": 4, "2bit": 2}
_FIELDS = ("text", "id", "_id")
# A window is encoded at once: some 16 packs, and 100 MB of vectors at 384 dimensions.
_WINDOW_DOCUMENTS = 512
_WINDOW_CHARACTERS = 1 << 18
# A segment ends with the window that brings it to so many tokens.
_SEGMENT_TOKENS = 1 << 18
# Of the sample that a codec is trained on.
_SEED = 123
_SAMPLE_DOCUMENTS = 1 << 15
_SAMPLE_CHARACTERS = 1 << 26
_SAMPLE_VALUES = 1 << 27  # 512 MB
_SAMPLE_TOKENS_PER_CENTROID = 64


@dataclass(frozen=True)
class Documents:
    """A file of documents.

    Attributes:
        path: of the file; "-" is standard input.
        jsonl: whether a line is an object with "text" (and "id" or "_id"), else it is a text.
    """

    path: str
    jsonl: bool

    def lines(self, source: Iterable[bytes]) -> Iterator[Line]:
        """What is in lines of the file."""
        return read_jsonl(source, "text") if self.jsonl else read_plain(source)


@dataclass(frozen=True)
class Encoded:
    """What encoding a file came to.

    Attributes:
        documents: added now.
        tokens: of those.
        failures: (line number, reason) of the first lines that were left out now.
        num_failed: how many lines of the file were left out, now and before.
        begun: lines that had been encoded before.
        bytes_per_token: of the store, codec and offsets not counted.
        seconds: from the first line to the last commit, training included.
    """

    documents: int
    tokens: int
    failures: list[tuple[int, str]]
    num_failed: int
    begun: int
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
        identity: of the model, see `identity.identify`; must be that of the store.
        documents: the file.
        store: the folder.
        bar: moves by one a line.
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
    with open_lines(documents.path) as stream, StoreWriter(store) as writer:
        old = writer.manifest
        if old is not None:
            check_size(old.size, model.size, store)
            check_same(old.model, identity, store)
        chosen = (format or "int8") if old is None else old.format
        _check_options(chosen, model.size, store, format, centroids)
        taken = _go_on(old, documents, stream, store, append)
        begun = taken.lines
        bar.update(begun)
        # Blank lines in place of what is done: they are passed over, and the others keep numbers.
        lines = documents.lines(chain(repeat(b"\n", begun), taken))
        window = _take(lines)
        if old is None:
            if not window:
                raise InputError(f"{documents.path} holds no document; expected one a line")
            codec = None
            if chosen in _BITS:
                bar.set_description_str("training the codec")
                codec = _train(model, documents, _BITS[chosen], centroids)
                bar.set_description_str()
            writer.create(chosen, model.size, identity, codec)
            # Unfinished from the start, should it be stopped before the first segment.
            old = writer.commit(_Taken(stream, 0, []).source(complete=False))
        failures: list[tuple[int, str]] = []
        while window:
            failed = _encode_window(writer, model, window, taken.before, chosen)
            taken.failed += len(failed)
            failures += failed[: max(keep - len(failures), 0)]
            if writer.pending_tokens >= _SEGMENT_TOKENS:
                writer.commit(taken.source(complete=False))
            bar.update(taken.lines - bar.n)
            window = _take(lines)
        new = old if taken.is_earlier else writer.commit(taken.source(complete=True))
    return Encoded(
        new.documents - old.documents,
        new.tokens - old.tokens,
        failures,
        taken.failed,
        begun,
        new.bytes_per_token,
        max(time.perf_counter() - start, 1e-9),
    )


class _Taken:
    """Lines of a file, and which have been taken."""

    def __init__(self, stream: BinaryIO, before: int, earlier: list[str]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._earlier = earlier
        self.lines = self.failed = 0
        self.before = before
        self.is_earlier = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        raw = next(self._stream)
        self._digest.update(raw.rstrip(b"\r\n") + b"\n")
        self.lines += 1
        return raw

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def source(self, complete: bool) -> Source:
        return Source(self.lines, self.sha256, self.failed, complete, self.before, self._earlier)


def _go_on(
    manifest: Manifest | None,
    documents: Documents,
    stream: BinaryIO,
    store: str | os.PathLike[str],
    append: bool,
) -> _Taken:
    """The lines of a file, those taken that the store has."""
    source = None if manifest is None else manifest.source
    if source is None:
        return _Taken(stream, 0 if manifest is None else manifest.documents, [])
    earlier = [*source.earlier, source.sha256] if source.complete else source.earlier
    another = _Taken(stream, source.before + source.lines, earlier)
    if append and source.complete and not stream.seekable():
        return another
    taken = _Taken(stream, source.before, source.earlier)
    for _ in islice(taken, source.lines):
        pass
    if taken.sha256 == source.sha256:
        taken.failed = source.failed
        return taken
    for _ in taken:
        pass
    if taken.sha256 in source.earlier:
        taken.is_earlier = True
        return taken
    if not append:
        unfinished = "" if source.complete else f"{os.fspath(store)} is unfinished, and "
        raise StoreError(
            f"{unfinished}{documents.path} does not begin with the {source.lines} lines encoded "
            "last; give the same file, or --append to add all of it"
        )
    if not stream.seekable():
        raise StoreError(
            f"{os.fspath(store)} is unfinished, and {documents.path}, which cannot be read twice, "
            f"does not begin with the {source.lines} lines encoded last; give a file"
        )
    stream.seek(0)
    return another


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
    if centroids is not None and chosen not in _BITS:
        raise InputError(f"--centroids is for formats 4bit and 2bit, not {chosen}")
    if chosen in _BITS and size % (8 // _BITS[chosen]):
        raise InputError(
            f"format {chosen} takes vectors of a multiple of {8 // _BITS[chosen]} dimensions, and "
            f"the model makes {size}; take --format int8"
        )


def _take(lines: Iterator[Line]) -> list[Line]:
    """The next lines, a window of them, with what is needed of each; none at the end."""
    window: list[Line] = []
    characters = 0
    while len(window) < _WINDOW_DOCUMENTS and characters < _WINDOW_CHARACTERS:
        line = next(lines, None)
        if line is None:
            break
        fields = {name: line.fields[name] for name in _FIELDS if name in line.fields}
        window.append(replace(line, fields=fields))
        characters += len(line.fields.get("text", "")) if line.error is None else 0
    return window


def _encode_window(
    writer: StoreWriter, model: LateInteraction, window: list[Line], before: int, format: str
) -> list[tuple[int, str]]:
    """Append the documents of lines; returns (line number, reason) of those that cannot be."""
    failures: list[tuple[int, str]] = []
    good: list[tuple[int, str, str]] = []  # number, id, text
    for line in window:
        try:
            if line.error is not None:
                raise InputError(line.error)
            good.append((line.number, _id(line, before), str(line.fields["text"])))
        except InputError as error:
            failures.append((line.number, str(error)))
    vectors, reasons = _vectors(model, [text for _, _, text in good], format)
    added: dict[str, Tensor] = {}
    for index, (number, id, _) in enumerate(good):
        vector = vectors[index]
        if vector is None:
            failures.append((number, reasons[index]))
        elif id in added or writer.holds(id):
            known = f"the store has a document with the id {shown(id)} already"
            failures.append((number, known))
        else:
            added[id] = vector
    writer.append(list(added), list(added.values()))
    return sorted(failures)


def _id(line: Line, before: int) -> str:
    id = line.fields.get("id")
    if id is None:
        id = line.fields.get("_id")  # as in BEIR
    if id is None:
        return str(before + line.number)
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise InputError(f'"id" is {shown(id)}, expected a string')
    check_text(str(id), "id")
    return str(id)


def _vectors(
    model: LateInteraction, texts: list[str], format: str
) -> tuple[list[Tensor | None], dict[int, str]]:
    """As `try_encode_documents`, and vectors are finite in the format."""
    vectors, reasons = model.try_encode_documents(texts)
    known = [index for index, vector in enumerate(vectors) if vector is not None]
    for place in not_finite([x for x in vectors if x is not None], format):
        vectors[known[place]] = None
        reasons[known[place]] = f"a value of its vectors is not finite in {format}"
    return vectors, reasons


def _train(model: LateInteraction, documents: Documents, bits: int, centroids: int | None) -> Codec:
    """A codec for documents, trained on some of them, which are encoded for that."""
    check_faiss()
    if not os.path.isfile(documents.path):
        raise InputError(
            f"formats 4bit and 2bit are trained on documents before they are encoded, and "
            f"{documents.path} cannot be read twice; give a file"
        )
    texts, total = _sample(documents)
    limit = _SAMPLE_VALUES // model.size
    sample, tokens, used = np.empty((limit, model.size), np.float32), 0, 0
    count = centroids or 1
    for window in batches(texts, len, _WINDOW_DOCUMENTS, _WINDOW_CHARACTERS):
        for x in _vectors(model, list(window), "float32")[0]:
            if x is not None and tokens < limit:
                rows = x[: limit - tokens].float().cpu().numpy()
                sample[tokens : tokens + len(rows)] = rows
                tokens, used = tokens + len(rows), used + 1
        if centroids is None:
            count = num_centroids(total * tokens / max(used, 1))
        if tokens >= min(limit, count * _SAMPLE_TOKENS_PER_CENTROID):
            break
    if not tokens:
        raise InputError(f"{documents.path} holds no document to train a codec on")
    return train_codec(torch.from_numpy(sample[:tokens]), bits, count)


def _sample(documents: Documents) -> tuple[list[str], int]:
    """Texts of some lines, in an order of chance that is always the same; and lines in all."""
    with open_lines(documents.path) as stream:
        total = sum(1 for _ in stream)
    # No more than there is room for, or the room would go to the first lines.
    room = _SAMPLE_CHARACTERS * total // max(os.path.getsize(documents.path), 1)
    count = min(total, _SAMPLE_DOCUMENTS, max(room, 1))
    random = np.random.default_rng(_SEED)
    wanted = np.zeros(total, dtype=bool)
    wanted[random.choice(total, count, replace=False)] = True
    texts: list[str] = []
    characters = 0
    with open_lines(documents.path) as stream:
        some = (raw if take else b"\n" for raw, take in zip(stream, wanted, strict=False))
        for line in documents.lines(some):
            if line.error is None and characters < _SAMPLE_CHARACTERS:
                texts.append(str(line.fields["text"]))
                characters += len(texts[-1])
    return [texts[i] for i in random.permutation(len(texts))], total
