"""Random packs through every op and instruction set of the C++ module, against the definition.

`fuzz.py [CASES] [SEED]`; run by tests/sanitize.py on a build that stops at the first bad address or
undefined operation.
"""

import functools
import random
import sys

import torch

from packrank_kernels import (
    BITS,
    Codec,
    Pages,
    RelativePositions,
    TokenEmbeddings,
    add_layer_norm,
    add_rms_norm,
    attention,
    embed_layer_norm,
    linear,
    matches,
    maxsim,
    pack_head,
    pack_linear,
    paged_attention,
    reference,
    score_head,
    set_num_threads,
    stream,
)
from packrank_kernels.backend import native
from packrank_kernels.dispatch import TABLE
from packrank_kernels.testing import assert_close, cu_seqlens

# Twice what the unit tests allow: thousands of draws reach further into the tail.
BOUND = {torch.float32: 2e-5, torch.bfloat16: 2**-6}


def lengths(rng, longest):
    draw = [0, 1, 2, rng.randint(0, 20), rng.randint(0, longest)]
    return [rng.choice(draw) for _ in range(rng.randint(0, 6))]


def fuzz_linear(rng, dtype, backend):
    t, k, n = rng.randint(0, 130), rng.randint(1, 150), rng.randint(1, 150)
    k = 32 * rng.randint(1, 5) if backend == "amx" else k
    gated = rng.random() < 0.3
    activation = rng.choice([None, *reference.ACTIVATE])
    weight = (torch.randn(n * (1 + gated), k) / k**0.5).to(dtype)
    # Signed terms may cancel; a bias of 2 keeps some output near the size of its terms.
    x, bias = torch.randn(t, k).to(dtype), torch.randn(len(weight)) + 2
    form = {"activation": activation, "gated": gated, "wide": rng.random() < 0.2}
    packed = pack_linear(weight, bias, **form, backend=backend)
    return linear(x, packed), reference.linear(x, weight, bias, **form)


