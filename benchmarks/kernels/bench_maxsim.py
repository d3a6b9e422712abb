"""MaxSim of one query against 1000 documents, in every format, on the CPU; checked, then timed."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from packrank.bench.peers.late import disagreement
from packrank.bench.peers.opening import opened_maxsim
from packrank_kernels import BITS, FORMATS, Codec, TokenEmbeddings, maxsim
from packrank_kernels.testing import cu_seqlens

QUERY_TOKENS, DOCS, SIZE = 32, 1000, 128
CENTROIDS = 4096  # by ColBERT's rule for 180,000 tokens
COPIES = 8  # in turn, more than the caches hold, so that every call reads from memory


def document_lengths(kind, rng):
    if kind == "uniform":
        return [180] * DOCS
    # Log-normal, mean about 180.
    return np.clip(rng.lognormal(5.0, 0.6, DOCS), 8, 512).astype(int).tolist()


def encoded(format, docs, cu, rng):
    """The documents in a format; residual codes by centroids picked among the tokens."""
    if format in BITS:
        bits = int(format[0])
        centroids = torch.from_numpy(docs[rng.choice(len(docs), CENTROIDS, replace=False)])
        sample = torch.from_numpy(docs[:20_000])
        spread = (sample - centroids[(sample @ centroids.T).argmax(1)]).flatten()
        steps = torch.arange(2 * 2**bits + 1)[1:-1] / (2 * 2**bits)
        quantiles = torch.from_numpy(np.quantile(spread.numpy(), steps.numpy())).float()
        codec = Codec.of(centroids, quantiles[1::2], quantiles[::2])
        codes, residuals, scales = codec.encode(torch.from_numpy(docs))
        return TokenEmbeddings.of(residuals, cu, scales, codes, codec)
    parts = torch.split(torch.from_numpy(docs), (cu[1:] - cu[:-1]).tolist())
    return TokenEmbeddings.encode(parts, format)


def copy_of(documents):
    tensors = ("values", "scales", "codes")
    parts = {name: getattr(documents, name) for name in tensors}
    parts = {name: None if x is None else x.clone() for name, x in parts.items()}
    return TokenEmbeddings.of(cu_seqlens=documents.cu_seqlens, codec=documents.codec, **parts)


def exact_scores(query, documents):
    """MaxSim of the decoded vectors in float64."""
    query = query.astype(np.float64)
    return np.array(
        [(query @ documents.decode(n).double().numpy().T).max(axis=1).sum() for n in range(DOCS)]
    )


def bound(format, query, documents):
    """Largest error of a score of unit vectors, QUERY_TOKENS sums of SIZE products.

    Of integers five standard deviations: the query's bytes are off by up to half a step, and so are
    a codec's centroids and weights.
    """
    inputs = {"float32": SIZE * 2**-24, "float16": 2**-10, "bfloat16": 2**-8}.get(format)
    if inputs is None:
        steps = np.abs(query).max(axis=1) / 127
        if documents.codec is not None:
            scales = documents.scales.max().item()
            steps = np.hypot(steps, 2**0.5 * documents.codec.step * scales)
        return float(5 * steps.sum() / 12**0.5)
    return QUERY_TOKENS * inputs


@pytest.mark.parametrize("lengths", ["uniform", "ragged"])
@pytest.mark.parametrize("format", FORMATS)
def bench_maxsim(race, rows, lengths, format):
    rng = np.random.default_rng(0)
    sizes = document_lengths(lengths, rng)
    tokens = sum(sizes)
    query = rng.standard_normal((QUERY_TOKENS, SIZE), dtype=np.float32)
    docs = rng.standard_normal((tokens, SIZE), dtype=np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    docs /= np.linalg.norm(docs, axis=1, keepdims=True)
    starts = np.cumsum([0, *sizes])
    parts = [docs[a:b] for a, b in pairwise(starts)]
    documents = encoded(format, docs, cu_seqlens(sizes, torch.int64), rng)
    copies = [documents, *(copy_of(documents) for _ in range(COPIES - 1))]
    q = torch.from_numpy(query)
    turn = iter(range(10**9))

    def ours():
        return maxsim(q, copies[next(turn) % COPIES])

    def blas():
        similarity = docs @ query.T
        return np.maximum.reduceat(similarity, starts[:-1], axis=0).sum(axis=1)

    exact = np.array([(query.astype(np.float64) @ part.T).max(axis=1).sum() for part in parts])
    peers, left_out = opened_maxsim(torch.device("cpu"))
    theirs = {peer.name: peer.prepare(q, torch.from_numpy(docs), sizes) for peer in peers}
    for peer in peers:
        assert disagreement(peer, theirs[peer.name](), exact) is None
    for sentence in left_out:
        rows.say(sentence)
    error = np.abs(ours().numpy() - exact_scores(query, documents)).max()
    assert error <= bound(format, query, documents)
    if format == "int8" or format in BITS:
        assert torch.equal(ours(), maxsim(q, documents, backend="reference"))
    case = f"1 x {QUERY_TOKENS} x {DOCS} x {lengths} 180 x {SIZE}, {format}"
    contestants = {"packrank": ours, **theirs, "numpy (float32)": blas}
    race("maxsim", case, contestants, 2e-9 * QUERY_TOKENS * tokens * SIZE, "GFLOP", rounds=30)
