"""MaxSim against late-interaction-kernels 0.4.5 and flash-maxsim 0.3.0, by what suits the case.

Padded tensors where documents are equally long, packed ones where they are not; what a call would
convert (offsets, layouts) is converted before. A peer is tuned at its first call, before the clock.
Left out: bfloat16, whose bytes and operations are float16's; int8 of unequal documents or many
queries, which neither has; and residual codes with many queries or a long one, some 0.4 s a call by
arithmetic from the rate that is published.

late-interaction-kernels reads residual bytes from the lowest bit up, where ColBERT and fast-plaid
write them from the highest down, so it scores their files wrongly. Here it gets each byte turned
round: its answers are checked, and a file of theirs would take it as long.
"""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise

import numpy as np
import torch
from maxsim import Case, Shape, shapes
from measure import Contestant, Session
from torch import Tensor

from packrank_kernels.packed import BITS

PEERS = ("late-interaction-kernels", "flash-maxsim")
# Its offsets are int32: past so many elements it reads elsewhere.
MOST_ELEMENTS = 2**31 - 1
# In float16 another order of sums; scales in float16; a reconstruction in float16 of what is
# rounded to bytes here.
TOLERANCE = {"float16": 1e-4, "int8": 2e-3, "4bit": 1e-2, "2bit": 1e-2}
Call = Callable[[], Tensor]


def entry_point(peer: str, shape: Shape, format: str) -> "Callable[[Case], list[Call]] | None":
    """What makes a call for each set of documents; None where the peer has nothing that suits."""
    single = shape.queries == 1
    if peer == "flash-maxsim":
        if format == "int8":
            return flash_int8 if single and is_even(shape) else None
        return flash_float if format == "float16" and (single or is_even(shape)) else None
    if format == "float16":
        return padded if is_even(shape) else packed
    return residual if format in BITS and single and shape.query_tokens <= 32 else None


def is_even(shape: Shape) -> bool:
    return int(shape.lengths.min()) == int(shape.lengths.max())


def flash_float(case: Case) -> list[Call]:
    from flash_maxsim import flash_maxsim, flash_maxsim_batched, flash_maxsim_packed

    queries, cu = torch.stack(case.queries), case.cu.to(torch.int32)
    many, count = len(queries) > 1, len(case.shape.lengths)
    if not is_even(case.shape):
        return [lambda x=x.values: flash_maxsim_packed(queries[0], x, cu) for x in case.sets]
    score = flash_maxsim_batched if many else flash_maxsim
    first = queries if many else queries[0]
    sets = [x.values.view(count, -1, case.shape.size) for x in case.sets]
    return [lambda x=x: score(first, x) for x in sets]


def flash_int8(case: Case) -> list[Call]:
    from flash_maxsim import flash_maxsim_int8x8

    query, count = case.queries[0], len(case.shape.lengths)
    sets = [
        (x.values.view(count, -1, case.shape.size), x.scales.view(count, -1).half())
        for x in case.sets
        if x.scales is not None
    ]
    return [lambda pair=pair: flash_maxsim_int8x8(query, *pair) for pair in sets]


def padded(case: Case) -> list[Call]:
    from late_interaction_kernels import maxsim

    queries, count = torch.stack(case.queries), len(case.shape.lengths)
    most = MOST_ELEMENTS // (case.shape.size * int(case.shape.lengths[0]))

    def score(parts: tuple[Tensor, ...]) -> Tensor:
        return joined([maxsim(queries, part) for part in parts])

    sets = [x.values.view(count, -1, case.shape.size).split(most) for x in case.sets]
    return [lambda parts=parts: score(parts) for parts in sets]


def packed(case: Case) -> list[Call]:
    from late_interaction_kernels import maxsim_varlen

    shape, rows = case.shape, torch.cat(case.queries)
    cu_q = torch.arange(shape.queries + 1, dtype=torch.int32, device=rows.device)
    cu_q *= shape.query_tokens
    longest, ends = int(shape.lengths.max()), case.cu.cpu().numpy()
    cuts = [0]
    while cuts[-1] < len(shape.lengths):
        most = ends[cuts[-1]] + MOST_ELEMENTS // shape.size
        cuts.append(int(np.searchsorted(ends, most, side="right")) - 1)

    def score(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
        return joined(
            [maxsim_varlen(rows, x, cu_q, cu, shape.query_tokens, longest) for x, cu in parts]
        )

    sets = []
    for documents in case.sets:
        parts = []
        for start, stop in pairwise(cuts):
            cu = (case.cu[start : stop + 1] - case.cu[start]).to(torch.int32)
            parts.append((documents.values[ends[start] : ends[stop]], cu))
        sets.append(parts)
    return [lambda parts=parts: score(parts) for parts in sets]


def residual(case: Case) -> list[Call]:
    from late_interaction_kernels.plaid import maxsim_residual_varlen

    codec, cu = case.codec, case.cu.to(torch.int32)
    assert codec is not None
    query, longest = torch.stack(case.queries), int(case.shape.lengths.max())
    centroids, weights = codec.centroids.half(), codec.bucket_weights
    turned = torch.tensor([int(f"{x:08b}"[::-1], 2) for x in range(256)], dtype=torch.uint8)
    turned = turned.to(query.device)
    sets = []
    for x in case.sets:
        assert x.codes is not None
        values = torch.cat([turned[part.long()] for part in x.values.split(1 << 20)])
        sets.append((x.codes, values))
    return [
        lambda codes=codes, values=values: maxsim_residual_varlen(
            query, codes, values, cu, centroids, weights, codec.bits, max_seqlen_d=longest
        )
        for codes, values in sets
    ]


def joined(scores: list[Tensor]) -> Tensor:
    return scores[0] if len(scores) == 1 else torch.cat(scores, dim=1)


def installed(session: Session) -> dict[str, str]:
    """Name of each peer that is there -> name and version; a row for one that is not."""
    found = {}
    for peer in PEERS:
        try:
            found[peer] = f"{peer} {version(peer)}"
        except PackageNotFoundError:
            session.write({"bench": "maxsim peers", "case": "all", "contestant": peer,
                           "note": "not installed"})  # fmt: skip
            print(f"{peer} does not race: it is not installed", flush=True)
    return found


def main(session: Session) -> None:
    peers = installed(session)
    for shape in shapes(session) if peers else []:
        for format in shape.formats:
            suited = {
                name: make
                for peer, name in peers.items()
                if (make := entry_point(peer, shape, format)) is not None
            }
            title = f"maxsim peers, {shape.title}, {format}"
            if suited and session.has_time_for(title):
                with session.guard(title):
                    race(session, shape, format, suited, by_the_host=bool(shape.wall_goals))


def race(
    session: Session,
    shape: Shape,
    format: str,
    suited: dict[str, Callable[[Case], list[Call]]],
    *,
    by_the_host: bool,
) -> None:
    case = Case(session, shape, format)
    racing = {
        name: Contestant(
            make(case),
            view=lambda found: found.reshape(shape.queries, -1),
            tolerance=TOLERANCE[format],
            facts=case.facts(None),
        )
        for name, make in suited.items()
    }
    racing["packrank"] = case.ours(case.chosen)
    medians = case.race("maxsim peers", racing)
    if by_the_host:
        case.race_by_the_host("maxsim peers", {name: racing[name] for name in medians})
    ours = medians.pop("packrank", None)
    if ours is not None and medians:
        best = min(medians, key=lambda name: medians[name])
        session.headline(f"maxsim, {case.title}: {medians[best] / ours:.2f}x {best}")
