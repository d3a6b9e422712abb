"""The linear layers of real encoders: cuBLAS, Triton, and torch with its activation apart."""

import torch
from measure import Contestant, Session, num_sets
from torch import Tensor
from torch.nn import functional as F

from packrank_kernels import linear, pack_linear, reference
from packrank_kernels.backend.triton.linear import by_descriptors
from packrank_kernels.dispatch import TABLE, choose
from packrank_kernels.packed import PackedLinear

TOKENS = 16384
# (K, N, activation, gated); the four layers of a block: QKV, output, up, down.
LAYERS = {
    "MiniLM": [(384, 1152, None, False), (384, 384, None, False),
               (384, 1536, "gelu", False), (1536, 384, None, False)],
    "base": [(768, 2304, None, False), (768, 768, None, False),
             (768, 3072, "gelu", False), (3072, 768, None, False)],
    "large": [(1024, 3072, None, False), (1024, 1024, None, False),
              (1024, 4096, "gelu", False), (4096, 1024, None, False)],
    "ModernBERT-base": [(1152, 768, None, False), (768, 1152, "gelu", True)],
}  # fmt: skip


def unflattened(x: Tensor, layer: PackedLinear) -> Tensor:
    """`linear` whose loops over tiles and over K are two; where descriptors are taken at all."""
    return by_descriptors(x, layer.data, layer.bias, layer.activation, layer.gated, flatten=False)


def race(session: Session, model: str, layer: tuple[int, int, str | None, bool]) -> None:
    inputs, outputs, activation, gated = layer
    rows = 8 if session.dry else TOKENS
    what = (activation or "bias") + (", gated" if gated else "")
    case = f"{model}, {rows} x {inputs} -> {outputs}, {what}, float16"
    if not session.has_time_for(case):
        return
    like = {"dtype": torch.float16, "device": session.device}
    wide = outputs * (1 + gated)
    weight = torch.randn(wide, inputs, **like) / inputs**0.5
    bias = torch.randn(wide, device=session.device)
    moved = 2 * (rows * (inputs + outputs) + weight.numel())
    xs = [torch.randn(rows, inputs, **like) for _ in range(num_sets(moved, session.dry))]
    narrow = bias.half()

    def torch_linear(x):
        y = F.linear(x, weight, narrow)
        if gated:
            first, second = y.chunk(2, dim=-1)
            return F.gelu(first) * second
        return F.gelu(y) if activation else y

    def ours(backend):
        packed = pack_linear(weight, bias, activation=activation, gated=gated, backend=backend)
        return Contestant([lambda x=x: linear(x, packed) for x in xs], facts={"backend": backend})

    facts = {
        "in_features": inputs,
        "out_features": outputs,
        "activation": activation,
        "gated": gated,
    }
    chosen = choose("linear", "auto", session.device, torch.float16, **facts).name
    contestants = {"packrank": ours(chosen)}
    for backend in TABLE["linear"]:
        if backend.name in ("reference", chosen):
            continue
        reason = backend.why_not(session.device, torch.float16, **facts)
        if reason is None:
            contestants[f"packrank, {backend.name}"] = ours(backend.name)
        elif backend.name in ("cublas", "triton"):
            print(f"{backend.name} does not race: {reason}", flush=True)
    if not session.dry and torch.cuda.get_device_capability() == (9, 0):
        packed = pack_linear(weight, bias, activation=activation, gated=gated, backend="triton")
        contestants["packrank, triton, unflattened"] = Contestant(
            [lambda x=x: unflattened(x, packed) for x in xs], facts={"backend": "triton"}
        )
    contestants["torch"] = Contestant([lambda x=x: torch_linear(x) for x in xs])
    expected = reference.linear(xs[0].float(), weight.float(), bias, activation, gated).half()
    operations = 2 * rows * inputs * wide
    session.race(
        "linear", case, contestants, amount=operations / 1e12, unit="TFLOP",
        operations=operations, moved=moved, expected=expected,
    )  # fmt: skip


def main(session: Session) -> None:
    layers = [(model, layer) for model, every in LAYERS.items() for layer in every]
    for model, layer in session.some(layers):
        with session.guard(f"linear, {model}, {layer}"):
            race(session, model, layer)
