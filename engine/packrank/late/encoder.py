"""A late-interaction model's texts to a vector for every token."""

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor

from packrank.arguments import Reopened, check_str, checked_count, listed_texts
from packrank.checkpoint.fingerprint import fingerprint
from packrank.checkpoint.hub import HubOptions, resolve
from packrank.checkpoint.kind import LATE, expect
from packrank.checkpoint.modules import encoder_folder
from packrank.errors import InputError, ModelError, PairError
from packrank.late.attached import append
from packrank.late.formats import read_settings
from packrank.late.identity import Identity, check_same, check_size, identify, other_name
from packrank.late.settings import Settings
from packrank.late.token_vectors import Finish, Projection, TokenVectors
from packrank.models import load_model
from packrank.request import Int32
from packrank.runtime.device import Device, choose_device
from packrank.runtime.runner import Runner
from packrank.stores.given import not_finite
from packrank.stores.store import Store
from packrank.text.tokenizer import Tokenizer

Path = str | os.PathLike[str]


class LateEncoder(Reopened):
    """Queries and documents to token vectors, as the model's folder asks; see `LateInteraction`.

    Attributes:
        settings: what the folder asks for.
        size: D of a token vector.
        device: where it runs.
    """

    def __init__(
        self,
        model: Path,
        *,
        device: Device = "auto",
        dtype: str | torch.dtype = "auto",
        query_length: int | None = None,
        document_length: int | None = None,
        budget_tokens: int | None = None,
        deterministic: bool = False,
        hub: HubOptions | None = None,
    ) -> None:
        """Load a model; see `LateInteraction`."""
        chosen_device, chosen_dtype = choose_device(device, dtype)
        query_length = checked_count("query_length", query_length)
        document_length = checked_count("document_length", document_length)
        budget_tokens = checked_count("budget_tokens", budget_tokens)
        folder = resolve(model, hub or HubOptions())
        expect(folder, LATE)
        encoder = encoder_folder(folder)
        tokenizer = Tokenizer.from_folder(encoder)
        loaded = load_model(
            encoder,
            device=chosen_device,
            dtype=chosen_dtype,
            head=False,
            deterministic=deterministic,
        )
        self.settings: Settings = read_settings(
            folder,
            tokenizer,
            loaded.hidden_size,
            loaded.config.max_length,
            usual_positions=loaded.config.usual_length,
            query_length=query_length,
            document_length=document_length,
        )
        settings = self.settings
        unseen = settings.expansion is not None and not settings.expansion.attend
        if unseen and loaded.unseen_tokens is not None:
            raise ModelError(f"{folder}: {loaded.unseen_tokens}")
        if settings.lower_case:
            tokenizer = Tokenizer.from_folder(encoder, lower_case=True)
        projection = [
            Projection(dense, loaded.device, loaded.dtype, deterministic)
            for dense in settings.projection
        ]
        # One for both sides, whose packs then share graphs; loaded before the runner's stream
        # waits for the weights.
        finish = Finish(projection, settings.normalize)
        self._runner = runner = Runner(loaded, budget_tokens)
        self._queries = TokenVectors(
            "query", tokenizer, runner, settings.query, settings.expansion, finish
        )
        self._documents = TokenVectors(
            "document", tokenizer, runner, settings.document, None, finish
        )
        sizes = [loaded.hidden_size, *(dense.out_features for dense in settings.projection)]
        self.size: int = sizes[-1]
        self.device, self.dtype = loaded.device, loaded.dtype
        self._name = os.path.abspath(model) if os.path.isdir(model) else os.fspath(model)
        self._folder = folder
        self._parts = loaded.config, tokenizer, encoder, loaded.prefix

    @cached_property
    def identity(self) -> Identity:
        """What a store says of this model; the first use reads the model's weights whole."""
        return identify(self.settings, *self._parts, self._name)

    def check_store(
        self, model: Mapping[str, Any] | None, size: int, store: Path, name: str | None = None
    ) -> None:
        """Raise StoreError if another model encoded a store; warn if it names one that may be.

        Args:
            model: what the store says of it.
            size: of the store's vectors.
            store: its folder.
            name: of this model, for the messages.
        """
        check_size(size, self.size, store)
        name = name or self._name
        other = other_name(model, name)
        if other is not None:
            warnings.warn(
                f"{os.fspath(store)} names {other} as its model, and this one is {name}; scores "
                "mean nothing unless they are the same",
                stacklevel=3,
            )
        elif model is not None:
            check_same(
                model, {**self.identity, "name": name}, store, lambda: fingerprint(self._folder)
            )

    @property
    def document_length(self) -> int:
        """Tokens of a document that the model reads at most, special ones included."""
        return self.settings.document.max_length

    @property
    def num_tokens(self) -> int:
        """Tokens that have gone through the model so far, special ones included."""
        return self._queries.num_tokens + self._documents.num_tokens

    @property
    def num_cut_queries(self) -> int:
        """How many queries so far were longer than the model reads them."""
        return self._queries.num_cut

    @property
    def num_cut_documents(self) -> int:
        """How many documents so far were longer than the model reads them."""
        return self._documents.num_cut

    def token_ids(self, query: str, document: str) -> tuple[Int32, Int32]:
        """The ids that the model reads of a query and of a document, [Q] and [L] int32.

        Special tokens, markers and what fills a query are among them, and so are those that are
        not scored.

        Raises:
            InputError: a text cannot be encoded.
        """
        check_str("query", query)
        check_str("document", document)
        return self._queries.token_ids(query), self._documents.token_ids(document)

    def encode_queries(self, texts: Sequence[str]) -> list[Tensor]:
        """One [Q, D] tensor a query, on the model's device and in its dtype; equal texts share one.

        Raises:
            InputError: a text is not a string, or cannot be encoded; the message gives its place.
        """
        every = listed_texts("queries", texts)
        vectors, failures = self._queries.encode(every)
        for index, text in enumerate(every):
            if text in failures:
                raise InputError(f"queries[{index}]: {failures[text]}")
        return [vectors[text] for text in every]

    def encode_documents(
        self,
        texts: Sequence[str],
        store: Path | Store | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[Tensor]:
        """One [L, D] tensor a document, on the model's device and in its dtype; or into a store.

        L is 0 where every token is one that is not scored. Equal texts share a tensor; else each
        has memory of its own, so that keeping a few keeps no others alive.

        A store has the id of a document once: to encode the same documents into it again, as by
        running a program twice, raises StoreError before anything is encoded, since the store
        keeps no texts by which to tell whether they are the same. Without ids they get other
        numbers, and are in it twice. For other formats, and so many documents that what was done
        should outlive an error, see `StoreWriter` and `packrank encode`.

        Args:
            texts: any strings.
            store: where the documents are appended, all or none, instead of being returned; made,
                in format int8, if it is not there. One that is open stays as it was opened.
            ids: of the documents in the store; None for numbers that none has, counted on from
                those of the store.

        Raises:
            InputError: a text or an id is not a string, or an id comes twice.
            PairError: a text cannot be encoded; `.index` says which.
            StoreError: the store cannot be written, is another model's or unfinished, or has one
                of the ids.
        """
        every = listed_texts("documents", texts)
        if store is not None:
            check = self.check_store
            append(self._encode_documents, every, ids, store, self.size, self.identity, check)
            return []
        if ids is not None:
            raise InputError("ids are those of documents in a store; name one")
        return self._encode_documents(every)

    def _encode_documents(self, texts: Sequence[str], cut: set[str] | None = None) -> list[Tensor]:
        vectors, failures = self.try_encode_documents(texts, cut)
        for index, reason in failures.items():
            raise PairError(index, reason)
        return [found for found in vectors if found is not None]

    def try_encode_documents(
        self, texts: Sequence[str], cut: set[str] | None = None
    ) -> tuple[list[Tensor | None], dict[int, str]]:
        """As `encode_documents`; None for a text that cannot be encoded, and index -> reason.

        Texts that are longer than the model reads them are added to `cut`, if it is given.
        """
        every = listed_texts("documents", texts)
        vectors, failures = self._documents.encode(every, cut)
        reasons = {i: failures[text] for i, text in enumerate(every) if text in failures}
        return [vectors.get(text) for text in every], reasons


def tokenizer_of(model: LateEncoder) -> Tokenizer:
    """What a model's texts are tokenized by, for who looks at tokens."""
    return model._parts[1]


def runner_of(model: LateEncoder) -> Runner:
    """What a model encodes by: for measurements of it."""
    return model._runner


def cut_pairs(model: LateEncoder, pairs: Sequence[tuple[str, str]]) -> dict[int, str]:
    """Those pairs of which the model does not read all, each with what it leaves.

    Pairs of texts that cannot be encoded are left out: whoever encodes them is told why.
    """
    cut: dict[tuple[str, str], int] = {}
    found: dict[int, str] = {}
    for index, pair in enumerate(pairs):
        sides = ("query", model._queries), ("document", model._documents)
        for text, (name, side) in zip(pair, sides, strict=True):
            if (name, text) not in cut:
                try:
                    cut[name, text] = side.tokens(text)[1]
                except InputError:
                    cut[name, text] = 0
            if count := cut[name, text]:
                found[index] = f"its {name} has {count} tokens more than the model reads"
                break
    return found


def check_weights(folder: FilePath, settings: Settings) -> None:
    """Raise ModelError unless the weights in a folder are those that its settings imply.

    Their names, dtypes and shapes are looked at, not their values.

    Args:
        folder: of the model.
        settings: that were read there.
    """
    nowhere, wide = torch.device("meta"), torch.float32
    load_model(encoder_folder(folder), device=nowhere, dtype=wide, head=False)
    for dense in settings.projection:
        Projection(dense, nowhere, wide, deterministic=False)


def finite_vectors(
    model: LateEncoder, texts: list[str], format: str, cut: set[str] | None = None
) -> tuple[list[Tensor | None], dict[int, str]]:
    """As `try_encode_documents`, and vectors are finite in the format."""
    vectors, reasons = model.try_encode_documents(texts, cut)
    known = [index for index, vector in enumerate(vectors) if vector is not None]
    for place in not_finite([x for x in vectors if x is not None], format):
        vectors[known[place]] = None
        reasons[known[place]] = f"a value of its vectors is not finite in {format}"
    return vectors, reasons
