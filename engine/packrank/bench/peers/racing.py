"""Peers in the rounds of a model: the same pairs, checked first."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from packrank.bench.peers.agreement import Scored, check
from packrank.bench.peers.opening import opened
from packrank.bench.peers.peer import Logits, Peer
from packrank.bench.report import Result
from packrank.bench.speed.offline import Offline, Racer
from packrank.bench.watch.energy import Meter

_CHECKED = 64  # pairs
_OURS = "packrank"


def beside(
    ours: list[Offline], folder: Path, meter: Callable[[], Meter]
) -> tuple[list[Racer], list[str]]:
    """Those that may race with a model, on the pairs of its first dtype.

    Args:
        ours: the model in each of its dtypes, at one distribution of lengths.
        folder: of the model.
        meter: makes one of energy.

    Returns:
        Them, and a sentence for each that may not.
    """
    first = ours[0]
    few = first.pairs[:_CHECKED]
    peers, sentences = opened(
        folder, first.subject.device, first.subject.texts.max_length, first.pairs
    )
    scored = [Scored(peer.name, peer.dtype, peer.score(few)) for peer in peers]
    scored += [Scored(_OURS, one.subject.dtype, one.subject.logits(few)) for one in ours]
    found = check(scored, _reference(scored))
    sentences += [*found.left_out.values(), *found.remarks]
    exact = [peer.name for peer in peers if peer.dtype == "float32"]
    if _OURS in found.left_out or (exact and found.left_out.keys() >= {*exact}):
        return [], [*sentences, "packrank and the others score otherwise, so nobody races"]
    racing = [peer for peer in peers if peer.name not in found.left_out]
    return [_racer(first, peer, meter()) for peer in racing], sentences


def _reference(scored: list[Scored]) -> Logits:
    """Ours in float32, or whoever else computes in that; else ours in what there is."""
    order = sorted(scored, key=lambda one: (one.dtype != "float32", one.name != _OURS))
    return order[0].logits


def _racer(first: Offline, peer: Peer, meter: Meter) -> Racer:
    subject, facts = first.subject, first.result.facts
    kept = ("candidates", "tokens_per_candidate")
    result = Result(
        "Offline", subject.name, peer.dtype, subject.texts.name, "rate", "candidates/s", [],
        by=peer.name, facts={name: facts[name] for name in kept},
    )  # fmt: skip
    score = partial(peer.score, first.pairs)
    return Racer(result, score, len(first.pairs), meter, subject.clock)
