"""The model alone, ids on the device: share of the dense rate, graph against eager, op by op."""

import tempfile
from pathlib import Path

import checkpoints
import numpy as np
import torch
from measure import Contestant, Session
from sizes import ENCODERS, LENGTH, TOKENS
from torch import Tensor

from packrank.bench.speed.device_trace import traced
from packrank.bench.speed.profile import Op, counted
from packrank.models import Model, load_model
from packrank.models.base import Inputs
from packrank.request import Pack
from packrank.runtime.runner import default_budget
from packrank_kernels.backend.triton import early_launch

PACKS, ROUNDS = 4, 12


def packs(model: Model, tokens: int, count: int) -> list[Pack]:
    """Packs of random ids, all sequences of one length."""
    rng = np.random.default_rng(0)
    starts = np.arange(0, tokens + 1, LENGTH, dtype=np.int32)
    size = int(starts[-1])
    return [
        Pack(
            token_ids=rng.integers(5, model.config.vocab_size, size, dtype=np.int32),
            token_types=np.zeros(size, dtype=np.int32),
            cu_seqlens=starts,
        )
        for _ in range(count)
    ]


def early(model: Model, inputs: Inputs) -> Tensor:
    with early_launch.within():
        return model.score(inputs)


def run(session: Session, shape: str, model: Model, tokens: int) -> None:
    case = f"{shape}, {tokens // LENGTH} x {LENGTH} tokens, {str(model.dtype)[6:]}"
    if not session.has_time_for(f"forward, {case}"):
        return
    inputs = [model.inputs(pack) for pack in packs(model, tokens, PACKS)]
    logits = [model.score(one) for one in inputs]
    if not all(one.isfinite().all() for one in logits):
        raise ValueError("the logits are not finite")
    order = counted(lambda: model.score(inputs[0]))
    operations = sum(op.operations for op in order)
    calls = [lambda one=one: model.score(one) for one in inputs]
    contestants = {
        "packrank": Contestant(calls),
        "packrank, eager": Contestant(calls, graph=False),
        "packrank, early launch": Contestant([lambda one=one: early(model, one) for one in inputs]),
    }
    medians = session.race(
        "forward", case, contestants,
        amount=operations / 1e12, unit="TFLOP", dtype=model.dtype, operations=operations,
        expected=logits[0], rounds=ROUNDS,
    )  # fmt: skip
    dense = session.ceilings.get(str(model.dtype)[6:])
    if dense and "packrank" in medians:
        share = operations / medians["packrank"] / dense
        pairs = tokens // LENGTH / medians["packrank"]
        session.headline(
            f"forward, {case}: {share:.1%} of the dense rate, {pairs:.0f} pairs/s, "
            f"{medians.get('packrank, eager', 0) / medians['packrank']:.2f}x eager, "
            f"{medians.get('packrank, early launch', 0) / medians['packrank']:.2f}x the time if "
            "launched early"
        )
    profile(session, case, model.dtype, traced(lambda: model.score(inputs[0]), order))


def profile(session: Session, case: str, dtype: torch.dtype, ops: list[Op]) -> None:
    """A row for each op of one forward, slowest first, and the largest gap."""
    total = sum(work.seconds for work in ops)
    gaps = {}
    for work in ops:
        name = work.name
        limit = session.possible_s(dtype, work.operations, work.moved)
        possible = limit.get("possible_s", 0.0)
        gaps[name] = work.seconds - possible
        share = {"share_of_ceiling": possible / work.seconds} if limit and work.seconds else {}
        session.write(
            {"bench": "profile", "case": case, "op": name, "calls": work.calls,
             "seconds": work.seconds, "share_of_time": work.seconds / max(total, 1e-12),
             "operations": work.operations, "bytes": work.moved,
             "kernels": sorted(work.kernels), **limit, **share}
        )  # fmt: skip
        print(
            f"  {name:48} {work.calls:4} calls {work.seconds * 1e6:9.1f} us, "
            f"possible {possible * 1e6:9.1f} us ({limit.get('bound_by', 'unknown')})",
            flush=True,
        )
    if gaps:
        worst = max(gaps, key=lambda name: gaps[name])
        session.headline(
            f"profile, {case}: the largest gap is {worst}, {gaps[worst] * 1e6:.0f} of "
            f"{total * 1e6:.0f} us above what is possible"
        )


def main(session: Session) -> None:
    for shape in session.shapes(ENCODERS):
        if not session.has_time_for(f"forward, {shape}"):
            continue
        with session.guard(f"forward, {shape}"):
            with tempfile.TemporaryDirectory() as folder:
                made = checkpoints.make(shape, Path(folder), session.device, tiny=session.dry)
                dtype = torch.float32 if session.dry else torch.float16
                model = load_model(made, device=session.device, dtype=dtype)
            budgets = {LENGTH * 2} if session.dry else {default_budget(model), TOKENS}
            with torch.inference_mode():
                for tokens in sorted(budgets):
                    run(session, shape, model, tokens)
