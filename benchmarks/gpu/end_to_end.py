"""Texts in, scores out, at natural lengths: packrank against sentence-transformers at its best."""

import logging
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import checkpoints
import numpy as np
import torch
from measure import DTYPES, Contestant, Session, captured
from sizes import CAPS, ENCODERS

from packrank import Reranker
from packrank.bench.speed import device_trace

BATCHES = (32, 64, 128, 256, 512, 1024)
# Pairs for the peer at a cap of 128; packrank takes four times as many.
NUM_PAIRS = {"MiniLM-L6": 4096, "XLM-R base": 1024, "XLM-R large": 512, "ModernBERT-base": 1024}
OURS, PROBED, CHECKED, ROUNDS = 4, 1024, 64, 3
WINDOW = 1024
Pairs = list[tuple[str, str]]


class Peer:
    """sentence-transformers' CrossEncoder in one precision; it sorts by length itself."""

    def __init__(self, folder: Path, session: Session, dtype: torch.dtype) -> None:
        from sentence_transformers import CrossEncoder

        self.model = CrossEncoder(
            str(folder),
            device=session.device.type,
            activation_fn=torch.nn.Identity(),
            model_kwargs={"dtype": dtype, "attn_implementation": "sdpa"},
        )
        self.batch = BATCHES[0]

    def score(self, pairs: Pairs) -> np.ndarray:
        scores: np.ndarray = self.model.predict(
            pairs, batch_size=self.batch, show_progress_bar=False
        )
        return scores

    def choose_batch(self, session: Session, pairs: Pairs) -> float:
        """Take the batch size at which it is fastest; returns its seconds."""
        times: dict[int, float] = {}
        for self.batch in BATCHES[:1] if session.dry else BATCHES:
            self.score(pairs[: self.batch])
            times[self.batch] = session.seconds(lambda: self.score(pairs))
            if times[self.batch] > 1.1 * min(times.values()):
                break
        self.batch = min(times, key=lambda batch: times[batch])
        return times[self.batch]


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(x.astype(np.float64)).mean()))


def check(
    session: Session, ours: Reranker, peers: dict[str, Peer], exact: Peer, pairs: Pairs
) -> None:
    """Packrank's scores are no further from float32's than twice the nearest narrow peer's.

    A little more is reported as a failure, and timed all the same; much more is not timed.
    """
    expected = exact.score(pairs)
    error = rms(ours.score(pairs) - expected)
    theirs = min(rms(peer.score(pairs) - expected) for peer in peers.values())
    floor = 1e-5 * float(np.abs(expected).max())
    wrong = ValueError(f"scores are {error:.3g} from float32's, the peer's {theirs:.3g}")
    if not error <= max(10 * theirs, floor):
        raise wrong
    if error > max(2 * theirs, floor):
        session.fail("the check of scores", wrong)


def run(session: Session, shape: str, folder: Path) -> None:
    dtypes = {"float32": torch.float32} if session.dry else DTYPES
    peers = {name: Peer(folder, session, dtype) for name, dtype in dtypes.items()}
    raced: list[Raced] = []
    for cap in CAPS[:1] if session.dry else CAPS:
        if not session.has_time_for(f"cross-encoder, {shape}, {cap} tokens"):
            continue
        ours = Reranker(folder, device=session.device.type, max_length=cap, activation="identity")
        count = 16 if session.dry else NUM_PAIRS[shape] * CAPS[0] // min(cap, 300)
        pool = checkpoints.pairs(count if session.dry else max(count, WINDOW))
        few = pool[:count]
        for peer in peers.values():
            _cut(peer, cap)
        if cap == CAPS[0]:
            exact = Peer(folder, session, torch.float32)
            _cut(exact, cap)
            check(session, ours, peers, exact, few[:CHECKED])
        times = {name: peer.choose_batch(session, few[:PROBED]) for name, peer in peers.items()}
        best = min(times, key=lambda name: times[name])
        # Texts are tokenized a window at a time, in which no pair comes again.
        many = (pool * OURS)[: count if session.dry else count * OURS]
        case = f"{shape}, pairs of up to {cap} tokens"
        raced += race(session, case, ours, {best: peers[best]}, many, few)
    # Not before every race is run: a profiler may slow down what comes after it.
    for one in raced:
        if session.has_time_for(f"how busy the device is, {one.case}"):
            trace(session, one)


