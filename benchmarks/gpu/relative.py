"""Attention with distances, as DeBERTa and T5 have it, against torch's, which adds them apart."""

from functools import partial

import torch
from measure import Contestant, Session, num_sets
from sizes import DISTANCES, TOKENS, Distances
from torch import Tensor
from torch.nn import functional as F

from packrank_kernels import RelativePositions, attention, reference
from packrank_kernels.dispatch import choose
from packrank_kernels.testing import cu_seqlens

LENGTHS = (128, 512, 256)
SIZE = 64


class Case:
    """Packs of sequences of one length, and what their distances add."""

    def __init__(self, session: Session, shape: Distances, count: int, length: int) -> None:
        self.shape, self.count, self.length = shape, count, length
        self.device, self.dry = session.device, session.dry
        heads, dtype = self.shape.heads, getattr(torch, self.shape.dtype)
        tokens, like = self.count * self.length, {"dtype": dtype, "device": self.device}
        self.moved = 4 * 2 * tokens * heads * SIZE
        self.operations = self.shape.operations * self.count * self.length**2 * heads * SIZE
        sets = num_sets(self.moved, self.dry)
        self.packs = [torch.randn(tokens, 3, heads, SIZE, **like) for _ in range(sets)]
        self.cu = cu_seqlens([self.length] * self.count).to(self.device)
        half, rows = self.shape.rows // 2, torch.arange(1 - self.length, self.length)
        self.rows = (rows.clamp(-half, half - 1) + half).to(torch.int32).to(self.device)
        count = self.shape.rows
        self.tables = torch.randn(2, count, heads, SIZE, **like) if self.shape.tables else None
        self.bias = None if self.shape.tables else torch.randn(count, heads, device=self.device)
        self.scale = (3 * SIZE) ** -0.5 if self.shape.tables else SIZE**-0.5

    @property
    def relative(self) -> RelativePositions:
        keys, queries = (None, None) if self.tables is None else self.tables
        return RelativePositions(keys, queries, self.rows, self.bias)

    def ours(self, pack: Tensor) -> Tensor:
        return attention(
            *pack.unbind(1), self.cu, self.cu, scale=self.scale, relative=self.relative,
            max_seqlen_q=self.length, max_seqlen_k=self.length,
        )  # fmt: skip

    @property
    def places(self) -> Tensor:
        """[L, L] int64, the row of each query and key."""
        at = torch.arange(self.length, device=self.device)
        return self.rows.long()[self.length - 1 + at[:, None] - at[None, :]]

    def theirs(self, pack: Tensor, places: Tensor, bias: Tensor | None) -> Tensor:
        """As transformers does: terms of all rows, from which pairs gather theirs; or a mask."""
        q, k, v = pack.unflatten(0, (self.count, self.length)).permute(2, 0, 3, 1, 4)
        if self.tables is None:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        else:
            keys, queries = self.tables.transpose(1, 2)
            index = places.expand(*q.shape[:2], -1, -1)
            scores = q @ k.mT + (q @ keys.mT).gather(3, index)
            scores = scores + (k @ queries.mT).gather(3, index.mT).mT
            out = (scores * self.scale).softmax(-1) @ v
        return out.transpose(1, 2).flatten(0, 1)

    def contestants(self) -> dict[str, Contestant]:
        dtype = self.packs[0].dtype
        facts = {"head_size": SIZE, "relative": True, "max_seqlen_q": self.length,
                 "max_seqlen_k": self.length}  # fmt: skip
        backend = choose("attention", "auto", self.device, dtype, **facts).name
        places = self.places
        bias = None if self.bias is None else self.bias[places].permute(2, 0, 1)[None].to(dtype)
        name = "torch, eager, gathered" if self.tables is not None else "torch SDPA, bias as mask"
        return {
            "packrank": Contestant(
                [partial(self.ours, pack) for pack in self.packs], facts={"backend": backend}
            ),
            # It rounds scores, or the bias, to the narrow dtype.
            name: Contestant(
                [partial(self.theirs, pack, places, bias) for pack in self.packs],
                tolerance=2**-7 if dtype == torch.float16 else 2**-5,
            ),
        }

    def expected(self) -> Tensor:
        relative = self.relative
        if self.tables is not None:
            relative = RelativePositions(*self.tables.float(), self.rows)
        exact = reference.attention(
            *self.packs[0].float().unbind(1), self.cu, self.cu, self.scale, None, None,
            relative=relative,
        )  # fmt: skip
        return exact.to(self.packs[0].dtype)


def main(session: Session) -> None:
    cases = [(name, length) for length in LENGTHS for name in DISTANCES]
    for name, length in session.some(cases):
        shape = DISTANCES[name]
        count, length = (3, 16) if session.dry else (TOKENS // length, length)
        title = f"{name}, {count} x {length} tokens, {shape.dtype}"
        if not session.has_time_for(f"relative attention, {title}"):
            continue
        with session.guard(f"relative attention, {title}"):
            case = Case(session, shape, count, length)
            session.race(
                "relative attention", title, case.contestants(),
                amount=case.operations / 1e12, unit="TFLOP", dtype=case.packs[0].dtype,
                operations=case.operations, moved=case.moved, expected=case.expected(),
            )  # fmt: skip
