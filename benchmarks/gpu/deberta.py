"""DeBERTa alone, ids on the device, against transformers' eager forward, the only one it has."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from forward import profile
from measure import DTYPES, Contestant, Session
from sizes import DEBERTAS, TOKENS

from packrank.bench.speed.device_trace import traced
from packrank.bench.speed.profile import counted
from packrank.models import Model, load_model
from packrank.request import Pack

LENGTHS, ROUNDS = (128, 512, 256), 8
CHECKED = [1, 2, 3, 17, 40, 64, 65, 100, 128, 200]
_TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
         "intermediate_size": 64, "vocab_size": 99, "position_buckets": 8}  # fmt: skip


class Peer:
    """transformers' model, made here of seeded weights and saved for ours."""

    def __init__(self, shape: str, folder: Path, device: torch.device, *, tiny: bool) -> None:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        name, sizes = DEBERTAS[shape]
        config = getattr(transformers, f"{name}Config")(
            **(sizes | (_TINY if tiny else {}) | {"num_labels": 1})
        )
        torch.manual_seed(0)
        with torch.device(device):
            model = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
        with torch.no_grad():
            for path, vector in model.named_parameters():
                if vector.ndim == 1:  # all ones or all zeros: which is which would not show
                    vector.normal_(mean=float(path.endswith("LayerNorm.weight")), std=0.1)
        model.half().save_pretrained(folder)
        self.model, self.device = model, device

    def score(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[N, 1] of ids [N, L], padded behind."""
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        return logits.float()

    def padded(self, pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.from_numpy(pack.lengths).long()
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.zeros(mask.shape, dtype=torch.long)
        ids[mask] = torch.from_numpy(pack.token_ids).long()
        return ids.to(self.device), mask.long().to(self.device)


def pack_of(lengths: list[int], vocab_size: int) -> Pack:
    ids = np.random.default_rng(0).integers(5, vocab_size, sum(lengths), dtype=np.int32)
    starts = np.append(0, np.cumsum(lengths)).astype(np.int32)
    return Pack(token_ids=ids, token_types=np.zeros_like(ids), cu_seqlens=starts)


def check(model: Model, peer: Peer, expected: torch.Tensor, pack: Pack) -> None:
    """Scores are no further from float32's than four times transformers'."""
    theirs = _rms(peer.score(*peer.padded(pack)) - expected)
    error = _rms(model.logits(pack) - expected)
    if not error <= max(4 * theirs, 1e-5 * float(expected.abs().max())):
        raise ValueError(f"scores are {error:.3g} from float32's, transformers' {theirs:.3g}")


def _rms(x: torch.Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def run(session: Session, shape: str, model: Model, peer: Peer, length: int) -> None:
    count, length = (3, 16) if session.dry else (TOKENS // length, length)
    dtype = str(model.dtype)[6:]
    case = f"{shape}, {count} x {length} tokens, {dtype}"
    if not session.has_time_for(f"forward, {case}"):
        return
    pack = pack_of([length] * count, model.config.vocab_size)
    inputs, padded = model.inputs(pack), peer.padded(pack)
    order = counted(lambda: model.score(inputs))
    operations = sum(op.operations for op in order)
    racing = {
        "packrank": Contestant([lambda: model.score(inputs)]),
        "packrank, eager": Contestant([lambda: model.score(inputs)], graph=False),
        "transformers (eager)": Contestant([lambda: peer.score(*padded)], graph=False),
    }
    medians = session.race(
        "forward", case, racing, amount=operations / 1e12, unit="TFLOP", dtype=model.dtype,
        operations=operations, rounds=ROUNDS,
    )  # fmt: skip
    if {"packrank", "transformers (eager)"} <= medians.keys():
        session.headline(
            f"forward, {case}: {count / medians['packrank']:.0f} pairs/s, "
            f"{medians['transformers (eager)'] / medians['packrank']:.2f}x transformers"
        )
    if length == LENGTHS[0] or session.dry:
        profile(session, case, model.dtype, traced(lambda: model.score(inputs), order))


def main(session: Session) -> None:
    if not session.needs("transformers", "what makes the models"):
        return
    dtypes: dict[str, Any] = {"float32": torch.float32} if session.dry else DTYPES
    for shape in session.shapes(DEBERTAS):
        if not session.has_time_for(f"forward, {shape}"):
            continue
        with (
            session.guard(f"forward, {shape}"),
            tempfile.TemporaryDirectory() as folder,
            torch.inference_mode(),
        ):
            peer = Peer(shape, Path(folder), session.device, tiny=session.dry)
            peer.model.float()
            pack = pack_of(CHECKED, peer.model.config.vocab_size)
            expected = peer.score(*peer.padded(pack))
            for dtype in dtypes.values():
                peer.model.to(dtype)
                model = load_model(Path(folder), device=session.device, dtype=dtype)
                check(model, peer, expected, pack)
                for length in session.some(LENGTHS):
                    run(session, shape, model, peer, length)
