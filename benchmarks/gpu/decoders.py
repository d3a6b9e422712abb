"""Decoders, ids on the device: share of the dense rate, and candidates of one query.

Checkpoints have the sizes of published models and seeded random weights. Before anything is timed,
scores are compared with transformers' own of the same weights.
"""

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forward import profile
from measure import Contestant, Session
from sizes import (
    CANDIDATES,
    DECODER_LENGTH,
    DECODERS,
    FEW_CANDIDATES,
    LONGEST,
    PREFIX,
    SHORTEST,
    TOKENS,
)

from packrank.bench.speed.device_trace import traced
from packrank.bench.speed.profile import counted
from packrank.models import CausalModel, CausalSettings, load_model
from packrank.request import Pack
from packrank.runtime.graphs import Graphs, can_capture

_LAYERWISE = {"architectures": ["LayerWiseMiniCPMForCausalLM"], "model_type": "minicpm",
              "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256, "start_layer": 8,
              "head_multi": True, "head_type": "simple"}  # fmt: skip
TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 99}  # fmt: skip

CHECKED, ROUNDS = 16, 12


@dataclass(frozen=True)
class Peer:
    """transformers' model, and the head that reads its last token."""

    body: Any
    head: torch.Tensor  # [hidden], float32

    def score(self, ids: torch.Tensor, mask: torch.Tensor | None, last: torch.Tensor) -> Any:
        """[N] float32 of ids [N, L], padded behind; `last`: the place of each last token."""
        hidden = self.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return hidden[torch.arange(len(ids), device=ids.device), last].float() @ self.head

    def contestant(self, pack: Pack, batch: int) -> Contestant:
        """The sequences of a pack by length, `batch` at a time, ids on the device."""
        order = np.argsort(-pack.lengths, kind="stable")
        batches = [self._padded(pack, order[at : at + batch]) for at in range(0, len(pack), batch)]
        return Contestant([lambda: torch.cat([self.score(*one) for one in batches])], graph=False)

    def scores(self, pack: Pack) -> np.ndarray:
        found: np.ndarray = self.score(*self._padded(pack, np.arange(len(pack)))).cpu().numpy()
        return found

    def best(self, session: Session, pack: Pack) -> tuple[int, Contestant]:
        """The batch size at which it is fastest."""
        sizes = {max(1, len(pack) // share) for share in ((1,) if session.dry else (1, 2, 4))}
        ready = {size: self.contestant(pack, size) for size in sizes}
        times = {}
        for size, contestant in ready.items():
            contestant.calls[0]()
            times[size] = session.seconds(contestant.calls[0])
        fastest = min(times, key=lambda size: times[size])
        return fastest, ready[fastest]

    def _padded(self, pack: Pack, indices: np.ndarray) -> tuple[Any, ...]:
        lengths = torch.from_numpy(pack.lengths[indices]).long()
        device = self.head.device
        ids = torch.zeros(len(indices), int(lengths.max()), dtype=torch.long)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        ids[mask] = torch.from_numpy(pack.take(indices).token_ids).long()
        whole = bool(mask.all())
        return ids.to(device), None if whole else mask.to(device), (lengths - 1).to(device)


def make(shape: str, folder: Path, device: torch.device, **smaller: int) -> Peer:
    """A checkpoint in `folder`, and transformers' float32 model of the same weights.

    Args:
        shape: a key of `DECODERS`.
        folder: of the checkpoint.
        device: of the model.
        smaller: sizes of the configuration in place of the shape's.
    """
    import transformers
    from safetensors.torch import save_file

    name, sizes = DECODERS[shape]
    sizes = sizes | smaller | {"num_labels": 1}
    config = getattr(transformers, f"{name}Config")(**sizes)
    torch.manual_seed(0)
    with torch.device(device):
        body = getattr(transformers, f"{name}Model")(config).eval()
        with torch.no_grad():
            for path, vector in body.named_parameters():
                if vector.ndim == 1:  # all ones or all zeros: which is which would not show
                    vector.normal_(mean=float(path.endswith("norm.weight")), std=0.1)
        head = torch.randn(1, config.hidden_size) * 0.02
    narrow(body, torch.float16)
    weights = {f"model.{path}": x.cpu() for path, x in body.state_dict().items()}
    raw = config.to_dict() | {"architectures": ["Qwen2ForSequenceClassification"]}
    heads = ["score.weight"]
    if name == "Llama":
        raw |= _LAYERWISE | ({"start_layer": 1} if config.num_hidden_layers < 8 else {})
        count = config.num_hidden_layers - raw["start_layer"] + 1
        heads = [f"lm_head.{place}.linear_head.weight" for place in range(count)]
    # The last head is the one in use; the others must not pass for it.
    weights |= {path: (head * (path == heads[-1])).cpu() for path in heads}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw, default=str))
    narrow(body, torch.float32)
    if name == "Llama":
        _fold(body, raw)
    return Peer(body, head[0])


