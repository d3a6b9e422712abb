"""Documents by the vectors that a model has at marked tokens: jina-reranker-v3."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from packrank.documents import document_of
from packrank.models.marked import MarkedModel
from packrank.ordering.blocks import BlockLayout, Blocks, packed
from packrank.ordering.joint_ranker import Ordered
from packrank.request import Pack
from packrank.runtime.runner import Runner
from packrank.work import Calls

Vectors = NDArray[np.float32]


class ByBlocks:
    """Blocks of many queries in common packs, and the cosines that come of them.

    Args:
        layout: of blocks.
        runner: of a `MarkedModel`.
    """

    def __init__(self, layout: BlockLayout, runner: Runner) -> None:
        assert isinstance(runner.model, MarkedModel)
        self._layout, self._runner = layout, runner
        self._projector = runner.model.projector
        self._markers = np.array(layout.markers, dtype=np.int32)

    def prepared(self, query: str, documents: list[Any]) -> Blocks:
        """The blocks of a query; see `JointRanker`."""
        # It takes texts alone, so none of these is tokens.
        return self._layout.lay_out(query, [str(document_of(one).text) for one in documents])

    def ordered(self, prepared: list[Blocks], top_k: int | None) -> list[Ordered]:
        """The order of each query's documents, by score; equal ones keep theirs."""
        vectors = self._vectors(packed(prepared))
        found, first = [], 0
        for blocks in prepared:
            mine = vectors[first : first + len(blocks.ids)]
            first += len(blocks.ids)
            calls = Calls(len(blocks.ids), sum(map(len, blocks.ids)))
            if not all(np.isfinite(each).all() for each in mine):
                found.append(Ordered([], calls, "the model's vectors for it are no finite numbers"))
                continue
            scores = merged(mine)
            order = np.argsort(-scores, kind="stable")
            found.append(Ordered([(int(at), float(scores[at])) for at in order], calls))
        return found

    def _vectors(self, pack: Pack) -> list[Vectors]:
        """Of each sequence [n + 1, D] float32: of its documents, and of the query at the end."""

        def wanted(pack: Pack) -> NDArray[np.bool_]:
            return np.isin(pack.token_ids, self._markers)

        out: dict[int, Vectors] = {}
        with torch.inference_mode():
            for indices, states, starts in self._runner.packs_of_hidden_states(
                pack, wanted=wanted, then=self._projector
            ):
                rows = states.float().cpu().numpy()
                bounds = pairwise(starts.tolist())
                for index, (start, stop) in zip(indices.tolist(), bounds, strict=True):
                    out[index] = rows[start:stop]
        return [out[index] for index in range(len(pack))]


def merged(blocks: Sequence[Vectors]) -> Vectors:
    """The cosines of documents of several blocks with one vector of their query.

    It is the mean of the query's vectors, each weighted by its best document's (1 + cosine) / 2.

    Args:
        blocks: [n + 1, D] float32 each: n documents, and the query at the end.

    Returns:
        [all n] float32.

    Source: jinaai/jina-reranker-v3, modeling.py, rerank.
    """
    best = [float(((1 + _cosines(each[:-1], each[-1])) / 2).max()) for each in blocks]
    weights = np.maximum(np.array(best, dtype=np.float32), np.finfo(np.float32).tiny)
    queries = np.stack([each[-1] for each in blocks])
    query = np.average(queries, axis=0, weights=weights).astype(np.float32)
    return np.concatenate([_cosines(each[:-1], query) for each in blocks])


def _cosines(documents: Vectors, query: Vectors) -> Vectors:
    # Row by row, so that no product's bits hang on how many documents there are.
    sums = (documents * query).sum(axis=1)
    sizes = np.linalg.norm(documents, axis=1) * np.linalg.norm(query)
    return np.asarray(sums / np.maximum(sizes, np.float32(1e-8)), dtype=np.float32)
