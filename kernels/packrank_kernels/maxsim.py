"""Late-interaction scores: contract, checks, dispatch."""

import torch
from torch import Tensor

from packrank_kernels.checks import check_cu_seqlens, check_float, check_like, check_shape
from packrank_kernels.dispatch import choose


def maxsim(query: Tensor, docs: Tensor, cu_seqlens: Tensor, *, backend: str = "auto") -> Tensor:
    """Late-interaction score of one query against many documents of any length.

    score[n] = sum_i max_j query[i] . docs[j],  j in [cu_seqlens[n], cu_seqlens[n + 1])

    Args:
        query: [Q, D] float32 or bfloat16, contiguous. Q query tokens.
        docs: [T, D], dtype of query, contiguous. The documents' tokens, one after another.
        cu_seqlens: [N + 1] int64. Where each document starts, then T.
        backend: "auto", or a name in `dispatch.TABLE["maxsim"]`.

    Returns:
        [N] float32, products and sums in float32. In every backend but the reference the order of
        sums is fixed: a document's bits depend neither on the other documents nor on the number of
        threads. An empty document scores -inf, NaN
        propagates.

    Raises:
        ValueError: shapes, dtypes or offsets disagree, or `backend` refuses (the message says why).

    Cost: 2 * Q * T * D operations over one read of docs; bound by operations for Q > 9 on Zen 4.
    Source: Khattab and Zaharia 2020, eq. 3.
    """
    op = "maxsim"
    check_shape(op, "query", query, "Q", "D")
    check_float(op, "query", query)
    check_shape(op, "docs", docs, "T", query.shape[1])
    check_like(op, "docs", docs, query.dtype, query.device)
    check_cu_seqlens(op, "cu_seqlens", cu_seqlens, len(docs), torch.int64, query.device)
    chosen = choose(op, backend, query.device, query.dtype)
    out: Tensor = chosen.run(query.contiguous(), docs.contiguous(), cu_seqlens.contiguous())
    return out
