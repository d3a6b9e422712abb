"""What the device can do, measured: large copies, large products, and products of an encoder."""

import torch
from measure import DTYPES, Contestant, Session, num_sets
from torch.nn import functional as F

WIDTHS = (384, 768, 1024)


def copy(session: Session) -> None:
    size = 2**16 if session.dry else 2**30
    x, y = torch.randint(255, (2, size), dtype=torch.uint8, device=session.device)
    seconds = session.race(
        "copy", f"{size} bytes", {"torch": Contestant([lambda: y.copy_(x)])},
        amount=2 * size / 1e9, unit="GB",
    )  # fmt: skip
    if seconds:
        session.ceilings["copy"] = 2 * size / seconds["torch"]
        session.headline(f"ceiling: copy {session.ceilings['copy'] / 1e12:.2f} TB/s read and write")


def host_copy(session: Session) -> None:
    size = 2**16 if session.dry else 2**30
    # Drawn on the device: a gigabyte takes the host seconds.
    target = torch.randint(255, (size,), dtype=torch.uint8, device=session.device)
    source = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=not session.dry)
    source.copy_(target)
    seconds = session.race(
        "copy", f"{size} bytes of pinned memory to the device",
        {"torch": Contestant([lambda: target.copy_(source, non_blocking=True)], graph=False)},
        amount=size / 1e9, unit="GB", rounds=10,
    )  # fmt: skip
    if seconds:
        session.ceilings["host copy"] = size / seconds["torch"]
        rate = session.ceilings["host copy"] / 1e9
        session.headline(f"ceiling: copy to the device {rate:.1f} GB/s")


def dense(session: Session) -> None:
    size = 64 if session.dry else 8192
    for name, dtype in DTYPES.items():
        a, b = torch.randn(2, size, size, device=session.device).to(dtype)
        out = torch.empty_like(a)
        seconds = session.race(
            "product", f"{size} x {size} x {size}, {name}",
            {"torch": Contestant([lambda a=a, b=b, out=out: torch.mm(a, b, out=out)])},
            amount=2 * size**3 / 1e12, unit="TFLOP", dtype=dtype, operations=2 * size**3,
        )  # fmt: skip
        if seconds:
            session.ceilings[name] = 2 * size**3 / seconds["torch"]
            session.headline(f"ceiling: {name} {session.ceilings[name] / 1e12:.0f} TFLOP/s dense")


def integers(session: Session) -> None:
    size = 64 if session.dry else 8192
    a, b = torch.randint(-127, 128, (2, size, size), dtype=torch.int8, device=session.device)
    seconds = session.race(
        "product", f"{size} x {size} x {size}, int8",
        {"torch": Contestant([lambda: torch._int_mm(a, b.t())])},
        amount=2 * size**3 / 1e12, unit="TOP", dtype=torch.int8, operations=2 * size**3,
    )  # fmt: skip
    if seconds:
        session.ceilings["int8"] = 2 * size**3 / seconds["torch"]
        session.headline(f"ceiling: int8 {session.ceilings['int8'] / 1e12:.0f} TOP/s dense")


def encoder_products(session: Session) -> None:
    """[T, K] to [T, 4 K]: what the library reaches at an encoder's sizes, and with an epilogue."""
    rows = 8 if session.dry else 16384
    for width in session.some(WIDTHS):
        case = f"{rows} x {width} -> {4 * width}, float16"
        if not session.has_time_for(case):
            continue
        like = {"dtype": torch.float16, "device": session.device}
        sets = num_sets(10 * rows * width, session.dry)
        xs = [torch.randn(rows, width, **like) for _ in range(sets)]
        weight = torch.randn(4 * width, width, **like) / width**0.5
        bias = torch.randn(4 * width, **like)

        def gelu_epilogue(x, weight=weight, bias=bias):
            return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)

        def contestant(function, xs=xs):
            return Contestant([lambda x=x: function(x) for x in xs])

        operations = 2 * rows * width * 4 * width
        session.race(
            "encoder product", case,
            {
                "torch": contestant(lambda x, w=weight: F.linear(x, w)),
                "torch, bias": contestant(lambda x, w=weight, b=bias: F.linear(x, w, b)),
                "torch, bias, GELU (tanh) in the epilogue": contestant(gelu_epilogue),
                "torch, bias, then exact GELU": contestant(
                    lambda x, w=weight, b=bias: F.gelu(F.linear(x, w, b))
                ),
            },
            amount=operations / 1e12, unit="TFLOP", operations=operations,
            moved=2 * (5 * rows * width + weight.numel()),
        )  # fmt: skip


def main(session: Session) -> None:
    for bench in (copy, host_copy, dense, integers, encoder_products):
        with session.guard(bench.__name__):
            bench(session)
            session.keep_ceilings()
