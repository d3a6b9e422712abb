"""Scores and rankings are PyLate's, but where it scores padding."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from packrank import LateInteraction

QUERIES = ["the red fox", "", "nobody ran over the cold sea and nobody saw it: nobody!", "?"]
DOCUMENTS = ["the sea", "", "foxes ran, foxes saw.", "?!...", "cold " * 30, "a red fox"]


@pytest.mark.parametrize("expanded", [True, False])
def test_scores_are_pylates(
    models: Callable[..., tuple[Any, LateInteraction]], expanded: bool
) -> None:
    from pylate.scores import colbert_scores

    late, model = models(do_query_expansion=expanded)
    queries = late.encode(QUERIES, is_query=True)
    documents = late.encode(DOCUMENTS, is_query=False)
    expected = [colbert_scores(q[None], d[None]).item() for q in queries for d in documents]
    found = model.score([(query, document) for query in QUERIES for document in DOCUMENTS])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def rerank(query: Any, documents: list[Any]) -> dict[int, float]:
    from pylate.rank import rerank

    [ranked] = rerank([[*range(len(documents))]], [query], [documents])
    return {one["id"]: one["score"] for one in ranked}


@pytest.mark.parametrize("query", QUERIES)
def test_documents_rank_as_in_pylate(
    models: Callable[..., tuple[Any, LateInteraction]], query: str
) -> None:
    late, model = models()
    expected = rerank(late.encode(query), late.encode(DOCUMENTS, is_query=False))
    found = model.rank(query, DOCUMENTS)
    assert [ranked.index for ranked in found] == [*expected]
    assert {ranked.index: ranked.score for ranked in found} == pytest.approx(expected, abs=1e-5)


def test_padding_is_scored_by_pylate_only(
    models: Callable[..., tuple[Any, LateInteraction]],
) -> None:
    """Its zeros are the best match of a query token that has none above 0 in a shorter document."""
    _, model = models()
    query, *documents = (
        torch.nn.functional.normalize(torch.randn(length, 16)) for length in [9, 1, 3, 0, 2, 6]
    )
    best = [(query @ document.T).amax(1) for document in documents if len(document)]
    best.insert(2, torch.full((9,), -torch.inf))
    own = [x.sum().item() for x in best]
    np.testing.assert_allclose(model.similarity(query, documents), own, rtol=0, atol=1e-5)
    peers = [x.clamp(min=0).sum().item() for x in best[:-1]] + own[-1:]
    assert rerank(query, documents) == pytest.approx(dict(enumerate(peers)), abs=1e-5)
    assert all(a < b for a, b in zip(own[:4], peers[:4], strict=True))
