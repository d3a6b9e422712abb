"""The best of MaxSim's scores: equal ones in the order of the documents, NaN last."""

import sys

import numpy as np
import pytest
import torch

from packrank_kernels import TokenEmbeddings, maxsim
from packrank_kernels.testing import cu_seqlens

OP = "maxsim"


def make(lengths, size, device="cpu"):
    values = torch.randint(-127, 128, (sum(lengths), size), dtype=torch.int8)
    scales = torch.rand(sum(lengths))
    return TokenEmbeddings.of(values, cu_seqlens(lengths, torch.int64), scales).to(device)


def best(scores, ids, k):
    """Indices of the best: descending, equal scores in the order of the documents, NaN last."""
    order = sorted(zip(scores, ids, strict=True), key=lambda x: (np.isnan(x[0]), -x[0], x[1]))
    return [i for _, i in order[:k]]


@pytest.mark.parametrize("top_k", [1, 4, 100])
def test_top_k(backend, device, top_k):
    lengths = [3, 2, 0, 3, 2, 1, 0, 5]
    documents = make(lengths, 32, device)
    starts = np.cumsum([0, *lengths])
    assert documents.scales is not None
    for copy, of in ((3, 0), (4, 1)):  # equal documents
        for x in (documents.values, documents.scales):
            length = lengths[of]
            x[starts[copy] : starts[copy] + length] = x[starts[of] : starts[of] + length].clone()
    documents.scales[starts[5]] = torch.nan
    queries = [torch.randn(n, 32, device=device) for n in (3, 9)]
    dense = maxsim(queries, documents, backend=backend).cpu().numpy()
    shared = torch.tensor([7, 4, 3, 5, 1, 2, 0, 0], device=device)
    own = [torch.tensor([5, 3, 0], device=device), torch.tensor([6], device=device)]
    for given in (None, shared, own):
        scores, indices = maxsim(queries, documents, given, top_k, backend=backend)
        lists = [range(8)] * 2 if given is None else [shared] * 2 if given is shared else own
        assert scores.shape == indices.shape == (2, min(top_k, max(map(len, lists))))
        for m, some in enumerate(lists):
            ids = [int(i) for i in some]
            want = best(dense[m, ids], ids, top_k)
            assert indices[m].tolist()[: len(want)] == want
            found = scores[m].cpu().numpy()
            np.testing.assert_array_equal(found[: len(want)], dense[m, want])
            assert (indices[m, len(want) :] == -1).all()
            assert np.isneginf(found[len(want) :]).all()
    one = maxsim(queries[1], documents, None, top_k, backend=backend)
    every = maxsim(queries, documents, None, top_k, backend=backend)
    assert torch.equal(one.indices, every.indices[1])


@pytest.mark.parametrize("given", [False, True], ids=["all", "candidates"])
def test_top_k_a_part_at_a_time(monkeypatch, given):
    monkeypatch.setattr(sys.modules["packrank_kernels.maxsim"], "_SCORES_AT_ONCE", 1)
    documents = make([1] * 3000, 4)
    query = torch.randn(1, 4)
    ids = torch.randperm(3000) if given else None
    scores = maxsim(query, documents).numpy()
    found = maxsim(query, documents, ids, top_k=5)
    assert found.indices.tolist() == best(scores, range(3000), 5)


@pytest.mark.parametrize("top_k", [0, -1, True])
def test_refusals(top_k):
    with pytest.raises(ValueError, match=f"top_k is {top_k}, expected at least 1"):
        maxsim(torch.randn(3, 8), make([2, 3], 8), top_k=top_k)