def narrow(body: Any, dtype: torch.dtype) -> None:
    """Weights in a dtype; frequencies of rotary positions stay float32, as transformers loads them.

    They are what counts at the positions of a long cache.
    """
    for weight in body.parameters():
        weight.data = weight.data.to(dtype)


def _fold(body: Any, raw: dict[str, Any]) -> None:
    """MiniCPM's scales into a Llama's weights."""
    scale = raw["scale_depth"] / math.sqrt(len(body.layers))
    with torch.no_grad():
        body.embed_tokens.weight.mul_(raw["scale_emb"])
        for layer in body.layers:
            layer.self_attn.o_proj.weight.mul_(scale)
            layer.mlp.down_proj.weight.mul_(scale)


def candidates(lengths: list[int], prefix: int, vocab_size: int) -> Pack:
    """Sequences of random ids, `prefix` of them first and the same in all."""
    rng = np.random.default_rng(0)
    common = rng.integers(5, vocab_size, prefix, dtype=np.int32)
    parts = [
        part
        for length in lengths
        for part in (common, rng.integers(5, vocab_size, length, dtype=np.int32))
    ]
    ids, count = np.concatenate(parts), len(lengths)
    return Pack(
        token_ids=ids,
        token_types=np.zeros_like(ids),
        cu_seqlens=np.append(0, np.cumsum(np.array(lengths) + prefix)).astype(np.int32),
        queries=np.zeros(count, dtype=np.int32) if prefix else None,
        shared=np.full(count, prefix, dtype=np.int32) if prefix else None,
    )


def whole(pack: Pack) -> Pack:
    """The same sequences, each on its own."""
    return Pack(pack.token_ids, pack.token_types, pack.cu_seqlens)


def check(model: CausalModel, peer: Peer, dtype: torch.dtype) -> None:
    """Scores are no further from float32's than four times transformers'; narrows the peer."""
    pack = candidates([*range(1, 2 * CHECKED, 2)], 7, model.config.vocab_size)
    expected = peer.scores(pack)
    narrow(peer.body, dtype)
    theirs = _rms(peer.scores(pack) - expected)
    bound = max(4 * theirs, 1e-5 * float(np.abs(expected).max()))
    for name, given in (("with a shared prefix", pack), ("whole", whole(pack))):
        error = _rms(model.logits(given)[:, 0].cpu().numpy() - expected)
        if not error <= bound:
            raise ValueError(
                f"scores of sequences {name} are {error:.3g} from float32's, transformers' "
                f"{theirs:.3g}"
            )


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(x.astype(np.float64)).mean()))


