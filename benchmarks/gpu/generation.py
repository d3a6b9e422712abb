"""A step of a decoder that generates: a token of each of many sequences, their cache in pages.

Before it is timed its logits are compared with transformers' own, of the same weights and the same
cache.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import decoders
import numpy as np
import torch
from forward import profile
from measure import Contestant, Session
from sizes import HAVE, PAGE, SEQUENCES
from torch import Tensor

from packrank.bench.speed.device_trace import traced
from packrank.bench.speed.profile import counted
from packrank.models import CausalSettings, GenerativeModel, load_model
from packrank.models.generative import Cache, Step
from packrank.runtime.transfer import PackUploads

SHAPE, CHECKED, ROUNDS = "Qwen2.5-0.5B", 4, 8


@dataclass(frozen=True)
class Kept:
    """What sequences of one length have left, all but their newest token.

    Attributes:
        step: the newest tokens.
        cache: in pages.
        flat: a layer: keys and values, each [N, Hk, L - 1, D].
    """

    step: Step
    cache: Cache
    flat: list[tuple[Tensor, Tensor]]

    @classmethod
    def draw(cls, model: GenerativeModel, count: int, have: int) -> "Kept":
        rng, most = np.random.default_rng(0), -(-have // PAGE)
        cache = model.make_cache(count * most, PAGE)
        for one in (*cache.keys, *cache.values):
            one.normal_()
        table = rng.permutation(count * most).astype(np.int32).reshape(count, most)
        places = torch.from_numpy(table).to(model.device).long()

        def flat(pages: Tensor) -> Tensor:
            return pages[places].flatten(1, 2)[:, : have - 1].transpose(1, 2).contiguous()

        number = np.arange(count, dtype=np.int32)
        step = Step(
            token_ids=rng.integers(5, model.config.vocab_size, count, dtype=np.int32),
            cu_seqlens=np.append(number, np.int32(count)),
            lengths=np.full(count, have, dtype=np.int32),
            table=table,
            asked=number,
        )
        both = zip(cache.keys, cache.values, strict=True)
        return cls(step, cache, [(flat(keys), flat(values)) for keys, values in both])


class Theirs:
    """transformers' step over the same cache, which it copies to add a token."""

    def __init__(self, peer: decoders.Peer, kept: Kept) -> None:
        from transformers import DynamicCache

        self.body, self.flat = peer.body, kept.flat
        self.table = peer.body.embed_tokens.weight
        self.ids = torch.from_numpy(kept.step.token_ids).to(self.table.device).long()[:, None]
        self.cache = DynamicCache()
        for index, (keys, values) in enumerate(kept.flat):
            self.cache.update(keys.to(self.table), values.to(self.table), index)
        self.kept = [(layer.keys, layer.values) for layer in self.cache.layers]

    def step(self) -> Tensor:
        """[N, vocabulary]."""
        for layer, (keys, values) in zip(self.cache.layers, self.kept, strict=True):
            layer.keys, layer.values = keys, values
        out = self.body(input_ids=self.ids, past_key_values=self.cache, use_cache=True)
        return out.last_hidden_state[:, -1] @ self.table.T


def check(model: GenerativeModel, peer: decoders.Peer, have: int) -> None:
    """Logits are no further from float32's than four times transformers'; narrows the peer."""
    kept = Kept.draw(model, CHECKED, have)
    expected = Theirs(peer, kept).step()
    decoders.narrow(peer.body, model.dtype)
    theirs = _rms(Theirs(peer, kept).step() - expected)
    error = _rms(model.next_logits(kept.step, kept.cache) - expected)
    if not error <= max(4 * theirs, 1e-5 * float(expected.abs().max())):
        raise ValueError(f"logits are {error:.3g} from float32's, transformers' {theirs:.3g}")


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def race(session: Session, model: GenerativeModel, peer: decoders.Peer, count: int) -> None:
    count, have = (3, 37) if session.dry else (count, HAVE)
    dtype = str(model.dtype)[6:]
    case = f"{SHAPE}, {count} sequences of {have} tokens, {dtype}"
    if not session.has_time_for(f"generation, {case}"):
        return
    kept = Kept.draw(model, count, have)
    uploads = model.upload
    there: dict[str, Tensor] = {}

    def step() -> Tensor:
        return model.next_logits(kept.step, kept.cache)

    def recorded(arrays: Any) -> dict[str, Tensor]:
        there.update(uploads(arrays))
        return there

    def of_the_device() -> Tensor:
        """The same, of arrays that are there: what a graph of it would take."""
        model.upload = lambda arrays: there
        try:
            return step()
        finally:
            model.upload = uploads

    model.upload = recorded
    order = counted(step)
    model.upload = uploads
    moved = sum(op.moved for op in order)
    racing = {
        "packrank": Contestant([step], count=count, graph=False),
        "packrank, one graph": Contestant([of_the_device], count=count),
        "transformers (SDPA, cache copied)": Contestant(
            [Theirs(peer, kept).step], count=count, graph=False
        ),
    }
    medians = session.race(
        "generation", case, racing, amount=1, unit="tokens", moved=moved / count,
        dtype=model.dtype, rounds=ROUNDS,
    )  # fmt: skip
    if "packrank" in medians:
        said = ", ".join(
            f"{seconds / medians['packrank']:.2f}x the time: {name}"
            for name, seconds in medians.items()
            if name != "packrank"
        )
        session.headline(f"generation, {case}: {1 / medians['packrank']:.0f} tokens/s; {said}")
    profile(session, f"a step of {case}", model.dtype, traced(step, order))


def main(session: Session) -> None:
    if not session.needs("transformers", "what makes the decoders"):
        return
    dtype = torch.float32 if session.dry else torch.float16
    with (
        session.guard(f"generation, {SHAPE}"),
        tempfile.TemporaryDirectory() as folder,
        torch.inference_mode(),
    ):
        sizes = {"tie_word_embeddings": True} | (decoders.TINY if session.dry else {})
        peer = decoders.make(SHAPE, Path(folder), session.device, **sizes)
        settings = CausalSettings(head="vocabulary")
        model = load_model(Path(folder), device=session.device, dtype=dtype, causal=settings)
        if not isinstance(model, GenerativeModel):
            raise TypeError(f"{SHAPE} was loaded as {type(model).__name__}")
        model.upload = PackUploads(model.device)
        check(model, peer, 37 if session.dry else HAVE)
        for count in session.some(SEQUENCES):
            race(session, model, peer, count)
