"""Which implementation of an op runs: one table, one rule.

"auto" takes the first backend of the op's row that accepts the call. A backend named by the caller
runs or raises with its reason. Nothing else chooses: no environment variable, no import order.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from packrank_kernels import native, reference


@dataclass(frozen=True)
class Backend:
    """One implementation of an op.

    Attributes:
        name: what `backend=` takes.
        run: the implementation, with the arguments of the op's contract.
        why_not: None where (device, dtype) is accepted, else the reason in words.
    """

    name: str
    run: Callable[..., Any]
    why_not: Callable[[torch.device, torch.dtype], str | None]


def _always(device: torch.device, dtype: torch.dtype) -> str | None:
    return None


def _row(op: str) -> tuple[Backend, ...]:
    """The instruction sets of the C++ module, widest first, then the definition itself."""
    ours = (
        Backend(
            name=isa,
            run=functools.partial(native.OPS[op], isa),
            why_not=functools.partial(native.why_not, isa),
        )
        for isa in native.ISAS
    )
    return (*ours, Backend("reference", getattr(reference, op), _always))


# Order is preference; rows in benchmarks/results support it. The reference is last: always right,
# never fast.
TABLE: dict[str, tuple[Backend, ...]] = {op: _row(op) for op in native.OPS}


def choose(op: str, backend: str, device: torch.device, dtype: torch.dtype) -> Backend:
    """The backend that runs `op` on tensors of this device and dtype.

    Args:
        op: a key of `TABLE`.
        backend: "auto", or the name of one backend in `TABLE[op]`.
        device: where the tensors are.
        dtype: what they hold.

    Raises:
        ValueError: no such backend, or the named one refuses; the message gives its reason.
    """
    if backend == "auto":
        return next(b for b in TABLE[op] if b.why_not(device, dtype) is None)
    for candidate in TABLE[op]:
        if candidate.name == backend:
            reason = candidate.why_not(device, dtype)
            if reason is not None:
                raise ValueError(f"{op}: backend {backend!r} cannot run this call: {reason}")
            return candidate
    names = ", ".join(b.name for b in TABLE[op])
    raise ValueError(f"{op}: no backend {backend!r}; there are: auto, {names}")
