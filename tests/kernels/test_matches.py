"""Which token matched which, on every backend, against numpy on the vectors that a format keeps."""

import numpy as np
import pytest
import torch

from packrank_kernels import BITS, FORMATS, Codec, TokenEmbeddings, matches, maxsim
from packrank_kernels.dispatch import TABLE
from packrank_kernels.packed import Queries
from packrank_kernels.testing import cu_seqlens

OP = "matches"
CASES = [pytest.param(x, getattr(torch, x, torch.int8), id=x) for x in FORMATS]
LENGTHS = [3, 0, 1, 70, 17, 64, 130]
STARTS = np.cumsum([0, *LENGTHS])
IDS = [6, 1, 0, 3, 3, 2]


def make(format, size, lengths=LENGTHS, device="cpu"):
    codec, bits = None, BITS.get(format)
    if bits:
        cutoffs = torch.linspace(-1, 1, 2**bits - 1)
        codec = Codec.of(torch.randn(5, size), cutoffs, torch.linspace(-1.1, 1.1, 2**bits))
    documents = [torch.randn(length, size) for length in lengths]
    return TokenEmbeddings.encode(documents, format, codec).to(device)


def summed(terms):
    """[K, Q] float32 -> [K], 32 lanes and then halves."""
    padded = np.pad(terms, ((0, 0), (0, -terms.shape[1] % 32))).astype(np.float32)
    lanes = np.zeros((len(terms), 32), np.float32)
    for part in np.split(padded, padded.shape[1] // 32, axis=1):
        lanes = lanes + part
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


@pytest.mark.parametrize(("format", "dtype"), CASES)
@pytest.mark.parametrize(("query_tokens", "size"), [(1, 8), (35, 48)])
def test_rows_sum_to_the_score(backend, device, format, dtype, query_tokens, size):
    documents = make(format, size, device=device)
    query, ids = torch.randn(query_tokens, size, device=device), torch.tensor(IDS, device=device)
    found = matches(query, documents, ids, backend=backend)
    assert found.tokens.shape == found.scores.shape == (len(IDS), query_tokens)
    assert (found.tokens.dtype, found.scores.dtype) == (torch.int32, torch.float32)
    scores = maxsim(query, documents, ids, backend=backend)
    np.testing.assert_array_equal(summed(found.scores.cpu().numpy()), scores.cpu().numpy())
    assert (found.tokens[1] == -1).all()
    assert torch.isneginf(found.scores[1]).all()


@pytest.mark.parametrize(("format", "dtype"), CASES)
def test_no_token_matches_better(backend, device, format, dtype):
    """In float64, on the vectors that the format keeps; integer tables are off by half a step."""
    size = 48
    documents = make(format, size, device=device)
    query, ids = torch.randn(35, size, device=device), torch.tensor(IDS, device=device)
    found = matches(query, documents, ids, backend=backend)
    x = query.cpu()
    x = (x if dtype == torch.int8 else x.to(dtype)).double().numpy()
    for place, document in enumerate(IDS):
        if not LENGTHS[document]:
            continue
        vectors = documents.to(torch.device("cpu")).decode(document).double().numpy()
        similarities = x @ vectors.T
        tokens = found.tokens[place].cpu().numpy()
        assert ((tokens >= 0) & (tokens < LENGTHS[document])).all()
        matched = similarities[np.arange(len(x)), tokens]
        reach = np.abs(x).sum(axis=1) * np.abs(vectors).max()
        slack = {"int8": 1 / 127, **dict.fromkeys(BITS, 1 / 40)}.get(format, 1e-5)
        assert (similarities.max(axis=1) - matched <= slack * reach).all()
        assert (np.abs(found.scores[place].cpu().numpy() - matched) <= slack * reach).all()


@pytest.mark.parametrize("scales", [None, [0.5, 2.0, 0.25, 1.0]])
def test_tokens_to_the_integer(backend, device, scales):
    """Whole numbers have no rounding: every token is the one that numpy finds first."""
    values = torch.randint(-3, 4, (sum(LENGTHS), 8), dtype=torch.int8)
    factors = torch.tensor([1.0] if scales is None else scales).repeat(len(values))[: len(values)]
    starts = cu_seqlens(LENGTHS, torch.int64)
    documents = TokenEmbeddings.of(values, starts, factors).to(device)
    query = torch.randint(-3, 4, (40, 8)).float()
    query[:, 0] = 127.0  # so that the query's scale is 1
    found = matches(query.to(device), documents, torch.tensor(IDS, device=device), backend=backend)
    vectors = values.double().numpy() * factors.double().numpy()[:, None]
    for place, document in enumerate(IDS):
        if not LENGTHS[document]:
            continue
        rows = slice(STARTS[document], STARTS[document + 1])
        similarities = query.double().numpy() @ vectors[rows].T
        np.testing.assert_array_equal(found.tokens[place].cpu(), similarities.argmax(axis=1))
        np.testing.assert_array_equal(found.scores[place].cpu(), similarities.max(axis=1))


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_the_first_of_equal_tokens(backend, device, zero):
    values = torch.full((200, 4), -1.0)
    values[[70, 71, 150, 199], 0] = 3.0
    values[5, 1], values[130, 1] = zero, -zero
    documents = TokenEmbeddings.of(values, torch.tensor([0, 100, 200])).to(device)
    query = torch.eye(4, device=device)[:3]
    ids = torch.tensor([0, 1], device=device)
    found = matches(query, documents, ids, backend=backend)
    assert found.tokens.tolist() == [[70, 5, 0], [50, 30, 0]]
    assert found.scores.tolist() == [[3.0, 0.0, -1.0], [3.0, 0.0, -1.0]]
    twice = TokenEmbeddings.of(torch.zeros(100, 4), torch.tensor([0, 100])).to(device)
    twice.values[:50] = -0.0
    found = matches(query, twice, ids[:1], backend=backend)
    assert found.tokens.tolist() == [[0, 0, 0]], "the two zeros are equal"


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("nan", [torch.nan, -torch.nan])
@pytest.mark.parametrize("first", [2, 90])
def test_the_first_nan(backend, device, first, nan):
    values = torch.rand(100, 4)
    values[first, 0], values[95, 0], values[1, 1] = nan, -nan, torch.inf
    assert values[first, 0].signbit() != values[95, 0].signbit()
    documents = TokenEmbeddings.of(values, torch.tensor([0, 100])).to(device)
    query = torch.eye(4, device=device)[:2] + 1.0
    found = matches(query, documents, torch.tensor([0], device=device), backend=backend)
    assert found.tokens.tolist() == [[first, first]]
    assert found.scores.isnan().all()


def test_all_similarities_negative_infinity(backend, device):
    values = torch.full((70, 2), -torch.inf)
    documents = TokenEmbeddings.of(values, torch.tensor([0, 70])).to(device)
    query = torch.ones(16, 2, device=device)
    found = matches(query, documents, torch.tensor([0], device=device), backend=backend)
    assert (found.tokens == 0).all()
    assert torch.isneginf(found.scores).all()


def test_a_slice_counts_from_the_start_of_its_documents(backend, device):
    documents = make("int8", 8, device=device)
    query, ids = torch.randn(5, 8, device=device), torch.tensor([3, 4], device=device)
    found = matches(query, documents, ids, backend=backend)
    part = matches(query, documents.slice(2, 6), ids - 2, backend=backend)
    assert all(map(torch.equal, found, part))


def test_a_candidate_that_is_no_document_on_a_device(backend, device):
    """The op looks at candidates on a CPU and refuses; a device must not read elsewhere."""
    if backend not in ("triton", "reference"):
        pytest.skip("runs on a CPU only")
    run = next(b.run for b in TABLE[OP] if b.name == backend)
    documents = make("int8", 8, [5, 0, 2], device)
    values = torch.randint(-127, 128, (4, 8), dtype=torch.int8, device=device)
    queries = Queries(values, torch.ones(4, device=device), (0, 4))
    ids = torch.tensor([0, -1, 1, 3, 2**63 - 1], device=device)
    tokens, scores = run(queries, documents, ids)
    assert scores.isnan().all(dim=1).tolist() == [False, True, False, True, True]
    assert (tokens[1:] == -1).all()
    assert torch.isneginf(scores[2]).all()


def test_nothing_to_match(backend, device):
    documents = make("int8", 8, device=device)
    ids = torch.tensor(IDS, device=device)
    assert matches(torch.randn(0, 8).to(device), documents, ids, backend=backend).tokens.shape == (
        len(IDS),
        0,
    )
    found = matches(torch.randn(3, 8).to(device), documents, ids[:0], backend=backend)
    assert found.scores.shape == (0, 3)


def test_refusals():
    documents = make("int8", 8)
    query = torch.randn(3, 8)
    with pytest.raises(ValueError, match="matches: candidate 7 is not among 7 documents"):
        matches(query, documents, torch.tensor([7]))
    with pytest.raises(ValueError, match=r"matches: query has shape \[8\], expected \[Q, 8\]"):
        matches(query[0], documents, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"matches: candidates has shape \[1, 1\], expected \[K\]"):
        matches(query, documents, torch.tensor([[0]]))


@pytest.mark.parametrize("format", ["int8", "4bit", "2bit"])
def test_a_token_that_is_unsound_is_matched(backend, device, format):
    documents = make(format, 32, [6, 6], device)
    assert documents.scales is not None
    if documents.codes is None:
        documents.scales[4] = torch.nan
    else:
        documents.codes[4] = 5
    query, ids = torch.rand(20, 32, device=device), torch.tensor([0, 1], device=device)
    found = matches(query, documents, ids, backend=backend)
    assert (found.tokens[0] == 4).all() and found.scores[0].isnan().all()
    assert found.scores[1].isfinite().all()
