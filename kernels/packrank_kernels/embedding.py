"""Sum of embeddings and LayerNorm: contract, checks, dispatch."""

import torch
from torch import Tensor

from packrank_kernels.checks import check_float, check_like, check_shape
from packrank_kernels.dispatch import choose
from packrank_kernels.layer_norm import check_norm


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
    *,
    backend: str = "auto",
) -> Tensor:
    """What an encoder's first layer reads, from ids, in one pass.

    out[t] = LayerNorm(token_table[token_ids[t]] + position_table[positions[t]]
                       + type_table[token_types[t]])

    Args:
        token_ids: [T] int32.
        positions: [T] int32; None with position_table None.
        token_types: [T] int32; None means type 0 for every token.
        token_table: [V, E] float32, bfloat16 or float16, contiguous.
        position_table: [P, E], dtype of token_table, or None where a model has none.
        type_table: [Y, E], dtype of token_table, or None where a model has none.
        weight: [E] float32.
        bias: [E] float32 or None.
        eps: added to the variance.
        backend: "auto", or a name in `dispatch.TABLE["embed_layer_norm"]`.

    Returns:
        [T, E], dtype of token_table; the sum and its statistics are float32.

    Raises:
        ValueError: shapes or dtypes disagree, or `backend` refuses (the message says why).
        IndexError: an id, position or type outside its table (checked on the CPU).

    Cost: bound by the gather: T * E values read from each table, and written once.
    """
    op = "embed_layer_norm"
    check_shape(op, "token_ids", token_ids, "T")
    check_shape(op, "token_table", token_table, "V", "E")
    check_float(op, "token_table", token_table)
    size = token_table.shape[1]
    if (positions is None) != (position_table is None):
        raise ValueError(f"{op}: positions and position_table must come together")
    if token_types is not None and type_table is None:
        raise ValueError(f"{op}: token_types given without type_table")
    if type_table is not None and not len(type_table):
        raise ValueError(f"{op}: type_table has no rows")
    for name, ids, table in (
        ("token_ids", token_ids, token_table),
        ("positions", positions, position_table),
        ("token_types", token_types, type_table),
    ):
        if ids is not None and table is not None:
            check_shape(op, name, ids, len(token_ids))
            check_like(op, name, ids, torch.int32, token_table.device)
            _check_range(op, name, ids, len(table))
    for name, table in (("position_table", position_table), ("type_table", type_table)):
        if table is not None:
            check_shape(op, name, table, "rows", size)
            check_like(op, name, table, token_table.dtype, token_table.device)
    check_norm(op, weight, bias, size, token_table.device)
    chosen = choose(op, backend, token_table.device, token_table.dtype)
    tables = (token_table, position_table, type_table)
    tensors = (token_ids, positions, token_types, *tables, weight, bias)
    out: Tensor = chosen.run(*(x if x is None else x.contiguous() for x in tensors), eps)
    return out


def _check_range(op: str, name: str, ids: Tensor, rows: int) -> None:
    if ids.device.type == "cpu" and len(ids):
        values = ids.numpy()
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= rows:
            raise IndexError(f"{op}: {name} spans {low}..{high}, its table has {rows} rows")
