"""MaxSim of documents that stay in the host's memory, against what a copy to the device reaches."""

import numpy as np
import torch
from maxsim import Case, Shape
from measure import Contestant, Session
from torch import Tensor

import packrank
from packrank_kernels import TokenEmbeddings, TopK, maxsim
from packrank_kernels.testing import assert_close

TOP_K = 100
STREAMED = 2 << 30  # bytes; runs are an eighth of it


def streaming(session: Session, format: str, *, pinned: bool) -> None:
    length, size = 180, 128
    bytes_each = length * {"float16": 256, "int8": 132, "2bit": 40}[format]
    count = 5 if session.dry else STREAMED // bytes_each
    case = Case(
        session, Shape("streaming", 1, 32, "180", np.full(count, length, dtype=np.int64)), format
    )
    here, query = case.sets[0], case.queries[0]
    expected = maxsim(query, here, top_k=TOP_K)
    assert isinstance(expected, TopK)
    assert_close(expected.scores, case.expected[0, expected.indices], case.tolerance)
    del case.sets[1:]
    there = here.to(torch.device("cpu"))
    if pinned and not session.dry:
        there = TokenEmbeddings.of(there.values.pin_memory(), there.cu_seqlens)
    memory = "pinned" if pinned else "pageable"

    def scores(found: TopK) -> Tensor:
        assert torch.equal(found.indices, expected.indices), "other documents are the best"
        return found.scores

    def call() -> object:
        return packrank.maxsim(query, there, top_k=TOP_K, device=session.device)

    contestant = Contestant(
        [call], view=scores, tolerance=0.0, facts=case.facts(None) | {"memory": memory}
    )
    session.race(
        "maxsim streaming", f"1 x 32 tokens, {count} documents of 180 x {size}, {format}, {memory}",
        {"packrank": contestant}, amount=case.moved / 1e9, unit="GB", moved=case.moved,
        over="host copy", expected=expected.scores, wall=True, rounds=7,
    )  # fmt: skip


def main(session: Session) -> None:
    for format, pinned in (("float16", False), ("float16", True), ("int8", False), ("2bit", False)):
        title = f"maxsim streaming, {format}"
        if session.has_time_for(title):
            with session.guard(title):
                streaming(session, format, pinned=pinned)
