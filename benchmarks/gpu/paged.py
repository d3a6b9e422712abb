"""A token each of many sequences over a cache in pages, against torch's attention without pages."""

import torch
from measure import Contestant, Session, num_sets
from sizes import HAVE, PAGE, PAGED, SEQUENCES
from torch import Tensor
from torch.nn import functional as F

from packrank_kernels import Pages, paged_attention
from packrank_kernels.testing import cu_seqlens


class Case:
    """Caches of one shape: in pages of which nobody knows the order, and flat."""

    def __init__(self, session: Session, shape: str, count: int, have: int) -> None:
        heads, key_heads, size = PAGED[shape]
        like, device = {"dtype": torch.float16, "device": session.device}, session.device
        most = -(-have // PAGE)
        self.moved = 2 * 2 * count * have * key_heads * size
        self.q = torch.randn(count, heads, size, **like)
        self.k, self.v = torch.randn(2, count, key_heads, size, **like)
        numbers = torch.randperm(count * most, device=device)
        self.table = numbers.to(torch.int32).view(count, most)
        self.lengths = torch.full((count,), have, dtype=torch.int32, device=device)
        self.cu = cu_seqlens([1] * count).to(device)
        # Nothing turns, but the kernel does what it does in a model.
        self.rotary = (
            torch.ones(have, size // 2, device=device),
            torch.zeros(have, size // 2, device=device),
        )
        self.caches, self.flat = [], []
        for _ in range(num_sets(self.moved, session.dry)):
            cache = torch.randn(2, count * most, key_heads, PAGE, size, **like).transpose(2, 3)
            # [2, N, Hk, L, D] with the newest token in its place.
            flat = cache[:, self.table.long()].flatten(2, 3)[:, :, :have].transpose(2, 3)
            flat = flat.contiguous()
            flat[..., -1, :] = torch.stack([self.k, self.v])
            self.caches.append(cache)
            self.flat.append(flat)

    def ours(self, cache: Tensor) -> Tensor:
        pages = Pages(*cache, self.table, self.lengths)
        return paged_attention(
            self.q, self.k, self.v, pages, self.cu, self.cu, rotary=self.rotary, max_seqlen_q=1
        )

    def theirs(self, flat: Tensor, q: Tensor | None = None) -> Tensor:
        q = self.q if q is None else q
        out = F.scaled_dot_product_attention(q[:, :, None], *flat, enable_gqa=True)
        return out[:, :, 0]

    def contestants(self) -> dict[str, Contestant]:
        return {
            "packrank": Contestant([lambda x=x: self.ours(x) for x in self.caches]),
            "torch SDPA, no pages": Contestant([lambda x=x: self.theirs(x) for x in self.flat]),
        }

    def expected(self) -> Tensor:
        return self.theirs(self.flat[0].float(), self.q.float()).half()


def main(session: Session) -> None:
    cases = [(shape, count) for count in SEQUENCES for shape in PAGED]
    for shape, count in session.some(cases):
        count, have = (3, 37) if session.dry else (count, HAVE)
        title = f"{shape}, {count} sequences of {have} tokens, float16"
        if not session.has_time_for(f"paged attention, {title}"):
            continue
        with session.guard(f"paged attention, {title}"):
            case = Case(session, shape, count, have)
            medians = session.race(
                "paged attention", title, case.contestants(), amount=case.moved / 1e9,
                unit="GB", moved=case.moved, expected=case.expected(),
            )  # fmt: skip
            copy = session.ceilings.get("copy")
            if copy and "packrank" in medians:
                share = case.moved / medians["packrank"] / copy
                session.headline(f"paged attention, {title}: {share:.0%} of a copy's bandwidth")
