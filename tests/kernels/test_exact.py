"""Scores by decoded vectors, against float64, whatever the blocks that are decoded at once."""

import sys

import numpy as np
import pytest
import torch

from packrank_kernels import BITS, FORMATS, Codec, TokenEmbeddings, maxsim

module = sys.modules["packrank_kernels.maxsim"]  # the package's name is the function
LENGTHS = [3, 0, 17, 1, 40, 0]
INF = float("inf")


def documents_in(format, size=24):
    codec = None
    if format in BITS:
        weights = (torch.randn(2 ** BITS[format]) * 0.3).sort().values
        codec = Codec.of(torch.randn(7, size), (weights[1:] + weights[:-1]) / 2, weights)
    return TokenEmbeddings.encode([torch.randn(length, size) for length in LENGTHS], format, codec)


def expected(query, documents):
    """[N] float64, each document decoded by itself."""
    scores = []
    for n in range(len(documents)):
        vectors = documents.decode(n).double()
        similarities = query.double() @ vectors.T
        scores.append(similarities.amax(dim=1).sum() if len(vectors) else torch.tensor(-INF))
    return torch.stack([score.double() for score in scores])


@pytest.mark.parametrize("format", FORMATS)
def test_equals_float64(monkeypatch, format):
    documents = documents_in(format)
    queries = [torch.randn(n, 24) for n in (5, 33)]
    ids = torch.tensor([4, 1, 0, 4, 2])
    own = [ids, torch.tensor([3, 5])]
    found = []
    for at_once in (1, 24 * 20, 1 << 22):
        monkeypatch.setattr(module, "_DECODED_AT_ONCE", at_once)
        scores = maxsim(queries, documents, exact=True)
        for query, row in zip(queries, scores, strict=True):
            want = expected(query, documents)
            np.testing.assert_allclose(row, want, rtol=1e-5)
        assert torch.equal(maxsim(queries, documents, ids, exact=True), scores[:, ids])
        for m, row in enumerate(maxsim(queries, documents, own, exact=True)):
            assert torch.equal(row, scores[m, own[m]])
        part = maxsim(queries[0], documents.slice(2, 5), exact=True)
        assert torch.equal(part, scores[0, 2:5])
        best = maxsim(queries[1], documents, top_k=3, exact=True)
        assert torch.equal(best.indices, scores[1].argsort(descending=True, stable=True)[:3])
        found.append(scores)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_query_is_not_rounded():
    documents = TokenEmbeddings.encode([torch.ones(1, 8)], "float16")
    query = torch.full((1, 8), 1 + 2**-20)
    assert maxsim(query, documents).item() == 8.0
    assert maxsim(query, documents, exact=True).item() == 8 * (1 + 2**-20)


def test_equal_scores_go_to_the_lower_document():
    documents = TokenEmbeddings.encode([torch.ones(1, 8)] * 9, "int8")
    found = maxsim(torch.ones(2, 8), documents, torch.tensor([7, 2, 8, 3]), 3, exact=True)
    assert found.indices.tolist() == [2, 3, 7]


@pytest.mark.parametrize("format", ["int8", "4bit"])
def test_what_is_not_a_number(format):
    documents = documents_in(format)
    assert documents.scales is not None
    documents.scales[[0, 21]] = torch.tensor([torch.nan, INF])
    if documents.codes is not None:
        documents.codes[20] = -1
    scores = maxsim(torch.rand(4, 24), documents, exact=True)
    assert scores.isnan().tolist() == [True, False, False, format == "4bit", True, False]
    assert scores[[1, 5]].tolist() == [-INF, -INF]


@pytest.mark.parametrize("format", ["float16", "2bit"])
def test_nothing_to_score(format):
    documents, query = documents_in(format), torch.randn(3, 24)
    none = torch.tensor([], dtype=torch.int64)
    assert maxsim(query, documents.slice(1, 1), exact=True).shape == (0,)
    assert maxsim([query] * 2, documents, none, exact=True).shape == (2, 0)
    assert maxsim([], documents, [], exact=True) == []
    assert maxsim([query], documents, [none], exact=True)[0].shape == (0,)
    assert maxsim(query[:0], documents.slice(0, 2), exact=True).tolist() == [0.0, -INF]


def test_float32_is_exact_already():
    documents, query = documents_in("float32"), torch.randn(3, 24)
    assert torch.equal(maxsim(query, documents, exact=True), maxsim(query, documents))
