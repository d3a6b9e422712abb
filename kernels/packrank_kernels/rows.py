"""Compaction of a pack: the rows of some of its sequences, end to end."""

import torch
from torch import Tensor

from packrank_kernels.checks import check_cu_seqlens, check_like, check_shape
from packrank_kernels.dispatch import choose


def take_sequences(
    x: Tensor, cu_seqlens: Tensor, kept: Tensor, total: int, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The pack that is left when some sequences leave it, without waiting for the device.

    Args:
        x: [T, H] of any dtype, rows contiguous. On a CUDA device dtypes other than float32,
            bfloat16 and float16 do wait.
        cu_seqlens: [N + 1] int32. Where each sequence starts, then where the last ends.
        kept: [M] int32. Which sequences stay, in their new order; each in [0, N).
        total: rows of the result: at least as many as the kept sequences have.
        backend: "auto", or a name in `dispatch.TABLE["take_sequences"]`.

    Returns:
        [total, H], zeros past the last sequence's rows; and cu_seqlens of it, [M + 1] int32.

    Raises:
        ValueError: shapes, dtypes or offsets disagree, or `backend` refuses (the message says why).
        IndexError: `kept` names a sequence that is not there (checked on the CPU).

    Cost: bound by one read and one write of the kept rows.
    """
    op = "take_sequences"
    check_shape(op, "x", x, "T", "H")
    check_cu_seqlens(op, "cu_seqlens", cu_seqlens, len(x), torch.int32, x.device, whole=False)
    check_shape(op, "kept", kept, "M")
    check_like(op, "kept", kept, torch.int32, x.device)
    if kept.device.type == "cpu" and len(kept):
        low, high, count = int(kept.min()), int(kept.max()), len(cu_seqlens) - 1
        if low < 0 or high >= count:
            raise IndexError(f"{op}: kept spans {low}..{high}, there are {count} sequences")
        rows = int((cu_seqlens[1:] - cu_seqlens[:-1])[kept.long()].sum())
        if rows > total:
            raise ValueError(f"{op}: total is {total}, the kept sequences have {rows} rows")
    if total < 0:
        raise ValueError(f"{op}: total is {total}, expected at least 0")
    chosen = choose(op, backend, x.device, x.dtype)
    rows_out, cu_out = chosen.run(x.contiguous(), cu_seqlens.contiguous(), kept.contiguous(), total)
    return rows_out, cu_out
