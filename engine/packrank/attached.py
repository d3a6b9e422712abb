"""A store beside the model that encoded it: its documents ranked, new ones added."""

import os
from collections.abc import Callable, Sequence
from itertools import count, islice

import torch
from torch import Tensor

from packrank.arguments import check_text, listed_texts
from packrank.errors import InputError, PairError, StoreError
from packrank.identity import Identity, check_same
from packrank.request import RankedId
from packrank.store import Store
from packrank.store_writer import StoreWriter
from packrank.streaming import gather, maxsim, place
from packrank_kernels import TokenEmbeddings, TopK, merge

# Encoded at once, and appended: their vectors, at 200 tokens of 128 floats, take 50 MB.
_DOCUMENTS_AT_ONCE = 512


class Attached:
    """The documents of a store, on the device where they fit in half of its free memory.

    Attributes:
        store: as it was opened.
    """

    def __init__(
        self, store: Store, size: int, identity: Callable[[], Identity], device: torch.device
    ) -> None:
        """Check that a model of this size and identity made the store, and place it.

        Raises:
            StoreError: it did not.
        """
        if store.size != size:
            raise StoreError(
                f"{store.path} holds vectors of {store.size} dimensions, and the model makes {size}"
            )
        if store.model is not None:
            check_same(store.model, identity(), store.path)
        self.store = store
        self._device = device
        self._embeddings = place(store.embeddings, device)

    def rank(
        self, query: Tensor, mean: bool, top_k: int | None, candidates: Sequence[str] | None
    ) -> tuple[list[RankedId], dict[int, str]]:
        """The best, and place in the store -> reason of those without a score.

        Takes some 20 bytes a candidate beside the ranking.
        """
        indices = None
        if candidates is not None:
            indices = self.store.indices(listed_texts("candidates", candidates))
        scores = maxsim(query, self._embeddings, indices, device=self._device)
        assert isinstance(scores, Tensor)
        if mean:
            scores = per_token(scores, query)
        failures: dict[int, str] = {}
        if not bool(scores.isfinite().all()):
            starts = self.store.embeddings.cu_seqlens
            for spot in (~scores.isfinite()).nonzero().flatten().tolist():
                index = spot if indices is None else int(indices[spot])
                if starts[index] < starts[index + 1]:
                    failures[index] = "its score is not a finite number"
                    scores[spot] = torch.nan
        order = torch.arange(len(scores), device=scores.device)
        best = merge([TopK(scores, order)], top_k or max(len(scores), 1))
        ranking = []
        for spot, score in zip(best.indices.tolist(), best.scores.tolist(), strict=True):
            index = spot if indices is None else int(indices[spot])
            if index not in failures:
                ranking.append(RankedId(index, score, self.store.ids[index]))
        return ranking, dict(sorted(failures.items()))

    def document(self, id: str) -> TokenEmbeddings:
        """One document, on the device."""
        index = self.store.indices([id]).to(self._embeddings.device)
        return gather(self._embeddings, index).to(self._device)


def per_token(scores: Tensor, query: Tensor) -> Tensor:
    """Scores divided by the number of query tokens, rounded once on every device."""
    # By a number, torch multiplies with its reciprocal on a CUDA device.
    return scores / torch.full((1,), float(len(query)), device=scores.device)


def append(
    encode: Callable[[Sequence[str]], list[Tensor]],
    texts: Sequence[str],
    ids: Sequence[str] | None,
    store: str | os.PathLike[str] | Store,
    size: int,
    identity: Identity,
) -> None:
    """Encode documents into a store, which is made (in int8) if it is not there; all or none.

    Args:
        encode: one [L, size] tensor a text.
        texts: the documents.
        ids: of theirs; None for the lowest numbers, from that of documents on, that none has.
        store: the folder.
        size: D.
        identity: of the model.

    Raises:
        InputError: ids that are no strings, or not as many as texts.
        PairError: a text cannot be encoded; `.index` says which.
        StoreError: the store cannot be written, is another model's, or has one of the ids.
    """
    names = None if ids is None else listed_texts("ids", ids)
    if names is not None and len(names) != len(texts):
        raise InputError(f"there are {len(names)} ids for {len(texts)} documents")
    for index, name in enumerate(names or []):
        check_text(name, f"id of document {index}")
    path = store.path if isinstance(store, Store) else store
    with StoreWriter(path) as writer:
        if writer.manifest is None:
            writer.create("int8", size, identity)
        elif writer.manifest.size != size:
            raise StoreError(
                f"{os.fspath(path)} holds vectors of {writer.manifest.size} dimensions, and the "
                f"model makes {size}"
            )
        else:
            check_same(writer.manifest.model, identity, path)
        if names is None:
            numbers = map(str, count(writer.num_documents))
            names = list(islice((name for name in numbers if not writer.holds(name)), len(texts)))
        for start in range(0, len(texts), _DOCUMENTS_AT_ONCE):
            stop = start + _DOCUMENTS_AT_ONCE
            try:
                vectors = encode(texts[start:stop])
            except PairError as error:
                raise PairError(start + error.index, error.reason) from None
            for index, x in enumerate(vectors, start):
                if not bool(x.to(torch.float16).isfinite().all()):
                    reason = "a value of its vectors is beyond 65504, or no number"
                    raise PairError(index, reason)
            writer.append(names[start:stop], vectors)
        writer.commit()
