"""Packed attention: every backend that takes the call, against torch's own, padded and packed."""

import statistics

import torch
from measure import Contestant, Session, num_sets
from torch.nn import functional as F

from packrank_kernels import attention, reference
from packrank_kernels.dispatch import TABLE, choose
from packrank_kernels.testing import cu_seqlens

TOKENS, HEADS = 16384, 12
SIZES = (32, 64)
LENGTHS = (128, 64, 256, 16, 512)
PEERS = {"torch_varlen": "torch varlen", "flash_attn": "flash-attn"}


class Case:
    """Input sets of one shape, and who computes attention on them."""

    def __init__(self, session: Session, size: int, lengths: list[int], *, first: bool) -> None:
        self.size, self.lengths, self.first = size, lengths, first
        self.longest = max(lengths)
        tokens = sum(lengths)
        self.moved = 2 * HEADS * size * (2 * tokens + 2 * (len(lengths) if first else tokens))
        queries = [1] * len(lengths) if first else lengths
        pairs = sum(q * k for q, k in zip(queries, lengths, strict=True))
        self.operations = 4 * pairs * HEADS * size
        like = {"dtype": torch.float16, "device": session.device}
        sets = num_sets(self.moved, session.dry)
        packs = [torch.randn(tokens, 3, HEADS, size, **like) for _ in range(sets)]
        self.cu_k = cu_seqlens(lengths).to(session.device)
        self.cu_q = cu_seqlens(queries).to(session.device) if first else self.cu_k
        rows = self.cu_k[:-1].long()
        # A slice of the fused projection, as the model has it; first tokens have their own.
        self.sets = [
            (pack[rows, 0] if first else pack[:, 0], pack[:, 1], pack[:, 2]) for pack in packs
        ]
        self.session = session

    def packed(self, backend: str) -> Contestant:
        longest_q = 1 if self.first else self.longest

        def call(q, k, v):
            return attention(
                q, k, v, self.cu_q, self.cu_k,
                max_seqlen_q=longest_q, max_seqlen_k=self.longest, backend=backend,
            )  # fmt: skip

        calls = [lambda qkv=qkv: call(*qkv) for qkv in self.sets]
        return Contestant(calls, facts={"backend": backend})

    def padded(self) -> Contestant:
        """Torch's scaled_dot_product_attention; padding its inputs is not timed."""
        count, device = len(self.lengths), self.session.device
        lengths = torch.tensor(self.lengths, device=device)
        is_token = torch.arange(self.longest, device=device) < lengths[:, None]
        mask = None if bool(is_token.all()) else is_token[:, None, None, :]
        calls = []
        for q, k, v in self.sets:
            padded = []
            for x in (q, k, v):
                wide = x.new_zeros(count, self.longest, HEADS, self.size)
                wide[is_token] = x
                padded.append(wide.transpose(1, 2))
            calls.append(
                lambda args=tuple(padded): F.scaled_dot_product_attention(*args, attn_mask=mask)
            )
        return Contestant(calls, view=lambda out: out.transpose(1, 2)[is_token])

    def contestants(self) -> dict[str, Contestant]:
        facts = {
            "head_size": self.size,
            "unequal": self.first,
            "max_seqlen_k": self.longest,
        }
        device = self.session.device
        chosen = choose("attention", "auto", device, torch.float16, **facts).name
        racing = {"packrank": self.packed(chosen)}
        for backend in TABLE["attention"]:
            reason = backend.why_not(device, torch.float16, **facts)
            if backend.name == "reference" or backend.name == chosen:
                continue
            if reason is None:
                name = PEERS.get(backend.name, f"packrank, {backend.name}")
                racing[name] = self.packed(backend.name)
            elif backend.name in (*PEERS, "cuda", "triton"):
                print(f"{backend.name} does not race: {reason}", flush=True)
        if chosen in PEERS:
            racing[PEERS[chosen]] = self.packed(chosen)
        if not self.first:
            racing["torch SDPA, padded"] = self.padded()
        return racing

    def expected(self) -> torch.Tensor:
        q, k, v = self.sets[0]
        wide = (x.float() for x in (q, k, v))
        exact = reference.attention(*wide, self.cu_q, self.cu_k, self.size**-0.5, None, None)
        return exact.half()


def ragged_lengths(tokens: int) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    lengths: list[int] = []
    while sum(lengths) < tokens:
        lengths.append(int(torch.randint(16, 129, (), generator=generator)))
    return lengths


def main(session: Session) -> None:
    tokens = 192 if session.dry else TOKENS
    even = [(n, tokens // n) for n in LENGTHS if n <= tokens]
    shapes = [(f"{count} x {n} tokens", [n] * count, False) for n, count in even]
    shapes.append(("16..128 tokens", ragged_lengths(tokens), False))
    shapes.append(("128 tokens, queries of the first", [128] * (tokens // 128), True))
    found: dict[int, list[float]] = {}
    for name, lengths, first in session.some(shapes):
        for size in SIZES[:1] if session.dry else SIZES:
            title = f"{HEADS} heads x {size}, {name}, float16"
            if not session.has_time_for(title):
                continue
            with session.guard(title):
                case = Case(session, size, lengths, first=first)
                medians = session.race(
                    "attention", title, case.contestants(),
                    amount=case.operations / 1e12, unit="TFLOP", operations=case.operations,
                    moved=case.moved, expected=case.expected(),
                )  # fmt: skip
                if {"packrank", "torch varlen"} <= medians.keys():
                    ratio = medians["torch varlen"] / medians["packrank"]
                    found.setdefault(size, []).append(ratio)
    for size, ratios in found.items():
        session.headline(
            f"attention, head size {size}: {min(ratios):.2f}x to {max(ratios):.2f}x torch varlen, "
            f"{statistics.geometric_mean(ratios):.2f}x on average over {len(ratios)} cases"
        )
