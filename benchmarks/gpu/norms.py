"""What memory bounds: norms, the embedding sum, compaction; bytes a second against a copy's."""

from collections.abc import Callable
from typing import Any

import torch
from measure import Contestant, Session, num_sets
from torch import Tensor
from torch.nn import functional as F

from packrank_kernels import (
    add_layer_norm,
    add_rms_norm,
    embed_layer_norm,
    reference,
    take_sequences,
)
from packrank_kernels.testing import cu_seqlens

TOKENS, LENGTH, EPS = 16384, 128, 1e-12


def half(session: Session, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float16, device=session.device)


def race(
    session: Session,
    bench: str,
    case: str,
    moved: int,
    draw: Callable[[], tuple[Any, ...]],
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    expected: Callable[..., Tensor],
) -> None:
    """`ours` and `theirs` on input sets from `draw`; `expected` says what the first must give."""
    if not session.has_time_for(f"{bench}, {case}"):
        return
    sets = [draw() for _ in range(num_sets(moved, session.dry))]
    contestants = {
        name: Contestant([lambda args=args, f=function: f(*args) for args in sets])
        for name, function in (("packrank", ours), ("torch", theirs))
    }
    session.race(
        bench, case, contestants, amount=moved / 1e9, unit="GB", moved=moved,
        expected=expected(*sets[0]),
    )  # fmt: skip


def norms(session: Session, rows: int, size: int) -> None:
    weight, bias = torch.randn(2, size, device=session.device)
    narrow = weight.half(), bias.half()
    case = f"{rows} x {size}, float16"
    # x and the residual are read; the norm and the sum are written.
    moved = 4 * 2 * rows * size

    def draw() -> tuple[Tensor, Tensor]:
        return half(session, rows, size), half(session, rows, size)

    race(
        session, "add_layer_norm", case, moved, draw,
        lambda x, y: add_layer_norm(x, y, weight, bias, EPS)[0],
        lambda x, y: F.layer_norm(x + y, (size,), *narrow, EPS),
        lambda x, y: reference.add_layer_norm(x, y, weight, bias, EPS)[0],
    )  # fmt: skip
    race(
        session, "add_rms_norm", case, moved, draw,
        lambda x, y: add_rms_norm(x, y, weight, EPS)[0],
        lambda x, y: F.rms_norm(x + y, (size,), narrow[0], EPS),
        lambda x, y: reference.add_rms_norm(x, y, weight, EPS, 1.0)[0],
    )  # fmt: skip


def embedding(session: Session, rows: int, size: int) -> None:
    weight, bias = torch.randn(2, size, device=session.device)
    tables = [half(session, count, size) for count in (30522, 512, 2)]

    def draw() -> tuple[Tensor, ...]:
        return tuple(
            torch.randint(len(table), (rows,), dtype=torch.int32, device=session.device)
            for table in tables
        )

    def theirs(*ids: Tensor) -> Tensor:
        total = sum(F.embedding(i, table) for i, table in zip(ids, tables, strict=True))
        return F.layer_norm(total, (size,), weight.half(), bias.half(), EPS)

    race(
        # Tables of positions and types stay in the cache: one gathered row in, one row out.
        session, "embed_layer_norm", f"{rows} x {size}, float16", 2 * 2 * rows * size, draw,
        lambda *ids: embed_layer_norm(*ids, *tables, weight, bias, EPS),
        theirs,
        lambda *ids: reference.embed_layer_norm(*ids, *tables, weight, bias, EPS),
    )  # fmt: skip


def compaction(session: Session, rows: int, size: int) -> None:
    count = rows // LENGTH
    cu = cu_seqlens([LENGTH] * count).to(session.device)
    kept = torch.arange(0, count, 2, dtype=torch.int32, device=session.device)
    left = len(kept) * LENGTH
    index = (kept.long()[:, None] * LENGTH + torch.arange(LENGTH, device=session.device)).flatten()
    race(
        session, "take_sequences", f"half of {count} x {LENGTH} x {size}, float16",
        2 * 2 * left * size, lambda: (half(session, rows, size),),
        lambda x: take_sequences(x, cu, kept, left)[0],
        lambda x: x.index_select(0, index),
        lambda x: reference.take_sequences(x, cu, kept, left)[0],
    )  # fmt: skip


def main(session: Session) -> None:
    rows = 256 if session.dry else TOKENS
    for size in (384,) if session.dry else (384, 768, 1024):
        for bench in (norms, embedding, compaction):
            with session.guard(f"{bench.__name__}, {size}"):
                bench(session, rows, size)