def fuzz_attention(rng, dtype, backend):
    if rng.random() < 0.3:
        return fuzz_relative_attention(rng, dtype, backend)
    keys = lengths(rng, 400)
    queries = keys if rng.random() < 0.5 else [rng.randint(0, 40) for _ in keys]
    causal = rng.random() < 0.6
    prefix_of = [-1] * len(keys)
    if causal and rng.random() < 0.7:
        owners = [n for n in range(len(keys)) if rng.random() < 0.4]
        for n in set(range(len(keys))) - set(owners) if owners else ():
            prefix_of[n] = rng.choice([-1, *owners])
    key_heads, size = rng.randint(1, 3), rng.randint(1, 70)
    heads = key_heads * rng.choice([1, 1, 2, 7])
    q = torch.randn(sum(queries), heads, size).to(dtype)
    k, v = torch.randn(sum(keys), 2, key_heads, size).to(dtype).unbind(1)
    window = rng.choice([None, 0, rng.randint(0, 100)])
    softcap = rng.choice([None, rng.uniform(0.5, 60.0)])
    scale = rng.uniform(0.1, 1.0) * size**-0.5
    whole = [n if p < 0 else n + keys[p] for n, p in zip(keys, prefix_of, strict=True)]
    fits = all(q <= k for q, k in zip(queries, whole, strict=True)) or not causal
    rotary = None
    if size % 2 == 0 and fits and rng.random() < 0.5:
        theta = torch.rand(max([1, *whole, *queries]), size // 2) * 6.3
        rotary = theta.cos(), theta.sin()
    args = (q, k, v, cu_seqlens(queries), cu_seqlens(keys))
    options = {
        "scale": scale,
        "window": window,
        "rotary": rotary,
        "causal": causal,
        "prefix_of": torch.tensor(prefix_of, dtype=torch.int32) if causal else None,
        "softcap": softcap,
    }
    return attention(*args, backend=backend, **options), reference.attention(*args, **options)


def fuzz_paged_attention(rng, dtype, backend):
    lengths_k = lengths(rng, 300)
    new = [rng.choice([length, min(length, 1), rng.randint(0, length)]) for length in lengths_k]
    asking = [rng.choice([n, min(n, 1)]) for n in new]
    key_heads, size, page = rng.randint(1, 3), rng.randint(1, 70), rng.randint(1, 40)
    heads = key_heads * rng.choice([1, 2, 7, 30])
    counts = [-(-length // page) for length in lengths_k]
    numbers = torch.randperm(sum(counts) + 1, dtype=torch.int32)
    table = torch.full((len(counts), max(counts, default=0) + rng.randint(0, 2)), -1).int()
    for row, mine in zip(table, numbers[:-1].split(counts), strict=True):
        row[: len(mine)] = mine
    kept = torch.randn(2, len(numbers), key_heads, page, size).to(dtype)
    q = torch.randn(sum(asking), heads, size).to(dtype)
    k, v = torch.randn(2, sum(new), key_heads, size).to(dtype)
    rotary = None
    if size % 2 == 0 and rng.random() < 0.5:
        theta = torch.rand(max([1, *lengths_k]), size // 2) * 6.3
        rotary = theta.cos(), theta.sin()
    options = {
        "scale": rng.uniform(0.1, 1.0) * size**-0.5,
        "window": rng.choice([None, 0, rng.randint(0, 100)]),
        "softcap": rng.choice([None, rng.uniform(0.5, 60.0)]),
        "rotary": rotary,
    }
    starts = cu_seqlens(asking), cu_seqlens(new)
    found, by_token = [], rng.random() < 0.3
    for run in (functools.partial(paged_attention, backend=backend), reference.paged_attention):
        pages = kept.transpose(2, 3).contiguous() if by_token else kept.clone().transpose(2, 3)
        have = torch.tensor(lengths_k, dtype=torch.int32)
        out = run(q, k, v, Pages(*pages, table, have), *starts, **options)
        found.append(torch.cat([out.flatten(), pages.flatten()]))
    return found


def fuzz_relative_attention(rng, dtype, backend):
    keys = lengths(rng, 500)
    queries = keys if rng.random() < 0.5 else [rng.randint(0, 300) for _ in keys]
    heads, size, count = rng.randint(1, 3), rng.randint(1, 70), rng.randint(1, 40)
    q = torch.randn(sum(queries), heads, size).to(dtype)
    k, v = torch.randn(sum(keys), 2, heads, size).to(dtype).unbind(1)
    positions = max([1, *keys, *queries]) + rng.randint(0, 3)
    which = rng.choice([(True, True), (True, False), (False, True), (False, False)])
    tables = [torch.randn(count, heads, size).to(dtype) if one else None for one in which]
    rows = torch.randint(count, (2 * positions - 1,), dtype=torch.int32)
    bias = torch.randn(count, heads) if not any(which) or rng.random() < 0.3 else None
    options = {
        "scale": rng.uniform(0.1, 1.0) * size**-0.5,
        "relative": RelativePositions(*tables, rows, bias),
        "causal": not any(which) and rng.random() < 0.5,
        "window": None,
        "rotary": None,
    }
    args = (q, k, v, cu_seqlens(queries), cu_seqlens(keys))
    return attention(*args, backend=backend, **options), reference.attention(*args, **options)


def fuzz_add_layer_norm(rng, dtype, backend):
    rows, size = rng.randint(0, 130), rng.randint(2, 150)
    x = torch.randn(rows, size).to(dtype)
    residual = rng.choice([None, torch.randn(rows, size).to(dtype)])
    weight, bias = torch.randn(size), rng.choice([None, torch.randn(size)])
    normed, total = add_layer_norm(x, residual, weight, bias, 1e-3, backend=backend)
    expected = reference.add_layer_norm(x, residual, weight, bias, 1e-3)
    return torch.cat([normed, total]), torch.cat(expected)


def fuzz_add_rms_norm(rng, dtype, backend):
    rows, size = rng.randint(0, 130), rng.choice([rng.randint(1, 150), rng.randint(1, 5000)])
    x = torch.randn(rows, size).to(dtype)
    residual = rng.choice([None, torch.randn(rows, size).to(dtype)])
    scale = 1.0 if residual is None else rng.uniform(0.1, 2.0)
    weight = torch.randn(size)
    found = add_rms_norm(x, residual, weight, 1e-3, scale=scale, backend=backend)
    expected = reference.add_rms_norm(x, residual, weight, 1e-3, scale)
    return torch.cat(found), torch.cat(expected)


def fuzz_embed_layer_norm(rng, dtype, backend):
    tokens, size = rng.randint(0, 130), rng.randint(2, 150)

    def draw(rows):
        table = torch.randn(rows, size).to(dtype)
        return torch.randint(0, rows, (tokens,), dtype=torch.int32), table

    ids, table = draw(rng.randint(1, 50))
    positions, position_table = rng.choice([(None, None), draw(30)])
    types, type_table = rng.choice([(None, None), draw(2)])
    args = (ids, positions, types, table, position_table, type_table)
    norm = (torch.randn(size), rng.choice([None, torch.randn(size)]), 1e-3)
    return embed_layer_norm(*args, *norm, backend=backend), reference.embed_layer_norm(*args, *norm)


def fuzz_score_head(rng, dtype, backend):
    size, inner, labels = rng.randint(1, 90), rng.randint(2, 90), rng.randint(1, 5)
    hidden = torch.randn(rng.randint(1, 60), size).to(dtype)
    rows = torch.randint(0, len(hidden), (rng.randint(0, 40),), dtype=torch.int32)
    norm = rng.choice([None, (torch.randn(inner), torch.randn(inner), 1e-3)])
    weights = (
        torch.randn(inner, size) / size**0.5,
        rng.choice([None, torch.randn(inner)]),
        rng.choice([None, *reference.ACTIVATE]),
        norm,
        torch.randn(labels, inner) / inner**0.5,
        torch.randn(labels) + 2,
    )
    return tuple(
        score_head(hidden, pack_head(*weights, backend=name), rows)
        for name in (backend, "reference")
    )


def draw_documents(rng, dtype, size):
    """Documents of a dtype, or of an integer format, and their vectors."""
    kind = rng.choice([str(dtype)[6:], "float16", "int8", *BITS])
    bits = BITS.get(kind)
    size = size if bits is None else max(size // (8 // bits), 1) * (8 // bits)
    # Signed terms may cancel: every similarity is shifted up, so that a score is as large as its
    # terms.
    documents = [torch.randn(length, size).abs() for length in [*lengths(rng, 300), 3]]
    codec = None
    if bits is not None:
        weights = torch.randn(2**bits).sort().values
        centroids = torch.randn(rng.randint(1, 20), size).abs()
        centroids[:, rng.sample(range(size), min(rng.choice([0, 1, 3]), size))] *= 50
        codec = Codec.of(centroids, (weights[1:] + weights[:-1]) / 2, weights)
    every = TokenEmbeddings.encode(documents, kind, codec)
    start = rng.randint(0, len(every) - 1)
    return every.slice(start, len(every)) if rng.random() < 0.3 else every


def fuzz_maxsim(rng, dtype, backend):
    documents = draw_documents(rng, dtype, rng.randint(1, 150))
    size, count = documents.size, rng.randint(1, 3)
    queries = [torch.randn(rng.randint(0, 110), size).abs() for _ in range(count)]
    some = torch.randint(0, len(documents), (rng.randint(0, 9),))
    own = [torch.randint(0, len(documents), (rng.randint(0, 5),)) for _ in queries]
    candidates = rng.choice([None, some, own])
    found = [maxsim(queries, documents, candidates, backend=b) for b in (backend, "reference")]
    return [torch.cat(scores) if candidates is own else scores for scores in found]


def fuzz_stream(rng, dtype, backend):
    x, out = torch.randn(rng.randint(1, 3000)), None
    if rng.random() < 0.5:
        out = torch.full_like(x, torch.nan)
    repeats = rng.randint(1, 3)
    found = stream(x, out, repeats=repeats, backend=backend)
    return found.reshape(-1), stream(x, backend="reference").reshape(-1) if out is None else x


def fuzz_matches(rng, dtype, backend):
    documents = draw_documents(rng, dtype, rng.randint(1, 150))
    query = torch.randn(rng.randint(0, 110), documents.size).abs()
    some = torch.randint(0, len(documents), (rng.randint(0, 9),))
    return [matches(query, documents, some, backend=b).scores for b in (backend, "reference")]


def main(cases=500, seed=0):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    cpu = torch.device("cpu")
    counts = {}
    for _ in range(cases):
        op = rng.choice(list(native.OPS))
        dtype = rng.choice(list(BOUND))
        accepting = [b.name for b in TABLE[op] if b.why_not(cpu, dtype) is None]
        native_ones = [name for name in accepting if name in ("amx", *native.ISAS)]
        if not native_ones:  # stream copies floats alone
            continue
        backend = rng.choice(native_ones)
        set_num_threads(rng.randint(1, 4))
        actual, expected = globals()[f"fuzz_{op}"](rng, dtype, backend)
        assert_close(actual, expected, BOUND[dtype])
        counts[op, backend] = counts.get((op, backend), 0) + 1
    for (op, backend), count in sorted(counts.items()):
        print(f"{op:18} {backend:8} {count} cases")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
