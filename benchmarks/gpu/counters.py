"""One call each of the kernels that matter, for ncu to read the device's counters meanwhile.

Run under `ncu --profile-from-start off`; by itself it only makes the calls.
"""

from collections.abc import Callable

import numpy as np
import torch
from attention import Case as Pack
from linear import TOKENS
from maxsim import Case, Shape
from measure import Session

from packrank_kernels import linear, pack_linear

Call = Callable[[], object]


def attention(session: Session, size: int) -> Call:
    lengths = [128] * (2 if session.dry else TOKENS // 128)
    return Pack(session, size, lengths, first=False).packed("auto").calls[0]


def product(session: Session) -> Call:
    """What takes a base encoder longest: up, with GELU."""
    inputs, outputs, rows = 768, 3072, 8 if session.dry else TOKENS
    like = {"dtype": torch.float16, "device": session.device}
    weight = torch.randn(outputs, inputs, **like) / inputs**0.5
    bias = torch.zeros(outputs, device=session.device)
    packed, x = pack_linear(weight, bias, activation="gelu"), torch.randn(rows, inputs, **like)
    return lambda: linear(x, packed)


def maxsim(session: Session, format: str) -> Call:
    lengths = np.full(3 if session.dry else 20_000, 180, dtype=np.int64)
    return Case(session, Shape("counted", 1, 32, "180", lengths), format).ours("auto").calls[0]


KERNELS: dict[str, Callable[[Session], Call]] = {
    "attention, heads of 64": lambda session: attention(session, 64),
    "product with GELU": product,
    "maxsim, float16": lambda session: maxsim(session, "float16"),
    "maxsim, 4bit": lambda session: maxsim(session, "4bit"),
    "attention, heads of 32": lambda session: attention(session, 32),
}


def main(session: Session) -> None:
    for name, make in KERNELS.items():
        if not session.has_time_for(name):
            continue
        with session.guard(name):
            call = make(session)
            call()  # compiled
            print(f"counting {name}", flush=True)
            if session.device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.profiler.start()
            call()
            if session.device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.profiler.stop()
