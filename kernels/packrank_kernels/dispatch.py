"""Which implementation of an op runs: one table, one rule.

"auto" takes the first backend of the op's row that accepts the call. A backend named by the caller
runs or raises with its reason. Nothing else chooses: no environment variable, no import order.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from packrank_kernels import reference
from packrank_kernels.backend import cublas, cuda, cuda_maxsim, native, varlen
from packrank_kernels.backend.triton import availability


def _as_it_is(weight: Tensor, gated: bool) -> Tensor:
    return weight


@dataclass(frozen=True)
class Backend:
    """One implementation of an op.

    Attributes:
        name: what `backend=` takes.
        run: the implementation, with the arguments of the op's contract.
        why_not: (device, dtype, **facts) -> None where such a call is accepted, else the reason in
            words. The facts are those that the op's module gives to `choose`; one that is not
            given is not held against a backend.
        device_type: the only one that it accepts, as "auto" asks first; None: several.
        pack: (weight, gated) -> the weight in the order that `run` reads it.
        narrow_bias: whether `run` takes the bias of a linear layer in the dtype of the weight.
    """

    name: str
    run: Callable[..., Any]
    why_not: Callable[..., str | None]
    device_type: str | None = None
    pack: Callable[[Tensor, bool], Tensor] = _as_it_is
    narrow_bias: bool = False


def _always(device: torch.device, dtype: torch.dtype, **facts: object) -> str | None:
    return None


def _native(op: str, **limits: Any) -> tuple[Backend, ...]:
    """The instruction sets of the C++ module, widest first."""
    return tuple(
        Backend(
            name=isa,
            run=functools.partial(native.OPS[op], isa),
            why_not=functools.partial(native.why_not, isa, **limits),
            device_type="cpu",
            pack=functools.partial(native.pack_linear, isa),
        )
        for isa in native.ISAS
    )


def _triton(op: str, module: str, **limits: Any) -> Backend:
    """`op` of backend.triton.`module`, imported at its first call: Triton is optional."""

    @functools.cache
    def load(name: str) -> Callable[..., Any]:
        found = importlib.import_module(f"packrank_kernels.backend.triton.{module}")
        run: Callable[..., Any] = getattr(found, name)
        return run

    def call(name: str, *args: Any, **options: Any) -> Any:
        # Triton launches on the device that is current in its thread. No device is -1.
        with torch.cuda.device(args[0].get_device()):
            return load(name)(*args, **options)

    return Backend(
        name="triton",
        run=functools.partial(call, op),
        why_not=functools.partial(availability.why_not, **limits),
        pack=functools.partial(call, "pack_linear") if op == "linear" else _as_it_is,
    )


def _reference(op: str) -> Backend:
    return Backend("reference", getattr(reference, op), _always)


# Order is preference: on a CPU supported by rows in benchmarks/results, on a CUDA device not yet
# measured. The reference is last: always right, never fast.
TABLE: dict[str, tuple[Backend, ...]] = {
    "attention": (
        *_native("attention"),
        Backend("cuda", cuda.attention, cuda.why_not, "cuda"),
        _triton("attention", "attention"),
        Backend("flash_attn", varlen.flash_attention, varlen.why_not_flash, "cuda"),
        Backend("torch_varlen", varlen.torch_attention, varlen.why_not_torch, "cuda"),
        _reference("attention"),
    ),
    "paged_attention": (
        *_native("paged_attention"),
        _triton("paged_attention", "paged"),
        _reference("paged_attention"),
    ),
    "linear": (
        Backend(
            name="amx",
            run=functools.partial(native.OPS["linear"], "amx"),
            why_not=native.why_not_amx,
            device_type="cpu",
            pack=functools.partial(native.pack_linear, "amx"),
        ),
        *_native("linear"),
        Backend("cublas", cublas.linear, cublas.why_not, "cuda", narrow_bias=True),
        _triton("linear", "linear"),
        _reference("linear"),
    ),
    "add_layer_norm": (
        *_native("add_layer_norm"),
        _triton("add_layer_norm", "norm"),
        _reference("add_layer_norm"),
    ),
    "add_rms_norm": (
        *_native("add_rms_norm"),
        _triton("add_rms_norm", "norm"),
        _reference("add_rms_norm"),
    ),
    "embed_layer_norm": (
        *_native("embed_layer_norm"),
        _triton("embed_layer_norm", "embedding"),
        _reference("embed_layer_norm"),
    ),
    "take_sequences": (_triton("take_sequences", "rows"), _reference("take_sequences")),
    "score_head": (
        *_native("score_head"),
        _triton("score_head", "head"),
        _reference("score_head"),
    ),
    "maxsim": (
        *_native("maxsim", dtypes=native.MAXSIM_DTYPES),
        Backend("cuda", cuda_maxsim.maxsim, cuda_maxsim.why_not, "cuda"),
        _triton("maxsim", "maxsim", dtypes=native.MAXSIM_DTYPES),
        _reference("maxsim"),
    ),
    "matches": (
        *_native("matches", dtypes=native.MAXSIM_DTYPES),
        _triton("matches", "maxsim", dtypes=native.MAXSIM_DTYPES),
        _reference("matches"),
    ),
    "stream": (*_native("stream", dtypes=(torch.float32,)), _reference("stream")),
}


@dataclass(frozen=True)
class OpCall:
    """An op that is about to run, as `observed` shows it; called, it runs.

    Attributes:
        op: its name.
        backend: that of its implementation.
        run: the implementation.
        args: as that takes them.
        options: likewise.
    """

    op: str
    backend: str
    run: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]

    def __call__(self) -> Any:
        """What the op returns."""
        return self.run(*self.args, **self.options)


Observer = Callable[[OpCall], Any]
_observer: Observer | None = None


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Let an observer call every op of this process, in the block.

    For measurements: it is given each as an `OpCall`, calls it, and returns what that returns.
    Blocks may not overlap; graphs that were captured before know nothing of it.
    """
    global _observer
    if _observer is not None:
        raise ValueError("observed: ops are observed already")
    _observer = observer
    try:
        yield
    finally:
        _observer = None


def _seen(op: str, backend: Backend) -> Backend:
    """The same, or with what calls it for the observer."""
    observer = _observer
    if observer is None:
        return backend

    def run(*args: Any, **options: Any) -> Any:
        return observer(OpCall(op, backend.name, backend.run, args, options))

    return dataclasses.replace(backend, run=run)


def choose(
    op: str, backend: str, device: torch.device, dtype: torch.dtype, **facts: object
) -> Backend:
    """The backend that runs `op` on tensors of this device and dtype.

    Args:
        op: a key of `TABLE`.
        backend: "auto", or the name of one backend in `TABLE[op]`.
        device: where the tensors are.
        dtype: what they hold.
        facts: what else backends go by; see the op's module.

    Raises:
        ValueError: no such backend, or the named one refuses; the message gives its reason.
    """
    if backend == "auto":
        ours = (None, device.type)
        found = next(
            candidate
            for candidate in TABLE[op]
            if candidate.device_type in ours and candidate.why_not(device, dtype, **facts) is None
        )
        return _seen(op, found)
    for candidate in TABLE[op]:
        if candidate.name == backend:
            reason = candidate.why_not(device, dtype, **facts)
            if reason is not None:
                raise ValueError(f"{op}: backend {backend!r} cannot run this call: {reason}")
            return _seen(op, candidate)
    names = ", ".join(b.name for b in TABLE[op])
    raise ValueError(f"{op}: no backend {backend!r}; there are: auto, {names}")
