"""Every op in plain PyTorch: the definition of the right answer.

Arithmetic runs in float32 (float64 for float64 inputs) and is rounded once, to the dtype of the
output. Nothing here is fast, and nothing here is shared with the kernels it judges.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from packrank_kernels.packed import PackedHead, PackedTokens, Pages, Queries, RelativePositions

# What the names of `packed.ACTIVATIONS` stand for.
ACTIVATE = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    scale: float,
    window: int | None,
    rotary: tuple[Tensor, Tensor] | None,
    causal: bool = False,
    prefix_of: Tensor | None = None,
    softcap: float | None = None,
    relative: RelativePositions | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    deterministic: bool = True,
) -> Tensor:
    """softmax(scale * q kᵀ) v within each sequence; see `attention.attention`."""
    out = q.new_zeros(q.shape)
    starts_q, starts_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    rows = [slice(start, stop) for start, stop in pairwise(starts_k)]
    prefixes = [-1] * len(rows) if prefix_of is None else prefix_of.tolist()
    for n, prefix in enumerate(prefixes):
        rows_q = slice(starts_q[n], starts_q[n + 1])
        own = [rows[n]] if prefix < 0 else [rows[prefix], rows[n]]
        qn = _wide(q[rows_q])
        kn, vn = (_wide(torch.cat([x[part] for part in own])) for x in (k, v))
        if not len(qn) or not len(kn):
            continue
        first = len(kn) - len(qn) if causal else 0
        if rotary is not None:
            # A causal query before every key has no position, and sees none.
            early = max(-first, 0)
            turned = _rotate(qn[early:], *rotary, max(first, 0))
            qn, kn = torch.cat([qn[:early], turned]), _rotate(kn, *rotary)
        kn, vn = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (kn, vn))
        scores = torch.einsum("qhd,khd->hqk", qn, kn)
        if relative is not None:
            scores = scores + _distances(qn, kn, relative)
        scores = scores * scale
        if relative is not None and relative.bias is not None:
            rows_of = _rows_of_distances(len(qn), len(kn), relative, first)
            scores = scores + relative.bias.to(scores.dtype)[rows_of].permute(2, 0, 1)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        i = torch.arange(first, first + len(qn), device=q.device)[:, None]
        j = torch.arange(len(kn), device=q.device)[None, :]
        hidden = torch.zeros_like(i - j, dtype=torch.bool)
        if window is not None:
            hidden |= (i - j).abs() > window
        if causal:
            hidden |= j > i
        scores = scores.masked_fill(hidden, float("-inf"))
        # A query that sees no key attends to nothing: its row is zero.
        weights = torch.nan_to_num(scores.softmax(-1), nan=0.0)
        weights = torch.where(scores.isnan().any(-1, keepdim=True), torch.nan, weights)
        out[rows_q] = torch.einsum("hqk,khd->qhd", weights, vn).to(q.dtype)
    return out


def paged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pages: Pages,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    scale: float,
    window: int | None,
    rotary: tuple[Tensor, Tensor] | None,
    softcap: float | None = None,
    max_seqlen_q: int | None = None,
    deterministic: bool = True,
) -> Tensor:
    """New keys and values to their pages, then `attention`; see `paged_attention`."""
    out, size = q.new_zeros(q.shape), pages.keys.shape[1]
    asking, added = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for n, length in enumerate(pages.lengths.tolist()):
        at = torch.arange(length, device=q.device)
        where = pages.table[n].long()[at // size], at % size
        new, mine = slice(added[n], added[n + 1]), slice(asking[n], asking[n + 1])
        last = [x[len(at) - (new.stop - new.start) :] for x in where]
        queries, keys = _wide(q[mine]), _wide(k[new])
        if rotary is not None:  # as they are kept: rounded, and of no position any more
            queries = _rotate(queries, *rotary, length - len(queries))
            keys = _rotate(keys, *rotary, length - len(keys))
        pages.keys[last[0], last[1]] = keys.to(q.dtype)
        pages.values[last[0], last[1]] = v[new]
        cu_q, cu_k = (torch.tensor([0, rows]) for rows in (len(queries), length))
        out[mine] = attention(
            queries.to(q.dtype),
            pages.keys[where],
            pages.values[where],
            cu_q,
            cu_k,
            scale,
            window,
            None,
            causal=True,
            softcap=softcap,
        )
    return out


def _distances(q: Tensor, k: Tensor, relative: RelativePositions) -> Tensor:
    """[H, Lq, Lk], what the distance of each query and key adds to their product."""
    rows = _rows_of_distances(len(q), len(k), relative)
    total = q.new_zeros(q.shape[1], len(q), len(k))
    if relative.keys is not None:
        terms = torch.einsum("qhd,rhd->hqr", q, _wide(relative.keys))
        total += terms.gather(2, rows.expand(total.shape))
    if relative.queries is not None:
        terms = torch.einsum("khd,rhd->hkr", k, _wide(relative.queries))
        total += terms.gather(2, rows.T.expand(len(total), len(k), len(q))).mT
    return total


def _rows_of_distances(
    num_queries: int, num_keys: int, relative: RelativePositions, first: int = 0
) -> Tensor:
    """[Lq, Lk] int64, the row of each distance; the first query stands at position `first`."""
    rows = relative.rows.long()
    # A query before every key sees none.
    i = torch.arange(first, first + num_queries, device=rows.device).clamp(min=0)[:, None]
    return rows[len(rows) // 2 + i - torch.arange(num_keys, device=rows.device)[None, :]]


def add_layer_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """(LayerNorm(x + residual), x + residual); see `layer_norm.add_layer_norm`."""
    total = _wide(x) if residual is None else _wide(x) + _wide(residual)
    return _layer_norm(total, weight, bias, eps).to(x.dtype), total.to(x.dtype)


def add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, scale: float
) -> tuple[Tensor, Tensor]:
    """(RMSNorm(scale * x + residual), scale * x + residual); see `rms_norm.add_rms_norm`."""
    total = scale * _wide(x)
    if residual is not None:
        total = total + _wide(residual)
    normed = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + eps) * weight
    return normed.to(x.dtype), total.to(x.dtype)


def embed_layer_norm(
    token_ids: Tensor,
    positions: Tensor | None,
    token_types: Tensor | None,
    token_table: Tensor,
    position_table: Tensor | None,
    type_table: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """LayerNorm(token + position + type); see `embedding.embed_layer_norm`."""
    total = _wide(token_table[token_ids.long()])
    if position_table is not None and positions is not None:
        total = total + _wide(position_table[positions.long()])
    if type_table is not None:
        rows = torch.zeros_like(token_ids) if token_types is None else token_types
        total = total + _wide(type_table[rows.long()])
    return _layer_norm(total, weight, bias, eps).to(token_table.dtype)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    gated: bool,
    wide: bool = False,
) -> Tensor:
    """activation(x weightᵀ + bias), or its gated form; see `linear.linear`."""
    y = _wide(x) @ _wide(weight).T
    if bias is not None:
        y = y + bias
    activate = ACTIVATE[activation] if activation else lambda value: value
    if gated:
        first, second = y.chunk(2, dim=-1)
        y = activate(first) * second
    else:
        y = activate(y)
    return y if wide and x.dtype != torch.float64 else y.to(x.dtype)


def take_sequences(
    x: Tensor, cu_seqlens: Tensor, kept: Tensor, total: int
) -> tuple[Tensor, Tensor]:
    """Rows of the kept sequences end to end, and where each starts; see `rows.take_sequences`."""
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1])[kept.long()].long()
    starts = torch.zeros(len(kept) + 1, dtype=torch.int64, device=x.device)
    starts[1:] = lengths.cumsum(0)
    within = torch.arange(total, device=x.device)
    owner = torch.searchsorted(starts[1:], within, right=True)
    is_row = owner < len(kept)
    owner = owner.clamp(max=max(len(kept) - 1, 0))
    out = x.new_zeros(total, *x.shape[1:])
    if len(kept):
        source = cu_seqlens.long()[kept.long()[owner]] + within - starts[owner]
        out[is_row] = x[source[is_row]]
    return out, starts.to(torch.int32)


def score_head(hidden: Tensor, rows: Tensor | None, head: PackedHead) -> Tensor:
    """Logits of a classification head; see `head.score_head`."""
    pooled = (hidden if rows is None else hidden[rows.long()]).float()
    y = linear(pooled, head.dense, head.dense_bias, head.activation, False)
    if head.norm_weight is not None:
        y = _layer_norm(y, head.norm_weight, head.norm_bias, head.norm_eps)
    return linear(y, head.out, head.out_bias, None, False)


def maxsim(
    queries: Queries,
    documents: PackedTokens,
    candidates: Tensor | None,
    owners: Tensor | None,
) -> Tensor:
    """[M, K] scores, or [P] where candidates have owners; see `maxsim.maxsim`."""
    ids = list(range(len(documents))) if candidates is None else candidates.tolist()
    num_queries = len(queries.starts) - 1
    mine = [range(num_queries)] * len(ids) if owners is None else [[m] for m in owners.tolist()]
    scores = documents.values.new_full((num_queries, len(ids)), -torch.inf, dtype=torch.float32)
    for place, (document, wanted) in enumerate(zip(ids, mine, strict=True)):
        for m in wanted:
            terms = _terms(queries, m, documents, document)
            if terms is not None:
                scores[m, place] = sum_in_order(terms[0])
    if owners is None:
        return scores
    return scores[owners.long(), torch.arange(len(ids), device=scores.device)]


def matches(queries: Queries, documents: PackedTokens, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """([K, Q] int32, [K, Q] float32); see `maxsim.matches`."""
    shape = len(candidates), len(queries.values)
    tokens = candidates.new_full(shape, -1, dtype=torch.int32)
    scores = candidates.new_full(shape, -torch.inf, dtype=torch.float32)
    for place, document in enumerate(candidates.tolist()):
        terms = _terms(queries, 0, documents, document)
        if terms is not None:
            scores[place], tokens[place] = terms[0], terms[1].to(torch.int32)
    return tokens, scores


def sum_in_order(terms: Tensor) -> Tensor:
    """float32 sum of [..., Q] float32 over Q, in the order of `maxsim`'s module."""
    lanes = terms.new_zeros(*terms.shape[:-1], 32)
    for part in torch.split(terms, 32, dim=-1):
        lanes = lanes + F.pad(part, (0, 32 - part.shape[-1]))
    for width in (16, 8, 4, 2, 1):
        lanes = lanes[..., :width] + lanes[..., width : 2 * width]
    return lanes[..., 0]