@dataclass(frozen=True)
class Raced:
    """A case that has been timed."""

    case: str
    ours: Reranker
    pairs: Pairs
    seconds: float  # a pair


def race(
    session: Session,
    case: str,
    ours: Reranker,
    peers: dict[str, Peer],
    many: Pairs,
    few: Pairs,
) -> list[Raced]:
    before = ours.num_tokens
    ours.score(few)
    case += f", {(ours.num_tokens - before) / len(few):.0f} on average"
    graphs = ours._runner.graphs
    contestants = {
        "packrank": Contestant([lambda: ours.score(many)], count=len(many), graphs=graphs)
    }
    for name, peer in peers.items():
        contestants[f"sentence-transformers ({name}, SDPA, batch {peer.batch})"] = Contestant(
            [lambda peer=peer: peer.score(few)], count=len(few)
        )
    medians = session.race(
        "cross-encoder", case, contestants, amount=1, unit="pairs", wall=True, rounds=ROUNDS
    )
    theirs = [seconds for name, seconds in medians.items() if name != "packrank"]
    if not theirs or "packrank" not in medians:
        return []
    session.headline(
        f"cross-encoder, {case}: {1 / medians['packrank']:.0f} pairs/s, "
        f"{min(theirs) / medians['packrank']:.2f}x sentence-transformers"
    )
    if found := captured(graphs):
        why = f", and no more: {found['capture_broken']}" if "capture_broken" in found else ""
        session.headline(f"cross-encoder, {case}: {found['num_graphs']} graphs captured{why}")
    return [Raced(case, ours, many, medians["packrank"])]


def trace(session: Session, one: Raced) -> None:
    """How busy the device is, with texts in and with tokens in."""
    windows = [window.sequences for window in one.ours._scorer.reader.windows(one.pairs)]
    runner = one.ours._runner

    def from_tokens() -> None:
        for pending in [runner.submit(window) for window in windows]:
            pending.result()

    tokens_in = session.seconds(from_tokens) / len(one.pairs)
    for what, seconds, call in (
        ("texts in", one.seconds, lambda: one.ours.score(one.pairs)),
        ("tokens in", tokens_in, from_tokens),
    ):
        busy = device_trace.busy_s(device_trace.trace(call, host=False)) / len(one.pairs)
        session.write(
            {"bench": "busy", "case": f"{one.case}, {what}", "contestant": "packrank",
             "median_s": seconds, "busy_s": busy, "busy_share": busy / seconds,
             **captured(runner.graphs)}
        )  # fmt: skip
        session.headline(
            f"cross-encoder, {one.case}, {what}: {1 / seconds:.0f} pairs/s, the device is busy "
            f"{busy / seconds:.0%} of the time"
        )


def _cut(peer: Peer, cap: int) -> None:
    # Older releases call it max_length.
    name = "max_seq_length" if hasattr(type(peer.model), "max_seq_length") else "max_length"
    setattr(peer.model, name, cap)


def main(session: Session) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if not session.needs("sentence_transformers", "the peer of the end-to-end benchmark"):
        return
    for shape in session.shapes(ENCODERS):
        if not session.has_time_for(f"cross-encoder, {shape}"):
            continue
        with session.guard(f"cross-encoder, {shape}"), tempfile.TemporaryDirectory() as folder:
            made = checkpoints.make(shape, Path(folder), session.device, tiny=session.dry)
            run(session, shape, made)
