"""Texts in, scores out, at natural lengths: packrank against sentence-transformers at its best."""

import logging
import tempfile
import warnings
from pathlib import Path

import checkpoints
import numpy as np
import torch
import traces
from measure import DTYPES, Contestant, Session

from packrank import Reranker

CAPS = (128, 512)
BATCHES = (32, 64, 128, 256)
# Pairs for the peer at a cap of 128; packrank takes eight times as many, in about the same time.
NUM_PAIRS = {"MiniLM-L6": 4096, "XLM-R base": 2048, "XLM-R large": 768, "ModernBERT-base": 1536}
OURS, PROBED, CHECKED, ROUNDS = 8, 512, 64, 3
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

    def choose_batch(self, session: Session, pairs: Pairs) -> None:
        """The batch size at which it is fastest."""
        times = {}
        for self.batch in BATCHES[:1] if session.dry else BATCHES:
            self.score(pairs[: self.batch])
            times[self.batch] = session.seconds(lambda: self.score(pairs))
        self.batch = min(times, key=lambda batch: times[batch])


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(x.astype(np.float64)).mean()))


def check(ours: Reranker, peers: dict[str, Peer], exact: Peer, pairs: Pairs) -> None:
    """Packrank's scores are no further from float32's than twice the nearest narrow peer's."""
    expected = exact.score(pairs)
    error = rms(ours.score(pairs) - expected)
    theirs = min(rms(peer.score(pairs) - expected) for peer in peers.values())
    floor = 1e-5 * float(np.abs(expected).max())
    if not error <= max(2 * theirs, floor):
        raise ValueError(f"scores are {error:.3g} from float32's, the peer's {theirs:.3g}")


def run(session: Session, shape: str, folder: Path) -> None:
    dtypes = {"float32": torch.float32} if session.dry else DTYPES
    peers = {name: Peer(folder, session, dtype) for name, dtype in dtypes.items()}
    for cap in CAPS[:1] if session.dry else CAPS:
        if not session.has_time_for(f"cross-encoder, {shape}, {cap} tokens"):
            continue
        ours = Reranker(folder, device=session.device.type, max_length=cap, activation="identity")
        count = 16 if session.dry else NUM_PAIRS[shape] * CAPS[0] // min(cap, 300)
        pool = checkpoints.pairs(count if session.dry else max(count, WINDOW))
        few = pool[:count]
        for peer in peers.values():
            peer.model.max_length = cap
        if cap == CAPS[0]:
            exact = Peer(folder, session, torch.float32)
            exact.model.max_length = cap
            check(ours, peers, exact, few[:CHECKED])
        first, *others = peers.values()
        first.choose_batch(session, few[:PROBED])
        for peer in others:  # as wide, and as fast
            peer.batch = first.batch
        # Texts are tokenized a window at a time, in which no pair comes again.
        many = (pool * OURS)[: count if session.dry else count * OURS]
        race(session, f"{shape}, pairs of up to {cap} tokens", ours, peers, many, few)


def race(
    session: Session,
    case: str,
    ours: Reranker,
    peers: dict[str, Peer],
    many: Pairs,
    few: Pairs,
) -> None:
    before = ours.num_tokens
    ours.score(many)  # captures its graphs
    case += f", {(ours.num_tokens - before) / len(many):.0f} on average"
    contestants = {"packrank": Contestant([lambda: ours.score(many)], count=len(many))}
    for name, peer in peers.items():
        contestants[f"sentence-transformers ({name}, SDPA, batch {peer.batch})"] = Contestant(
            [lambda peer=peer: peer.score(few)], count=len(few)
        )
    medians = session.race(
        "cross-encoder", case, contestants, amount=1, unit="pairs", wall=True, rounds=ROUNDS
    )
    theirs = [seconds for name, seconds in medians.items() if name != "packrank"]
    if not theirs or "packrank" not in medians:
        return
    session.headline(
        f"cross-encoder, {case}: {1 / medians['packrank']:.0f} pairs/s, "
        f"{min(theirs) / medians['packrank']:.2f}x sentence-transformers"
    )
    busy = traces.busy_s(traces.trace(lambda: ours.score(many), host=False))
    share = busy / (medians["packrank"] * len(many))
    session.write(
        {"bench": "busy", "case": case, "contestant": "packrank", "median_s": busy / len(many),
         "busy_share": share}
    )  # fmt: skip
    session.headline(f"cross-encoder, {case}: the device is busy {share:.0%} of the time")


def main(session: Session) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    if not session.needs("sentence_transformers", "the peer of the end-to-end benchmark"):
        return
    for shape in session.some(checkpoints.SHAPES):
        if not session.has_time_for(f"cross-encoder, {shape}"):
            continue
        with session.guard(f"cross-encoder, {shape}"), tempfile.TemporaryDirectory() as folder:
            made = checkpoints.make(shape, Path(folder), session.device, tiny=session.dry)
            run(session, shape, made)