def _terms(
    queries: Queries, m: int, documents: PackedTokens, document: int
) -> tuple[Tensor, Tensor] | None:
    """([Q] u_i * m_i, [Q] which token) of query m and a document; None for an empty document."""
    starts = documents.cu_seqlens
    if not 0 <= document < len(starts) - 1:
        query = queries.values[queries.starts[m] : queries.starts[m + 1]]
        nowhere = torch.full((len(query),), -1, device=query.device)
        return query.new_full((len(query),), torch.nan, dtype=torch.float32), nowhere
    rows = slice(int(starts[document]), int(starts[document + 1]))
    if rows.start == rows.stop:
        return None
    query = queries.values[queries.starts[m] : queries.starts[m + 1]]
    values = documents.values[rows]
    if documents.scales is None or queries.weights is None:
        highest, tokens = (_wide(query) @ _wide(values).T).max(dim=1)
        return highest.float(), tokens
    scales = documents.scales[rows]
    query_outliers, outliers = query[:0], query[:0]
    if documents.codec is not None and documents.codes is not None:
        codec = documents.codec
        per_byte = 8 // codec.bits
        shifts = [codec.bits * (per_byte - 1 - plane) for plane in range(per_byte)]
        fields = torch.cat([(values >> shift) & (2**codec.bits - 1) for shift in shifts], dim=1)
        codes = documents.codes[rows].long()
        known = (codes >= 0) & (codes < len(codec.rows))
        codes = torch.where(known, codes, 0)
        values = codec.rows[codes].int() - 128
        values = values + codec.weights[fields.long()].int()
        if codec.outliers is not None and queries.outliers is not None:
            outliers = codec.outliers.weights[fields[:, codec.outliers.columns.long()].long()]
            outliers = (codec.outliers.rows[codes] + outliers).T
            query_outliers = queries.outliers[queries.starts[m] : queries.starts[m + 1]].T
        scales = torch.where(known, scales, torch.nan)
    # float64 holds every integer here exactly.
    similarities = (query.double() @ values.double().T).float()
    for o, v in zip(query_outliers, outliers, strict=True):
        similarities = similarities + o[:, None] * v
    similarities = similarities * torch.where(scales.isfinite(), scales, torch.nan)
    highest, tokens = similarities.max(dim=1)
    return highest * queries.weights[queries.starts[m] : queries.starts[m + 1]], tokens


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    y = (x - mean) * torch.rsqrt(variance + eps) * weight
    return y if bias is None else y + bias


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, start: int = 0) -> Tensor:
    """Rotary embedding of x [L, H, D], row i at position start + i, halves form (rotate_half)."""
    c, s = (table[start : start + len(x), None, :] for table in (cos, sin))
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * c - second * s, second * c + first * s], dim=-1)


def stream(x: Tensor, out: Tensor | None, shares: int, repeats: int) -> Tensor:
    """Every value read, and the largest returned; or copied."""
    for _ in range(repeats):
        found = x.max() if out is None else out.copy_(x)
    return found
