"""Operations and bytes of an op, by arithmetic: what a call must compute, read and write."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from packrank_kernels import OpCall, Pages

PRODUCTS, ATTENTION, REST = "products", "attention", "norms and elementwise"


@dataclass(frozen=True)
class Work:
    """One call of an op.

    Attributes:
        name: the op at its shape; calls of one name are added up.
        part: of a forward; one of the three above.
        operations: multiplications and additions.
        moved: bytes that must be read and written, each once.
    """

    name: str
    part: str
    operations: float
    moved: float


def work_of(call: OpCall, result: Any = None) -> Work:
    """The work of a call that `packrank_kernels.observed` shows.

    On a CUDA device it asks for lengths, and so waits. An op that is not known here counts with
    the bytes of its tensors.

    Args:
        call: of an op.
        result: what it gave; its bytes are written.
    """
    known = _OPS.get(call.op)
    if known is not None:
        return known(call.backend, *call.args, **call.options)
    return Work(call.op, REST, 0.0, _bytes(*call.args, *call.options.values(), result))


def seen_keys(
    lengths_q: "np.ndarray[Any, Any]",
    lengths_k: "np.ndarray[Any, Any]",
    *,
    causal: bool = False,
    window: int | None = None,
) -> int:
    """Pairs of a query and a key that it sees, over all sequences.

    Args:
        lengths_q: [N], queries of each.
        lengths_k: [N], keys of each, those of its prefix included; ends are aligned where causal.
        causal: keys after a query are not seen.
        window: keys farther away than this are not seen; None: all are.
    """
    total = 0
    for queries, keys in zip(lengths_q.tolist(), lengths_k.tolist(), strict=True):
        if window is None and not causal:
            total += queries * keys
            continue
        places = np.arange(queries) + (keys - queries if causal else 0)
        behind = keys + queries if window is None else window
        ahead = 0 if causal else behind
        first, last = np.maximum(places - behind, 0), np.minimum(places + ahead, keys - 1)
        total += int(np.maximum(last - first + 1, 0).sum())
    return total


def _bytes(*values: Any) -> float:
    total = 0.0
    for value in values:
        if isinstance(value, Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, tuple | list):
            total += _bytes(*value)
    return total


def _linear(
    backend: str,
    x: Tensor,
    data: Tensor,
    bias: Tensor,
    activation: str | None,
    gated: bool,
    wide: bool = False,
) -> Work:
    outputs = len(bias) // 2 if gated else len(bias)
    words = [f" {activation}" if activation else "", " gated" if gated else ""]
    words += [" float32" if wide else ""]
    name = f"linear {x.shape[1]} -> {outputs}{''.join(words)}, {backend}"
    out = len(x) * outputs * (4 if wide else x.element_size())
    operations = 2.0 * len(x) * x.shape[1] * outputs * (1 + gated)
    return Work(name, PRODUCTS, operations, _bytes(x, data, bias) + out)


def _attention(
    backend: str, q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, **options: Any
) -> Work:
    window, prefix_of = options.get("window"), options.get("prefix_of")
    lengths_q, lengths_k = (starts.diff().cpu().numpy() for starts in (cu_q, cu_k))
    keys = lengths_k
    if prefix_of is not None:
        owners = prefix_of.cpu().numpy()
        keys = lengths_k + np.where(owners < 0, 0, lengths_k[owners])
    pairs = seen_keys(lengths_q, keys, causal=options.get("causal", False), window=window)
    heads, size = q.shape[1:]
    relative = options.get("relative")
    terms, added = 0, 0.0
    name = f"attention {heads} x {size}"
    name += "" if window is None else f", window {window}"
    name += "" if prefix_of is None else ", shared prefix"
    if relative is not None:
        tables = relative.keys, relative.queries
        terms, added = sum(x is not None for x in tables), _bytes(*tables, relative.bias)
        name += ", relative positions" if terms else ""
        name += "" if relative.bias is None else ", biases of distances"
    if lengths_q.sum() != lengths_k.sum():
        name += ", a token a sequence" if lengths_q.max(initial=0) <= 1 else ", of other sequences"
    # With a table as many products again as q kᵀ.
    operations = (4.0 + 2.0 * terms) * pairs * heads * size
    return Work(name, ATTENTION, operations, _bytes(q, k, v, q) + added)


def _paged_attention(
    backend: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pages: Pages,
    cu_q: Tensor,
    cu_k: Tensor,
    **options: Any,
) -> Work:
    window = options.get("window")
    asking, new = (starts.diff().cpu().numpy() for starts in (cu_q, cu_k))
    have = pages.lengths.cpu().numpy()
    pairs = seen_keys(asking, have, causal=True, window=window)
    read = have if window is None else np.minimum(have, asking + window)
    heads, size = q.shape[1:]
    name = f"paged attention {heads} x {size}"
    name += "" if window is None else f", window {window}"
    name += ", a token a sequence" if asking.max(initial=0) <= 1 else ""
    # New keys and values are read, and written to their pages; then those that are seen are read.
    kept = 2.0 * k[:1].numel() * k.element_size()
    moved = 2 * _bytes(q) + kept * float(2 * new.sum() + read[asking > 0].sum())
    return Work(name, ATTENTION, 4.0 * pairs * heads * size, moved)


def _norm(kind: str) -> Callable[..., Work]:
    def work(backend: str, x: Tensor, residual: Tensor | None, *rest: Any) -> Work:
        passes = 2 if residual is None else 4  # of a sum, that is written as well
        return Work(f"{kind} {x.shape[1]}", REST, 0.0, passes * _bytes(x))

    return work


def _embed(
    backend: str, ids: Tensor, positions: Any, types: Any, table: Tensor, *rest: Any
) -> Work:
    rows = 2 * len(ids) * table.shape[1] * table.element_size()
    return Work(
        f"embed_layer_norm {table.shape[1]}", REST, 0.0, _bytes(ids, positions, types) + rows
    )


def _head(backend: str, hidden: Tensor, rows: Tensor | None, head: Any) -> Work:
    read = hidden if rows is None else hidden[: len(rows)]
    dense = 0 if head.dense is None else head.dense.numel()
    operations = 2.0 * len(read) * (dense + head.out.numel())
    return Work("score_head", PRODUCTS, operations, _bytes(read, head.dense, head.out))


def _maxsim(
    backend: str, queries: Any, documents: Any, ids: Tensor | None, owners: Tensor | None
) -> Work:
    lengths = documents.cu_seqlens.diff().cpu()
    lengths = lengths if ids is None else lengths[ids.cpu()]
    rows = np.diff(queries.starts)
    per_document = rows.sum() if owners is None else rows[owners.cpu().numpy()]
    products = float((lengths.numpy() * per_document).sum())
    moved = documents.bytes_per_token * float(lengths.sum()) + _bytes(queries.values)
    return Work(f"maxsim {documents.size}", PRODUCTS, 2.0 * products * documents.size, moved)


_OPS: dict[str, Callable[..., Work]] = {
    "linear": _linear,
    "attention": _attention,
    "paged_attention": _paged_attention,
    "add_layer_norm": _norm("add_layer_norm"),
    "add_rms_norm": _norm("add_rms_norm"),
    "embed_layer_norm": _embed,
    "score_head": _head,
    "maxsim": _maxsim,
}
