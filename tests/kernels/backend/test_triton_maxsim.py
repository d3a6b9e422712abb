"""How Triton's MaxSim shares out its work: whatever the shares, the bits are the same."""

import pytest
import torch

pytest.importorskip("triton")

from packrank_kernels import TokenEmbeddings, maxsim
from packrank_kernels.backend.triton import maxsim as module
from packrank_kernels.packed import FORMATS
from packrank_kernels.testing import cu_seqlens

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LENGTHS = [1, 500, 0, 0, 64, 65, 128, 2, 3, 700, 0]


def make(lengths=LENGTHS):
    values = torch.randint(-127, 128, (sum(lengths), 16), dtype=torch.int8)
    scales = torch.rand(sum(lengths))
    return TokenEmbeddings.of(values, cu_seqlens(lengths, torch.int64), scales).to(DEVICE)


@pytest.mark.parametrize("processors", [1, 3, 12])
def test_any_number_of_shares(monkeypatch, processors):
    monkeypatch.setattr(module, "_processors", lambda device: processors)
    documents = make()
    queries = [torch.randn(n, 16, device=DEVICE) for n in (40, 3)]
    ids = torch.tensor([9, 2, 9, 1, 0], device=DEVICE)
    own = [torch.tensor([9, 1], device=DEVICE), torch.tensor([10, 9], device=DEVICE)]
    for candidates in (None, ids, own):
        found = maxsim(queries, documents, candidates, backend="triton")
        expected = maxsim(queries, documents, candidates, backend="reference")
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("maxima", [1, 120])
def test_a_part_of_the_documents_at_a_time(monkeypatch, maxima):
    monkeypatch.setattr(module, "_MAXIMA_AT_ONCE", maxima)
    documents = make([70, 0, 3, 65, 1])
    queries = [torch.randn(n, 16, device=DEVICE) for n in (40, 3)]
    ids = torch.tensor([3, 3, 1, 0, 4], device=DEVICE)
    for candidates in (None, ids, [ids, ids[:2]]):
        found = maxsim(queries, documents, candidates, backend="triton")
        expected = maxsim(queries, documents, candidates, backend="reference")
        assert all(map(torch.equal, found, expected))


def test_the_last_piece_of_a_document_counts(monkeypatch):
    monkeypatch.setattr(module, "_processors", lambda device: 5)
    values, query = -torch.rand(700, 8), torch.ones(2, 8, device=DEVICE)
    values[699] = 5.0
    starts = cu_seqlens([0, 700], torch.int64)
    found = maxsim(query, TokenEmbeddings.of(values, starts).to(DEVICE), backend="triton")
    assert found.tolist() == [-float("inf"), 80.0]
    values[699, 0] = float("nan")
    found = maxsim(query, TokenEmbeddings.of(values, starts).to(DEVICE), backend="triton")
    assert found[1].isnan()


@pytest.mark.parametrize("places", [2, 7, 264, 528])
def test_the_last_round_is_not_empty(places):
    for blocks in (1, 2, 3, 5, 32, 100, 300, 527, 5000):
        shares = module._shares(places, blocks)
        programs = shares * blocks
        assert programs / (-(-programs // places) * places) >= 7 / 8 or blocks > 8 * places


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [1, 4, 48, 96, 128, 320, 1024])
def test_the_order_of_sums_follows_from_the_documents(format, size):
    """So that a query has the same bits in any company."""
    configs = [module.configuration(format, size, n) for n in (0, 1, 16, 17, 129, 1000, 5000)]
    assert len({config.block_k for config in configs}) == 1
    assert len({config.block_m for config in configs}) == 1
    assert all(16 <= config.block_n <= 128 for config in configs)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize("given", [False, True], ids=["all", "candidates"])
def test_a_graph_follows_the_candidates(given):
    """Captured once, replayed with other documents and queries."""
    documents, queries = make(), [torch.randn(n, 16, device=DEVICE) for n in (40, 3)]
    ids = torch.tensor([9, 2, 1], device=DEVICE) if given else None

    def run():
        return maxsim(queries, documents, ids, backend="triton")

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    queries[0].normal_()
    documents.cu_seqlens.copy_(cu_seqlens([200, 0, 1, 3, 500, 0, 60, 0, 0, 2, 5], torch.int64))
    if ids is not None:
        ids.copy_(torch.tensor([4, 0, 4]))
    graph.replay()
    assert torch.equal(found, run())
