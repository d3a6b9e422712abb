"""A store beside the model that encoded it: its documents ranked, new ones added."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor

from packrank.arguments import checked_ids, listed_texts
from packrank.errors import InputError, PairError, StoreError, Unfinite
from packrank.late.identity import Identity
from packrank.request import RankedId
from packrank.stores.appender import Appender
from packrank.stores.given import not_finite
from packrank.stores.runs import gather
from packrank.stores.store import Store
from packrank.stores.streaming import maxsim, place
from packrank_kernels import TokenEmbeddings, TopK, merge

# Encoded at once, and appended: their vectors, at 200 tokens of 128 floats, take 50 MB.
_DOCUMENTS_AT_ONCE = 512
# Of which the best are taken at once: their order takes 16 MB.
_SCORES_AT_ONCE = 1 << 20


class Attached:
    """The documents of a store, on the device where they fit in half of its free memory.

    Attributes:
        store: as it was opened.
    """

    def __init__(self, store: Store, device: torch.device) -> None:
        """Place a store."""
        self.store = store
        self._device = device
        self._embeddings = place(store.embeddings, device)

    def rank(
        self,
        query: Tensor,
        mean: bool,
        top_k: int | None,
        candidates: Sequence[str] | None,
        exact: bool | int = False,
    ) -> tuple[list[RankedId], dict[int, str]]:
        """The best, and place in the store -> reason of those without a score.

        Takes some 10 bytes a candidate beside the ranking. `exact` is that of `maxsim`.
        """
        indices = None
        if candidates is not None:
            indices = self.store.indices(listed_texts("candidates", candidates))
        failures: dict[int, str] = {}
        scores = self._scores(query, mean, indices, exact is True, failures)
        if not isinstance(exact, bool):
            spots = _best(scores, exact).indices.sort().values.cpu()
            indices = spots if indices is None else indices[spots]
            scores = self._scores(query, mean, indices, True, failures)
        best = _best(scores, top_k)
        spots = best.indices.cpu()
        places = spots if indices is None else indices[spots]
        ranking = [
            RankedId(index, score, self.store.ids[index])
            for index, score in zip(places.tolist(), best.scores.tolist(), strict=True)
            if index not in failures
        ]
        return ranking, dict(sorted(failures.items()))

    def _scores(
        self,
        query: Tensor,
        mean: bool,
        indices: Tensor | None,
        exact: bool,
        failures: dict[int, str],
    ) -> Tensor:
        """[K] or [N], NaN for what has none, which is added to the failures."""
        self.store.check()
        scores = maxsim(query, self._embeddings, indices, exact=exact, device=self._device)
        assert isinstance(scores, Tensor)
        if mean:
            scores = per_token(scores, query)
        if not bool(scores.isfinite().all()):
            starts = self.store.embeddings.cu_seqlens
            spots = (~scores.isfinite()).nonzero().flatten().cpu()
            places = spots if indices is None else indices[spots]
            filled = starts[places] < starts[places + 1]
            reason = Unfinite("its score is not a finite number")
            failures |= dict.fromkeys(places[filled].tolist(), reason)
            scores[spots[filled].to(scores.device)] = torch.nan
        return scores

    def document(self, id: str) -> TokenEmbeddings:
        """One document, on the device."""
        index = self.store.indices([id]).to(self._embeddings.device)
        self.store.check()
        return gather(self._embeddings, index).to(self._device)


def _best(scores: Tensor, top_k: int | None) -> TopK:
    """The best of [N] scores, in order; all of them if `top_k` is None."""
    count = top_k or max(len(scores), 1)
    step = max(count, _SCORES_AT_ONCE)
    best = TopK(scores[:0], torch.empty(0, dtype=torch.int64, device=scores.device))
    for start in range(0, len(scores), step):
        part = scores[start : start + step]
        order = torch.arange(start, start + len(part), device=scores.device)
        best = merge([best, TopK(part, order)], count)
    return best


def per_token(scores: Tensor, query: Tensor) -> Tensor:
    """Scores divided by the number of query tokens, rounded once on every device."""
    # By a number, torch multiplies with its reciprocal on a CUDA device.
    return scores / torch.full((1,), float(len(query)), device=scores.device)


def append(
    encode: Callable[[Sequence[str], set[str]], list[Tensor]],
    texts: Sequence[str],
    ids: Sequence[str] | None,
    store: str | os.PathLike[str] | Store,
    size: int,
    identity: Identity,
    check: Callable[[dict[str, Any] | None, int, str | os.PathLike[str]], None],
) -> None:
    """Encode documents into a store, which is made (in int8) if it is not there; all or none.

    Args:
        encode: one [L, size] tensor a text; adds those that are cut to the set.
        texts: the documents.
        ids: of theirs; None for numbers that none has, counted on from those of the store.
        store: the folder.
        size: D.
        identity: of the model.
        check: refuses what a store says of its model, and its size, if that is another one.

    Raises:
        InputError: ids that are no strings, not as many as texts, or twice the same.
        PairError: a text cannot be encoded; `.index` says which.
        StoreError: the store cannot be written, is another model's or unfinished, or has one of
            the ids; nothing has been encoded then.
    """
    names = None if ids is None else checked_ids(ids)
    if names is not None and len(names) != len(texts):
        raise InputError(f"there are {len(names)} ids for {len(texts)} documents")
    path = store.path if isinstance(store, Store) else store
    with Appender(path) as appender:
        known = appender.manifest
        source, kind = (None, "int8") if known is None else (known.source, known.format)
        if known is not None:
            check(known.model, known.size, path)
        if source is not None and not source.complete:
            raise StoreError(f"{os.fspath(path)} is unfinished; run packrank encode again first")
        if names is not None:
            _check_new(appender, names)
        else:
            first = appender.num_documents if source is None else source.before + source.lines + 1
            numbers = map(str, count(first))
            names = list(islice((name for name in numbers if not appender.holds(name)), len(texts)))
            if source is not None and names:
                # Lines that the file will gain get numbers beyond these.
                source = replace(source, before=int(names[-1]) - source.lines)
        for start in range(0, len(texts), _DOCUMENTS_AT_ONCE):
            window, cut = texts[start : start + _DOCUMENTS_AT_ONCE], set[str]()
            try:
                vectors = encode(window, cut)
            except PairError as error:
                raise PairError(start + error.index, error.reason) from None
            for index in not_finite(vectors, kind):
                raise PairError(start + index, f"a value of its vectors is not finite in {kind}")
            if appender.manifest is None:
                appender.create(kind, size, identity)
            num_cut = sum(text in cut for text in window)
            appender.append(names[start : start + len(window)], vectors, num_cut)
        if appender.manifest is None:
            appender.create(kind, size, identity)
        appender.commit(source)


def _check_new(appender: Appender, ids: list[str]) -> None:
    """Raise StoreError if a store has documents by some of these ids."""
    there = [id for id in ids if appender.holds(id)]
    if not there:
        return
    if len(there) == len(ids):
        raise StoreError(
            f"{appender.path} has documents by all of these ids already; open it as it is with "
            "LateInteraction(model, store=...), or name another store to encode them anew"
        )
    raise StoreError(
        f"{appender.path} has documents by {len(there)} of the {len(ids)} ids already, the first "
        f"of them {there[0]!r}; leave those out, or name another store to encode them anew"
    )
