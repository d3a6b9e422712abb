"""Token ids of a corpus on disk, mapped into memory."""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from packrank.arguments import check_str
from packrank.documents import Tokenization, TokenizedText
from packrank.errors import InputError, StoreError
from packrank.stores.document_ids import Places
from packrank.stores.files import MappedFile, present_folder
from packrank.stores.manifest import Manifest, check_kind, check_sizes, check_sums
from packrank.stores.store import offsets_of, stored_ids


class TokenStore:
    """Token ids of documents, from `packrank tokenize`, to be scored in place of their texts.

    ::

        tokens = TokenStore.open("passages.tokens")
        reranker.score([(query, tokens[id]) for id in candidates])

    Ids are of whole texts, so that any `max_length` may cut them, and they are mapped: nothing is
    read before it is needed. A store that somebody appends to stays, for who has opened it, as it
    was. Threads may share one.

    Attributes:
        path: the folder.
        ids: [N] ids of the documents, which all differ.
        num_tokens: T.
        tokenization: what determines the token ids; see `check`.
        digest: SHA-256, in hexadecimal, of what tells of them all: another store has another.
        complete: whether the last file of documents has been tokenized whole.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.ids = stored_ids(path, manifest)
        self.num_tokens = manifest.tokens
        self.tokenization = _tokenization_of(manifest)
        self.digest = hashlib.sha256(manifest.dump()).hexdigest()
        self.complete = manifest.source is None or manifest.source.complete
        self._offsets = offsets_of(path / "cu_seqlens.bin", manifest.documents, manifest.tokens)
        self._values = MappedFile(path / "values.bin", "<i4", manifest.tokens)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> "TokenStore":
        """Open a store.

        Args:
            path: the folder.
            verify: check the checksums, which reads the whole store; else only the sizes of its
                files and where documents begin and end.

        Raises:
            InputError: the path is none.
            StoreError: there is no store, or it holds token embeddings, or is cut off, damaged, or
                of a newer version; the message names the file.
        """
        folder = present_folder(path, "packrank tokenize")
        manifest = Manifest.load(folder)
        check_kind(folder, manifest, of_tokens=True)
        check_sizes(folder, manifest)
        if verify:
            check_sums(folder, manifest)
        return cls(folder, manifest)

    def __len__(self) -> int:
        """N."""
        return len(self.ids)

    def __contains__(self, id: object) -> bool:
        """Whether a document has this id; the first call reads all ids."""
        return isinstance(id, str) and any(self._places.find([id]))

    def __getitem__(self, id: str) -> TokenizedText:
        """A document by its id, without a copy; the first call reads all ids.

        Raises:
            InputError: no document has this id.
            StoreError: a file has been cut off since, or is damaged.
        """
        check_str("the id", id)
        [found] = self.find([id])
        if found is None:
            raise InputError(f"no document of {self.path} has the id {id!r}")
        return found

    def find(self, ids: Sequence[str]) -> list[TokenizedText | None]:
        """Documents by their ids, as one by one but faster; None of an id that no document has.

        Raises:
            StoreError: a file has been cut off since, or is damaged.
        """
        self._values.check_length()
        every = zip(ids, self._places.find(ids), strict=True)
        return [self._at(id, places[0]) if places else None for id, places in every]

    def _at(self, id: str, place: int) -> TokenizedText:
        start, stop = self._offsets[place : place + 2]
        token_ids = self._values.numbers[start:stop]
        if token_ids.min(initial=0) < 0:
            raise StoreError(
                f"{self._values.path} is damaged: document {id!r} has a token id below 0"
            )
        return TokenizedText(token_ids, self.tokenization)

    def check(self, wanted: Tokenization | None) -> None:
        """Raise StoreError unless a model makes the same ids of the same texts.

        Args:
            wanted: `Reranker.tokenization`.
        """
        _check(self.path, self.tokenization, wanted)

    def __repr__(self) -> str:
        return f"TokenStore({str(self.path)!r}: {len(self)} documents of {self.num_tokens} tokens)"

    @cached_property
    def _places(self) -> Places:
        return Places(self.ids)


def check_tokenization(path: Path, manifest: Manifest, wanted: Tokenization) -> None:
    """Raise StoreError unless the ids of a store are made as a model makes them."""
    _check(path, _tokenization_of(manifest), wanted)


def _check(path: Path, known: Tokenization, wanted: Tokenization | None) -> None:
    refusal = known.refusal(wanted)
    if refusal is not None:
        raise StoreError(f"the token ids of {path} cannot be used: {refusal}")


def _tokenization_of(manifest: Manifest) -> Tokenization:
    said = manifest.model or {}
    return Tokenization(said["name"], said["tokenizer"], said["before"], said["after"])
