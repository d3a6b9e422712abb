"""MaxSim of one query against 1000 documents, on the CPU; checked, then timed."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from packrank_kernels import maxsim
from packrank_kernels.testing import cu_seqlens

maxsim_cpu = pytest.importorskip("maxsim_cpu")

QUERY_TOKENS, DOCS, SIZE = 32, 1000, 128


@pytest.mark.parametrize("lengths", ["uniform", "ragged"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def bench_maxsim(race, lengths, dtype):
    rng = np.random.default_rng(0)
    sizes = [180] * DOCS
    if lengths == "ragged":  # log-normal, mean about 180
        sizes = np.clip(rng.lognormal(5.0, 0.6, DOCS), 8, 512).astype(int).tolist()
    tokens = sum(sizes)
    query = rng.standard_normal((QUERY_TOKENS, SIZE), dtype=np.float32)
    docs = rng.standard_normal((tokens, SIZE), dtype=np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    docs /= np.linalg.norm(docs, axis=1, keepdims=True)
    starts = np.cumsum([0, *sizes])
    parts = [docs[a:b] for a, b in pairwise(starts)]
    # Copies in turn, more than the caches hold, so that every call reads from memory.
    q = torch.from_numpy(query).to(dtype)
    copies = [torch.from_numpy(docs.copy()).to(dtype) for _ in range(4)]
    cu = cu_seqlens(sizes, torch.int64)
    turn = iter(range(10**9))

    def ours():
        return maxsim(q, copies[next(turn) % len(copies)], cu)

    padded = np.zeros((DOCS, max(sizes), SIZE), dtype=np.float32)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part

    def peer():
        if lengths == "uniform":
            return maxsim_cpu.maxsim_scores(query, padded)
        return maxsim_cpu.maxsim_scores_variable(query, parts)

    def blas():
        similarity = docs @ query.T
        return np.maximum.reduceat(similarity, starts[:-1], axis=0).sum(axis=1)

    exact = np.array([(query.astype(np.float64) @ part.T).max(axis=1).sum() for part in parts])
    # Unit vectors: 32 sums of 128 products, each rounded once; bfloat16 inputs to 2^-9 each.
    bound = QUERY_TOKENS * (SIZE * 2**-24 if dtype == torch.float32 else 2**-8)
    assert np.abs(ours().numpy() - exact).max() <= bound
    assert np.abs(np.asarray(peer()) - exact).max() <= 1e-3
    case = f"1 x {QUERY_TOKENS} x {DOCS} x {lengths} 180 x {SIZE}, {str(dtype)[6:]}"
    contestants = {"packrank": ours, "maxsim-cpu (float32)": peer, "numpy (float32)": blas}
    race("maxsim", case, contestants, 2e-9 * QUERY_TOKENS * tokens * SIZE, "GFLOP", rounds=30)