def dense(session: Session, shape: str, model: CausalModel, peer: Peer) -> None:
    """Sequences of one length: how near the device's rate of products."""
    count, length = (3, 16) if session.dry else (TOKENS // DECODER_LENGTH, DECODER_LENGTH)
    case = f"{shape}, {count} x {length} tokens, {str(model.dtype)[6:]}"
    if not session.has_time_for(f"decoder, {case}"):
        return
    pack = candidates([length] * count, 0, model.config.vocab_size)
    order = counted(lambda: model.logits(pack))
    operations = sum(op.operations for op in order)
    batch, theirs = peer.best(session, pack)
    medians = session.race(
        "decoder", case,
        {"packrank": Contestant([lambda: model.logits(pack)], graph=False),
         f"transformers (SDPA, batch {batch})": theirs},
        amount=operations / 1e12, unit="TFLOP", dtype=model.dtype, operations=operations,
        rounds=ROUNDS,
    )  # fmt: skip
    ceiling = session.ceilings.get(str(model.dtype)[6:])
    if ceiling and "packrank" in medians:
        share = operations / medians["packrank"] / ceiling
        session.headline(
            f"decoder, {case}: {share:.1%} of the dense rate (goal: 50 %), "
            f"{_ratio(medians, 'transformers')}"
        )
    profile(session, case, model.dtype, traced(lambda: model.logits(pack), order))


def one_query(
    session: Session, shape: str, model: CausalModel, peer: Peer, graphs: Graphs | None, count: int
) -> None:
    """Candidates of one query at natural lengths: prefix once, prefix each, padded."""
    count, prefix = (4, 9) if session.dry else (count, PREFIX)
    case = f"{shape}, {count} candidates under {prefix} tokens, {str(model.dtype)[6:]}"
    if not session.has_time_for(f"decoder, {case}"):
        return
    lengths = np.random.default_rng(1).integers(SHORTEST, LONGEST + 1, count).tolist()
    pack = candidates(lengths, prefix, model.config.vocab_size)
    batch, theirs = peer.best(session, pack)

    def ours(pack: Pack) -> Contestant:
        """As a runner would: small packs in graphs."""

        def logits() -> torch.Tensor:
            return model.logits(pack) if graphs is None else graphs.run(model.scoring(pack))

        return Contestant([logits], count=count, graph=False, graphs=graphs)

    racing = {
        "packrank": ours(pack),
        "packrank, launched": Contestant([lambda: model.logits(pack)], count=count, graph=False),
        f"packrank, whole sequences of {pack.lengths.mean():.0f} tokens": ours(whole(pack)),
        f"transformers (SDPA, padded, batch {batch})": Contestant(
            theirs.calls, count=count, graph=False
        ),
    }
    medians = session.race(
        "decoder", case, racing, amount=1, unit="candidates", dtype=model.dtype, rounds=ROUNDS
    )
    if "packrank" in medians:
        session.headline(
            f"decoder, {case}: {1 / medians['packrank']:.0f} candidates/s, "
            f"{_ratio(medians, 'packrank, launched')}, {_ratio(medians, 'packrank, whole')}, "
            f"{_ratio(medians, 'transformers')}"
        )


def _ratio(medians: dict[str, float], name: str) -> str:
    found = [seconds for other, seconds in medians.items() if other.startswith(name)]
    what = "whole sequences" if name.endswith("whole") else name
    return f"{found[0] / medians['packrank']:.2f}x {what}" if found else f"{what} did not run"


def main(session: Session) -> None:
    if not session.needs("transformers", "what makes the decoders"):
        return
    dtype = torch.float32 if session.dry else torch.float16
    for shape in session.shapes(DECODERS):
        if not session.has_time_for(f"decoder, {shape}"):
            continue
        with (
            session.guard(f"decoder, {shape}"),
            tempfile.TemporaryDirectory() as folder,
            torch.inference_mode(),
        ):
            peer = make(shape, Path(folder), session.device, **(TINY if session.dry else {}))
            head = "layerwise" if shape.endswith("layerwise") else "classifier"
            model = load_model(
                Path(folder),
                device=session.device,
                dtype=dtype,
                causal=CausalSettings(head=head),
            )
            if not isinstance(model, CausalModel):
                raise TypeError(f"{shape} was loaded as {type(model).__name__}")
            check(model, peer, dtype)
            dense(session, shape, model, peer)
            graphs = Graphs(model) if can_capture(model) else None
            for count in session.some((FEW_CANDIDATES, CANDIDATES)):
                one_query(session, shape, model, peer, graphs, count)
