"""Run models on a device that is not there, and say what they launch.

    python tests/pretend/forwards.py --keep FOLDER model ...

Of each folder with a model, a JSON object a line: for each of PACKS and of --more, kernels launched
by name, ops of torch's that would have launched one, digests of the kernels that it was the first
to need; and names of those that were compiled, as no cache had them.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton import knobs

from packrank.models import load_model
from packrank.request import Pack, Sequence
from packrank_kernels.dispatch import TABLE
from pretend.device import Device

# Lengths of sequences; the first four packs differ in nothing that decides on a form.
PACKS = [
    *([40, 7, 33, 1], [64, 64], [40, 20, 9, 8, 6, 5, 4, 3], [40, 40, 32]),
    *([3], [64] * 300, [200, 17], [400, 64, 1]),
]


class Ops(TorchDispatchMode):
    """Counts ops that compute: that are neither views nor allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.names = Counter[str]()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op._schema.name.removeprefix("aten::")
        if not (op.is_view or "empty" in name):
            self.names[name] += 1
        return op(*args, **(kwargs or {}))


def pack_of(lengths: list[int]) -> Pack:
    return Pack.of(Sequence(ids := np.full(n, 5, dtype=np.int32), 0 * ids) for n in lengths)


def random_packs(count: int) -> Iterator[list[int]]:
    rng = np.random.default_rng(0)
    for longest in rng.integers(1, 500, count):
        yield rng.integers(1, longest + 1, int(2 ** rng.uniform(0, 8))).tolist()


def report(device: Device, folder: Path, every: list[list[int]]) -> dict[str, Any]:
    model = load_model(folder, device="cuda", dtype=torch.float16)
    device.take_records()
    packs, compiled = [], []
    knobs.compilation.listener = lambda *, src, cache_hit, **facts: (
        cache_hit or compiled.append(src.name)
    )
    for lengths in every:
        with Ops() as ops:
            model.logits(pack_of(lengths))
        told = device.take_records()
        packs.append(
            {
                "launches": Counter(one["kernel"] for one in told if one["what"] == "launch"),
                "ops": ops.names,
                "kernels": [one["digest"] for one in told if one["what"] == "load"],
            }
        )
    return {"model": folder.name, "packs": packs, "compiled": compiled}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="+", type=Path, help="folder of a sequence classifier")
    parser.add_argument("--keep", type=Path, required=True, help="where what is compiled is kept")
    parser.add_argument("--more", type=int, default=0, metavar="N", help="packs at random")
    options = parser.parse_args()
    os.environ["TRITON_CACHE_DIR"] = str(options.keep / "triton")
    os.environ["TRITON_STORE_BINARY_ONLY"] = "1"
    device = Device(options.keep)
    # The others call a device's libraries themselves.
    for op, row in TABLE.items():
        TABLE[op] = tuple(backend for backend in row if backend.name == "triton")
    every = [*PACKS, *random_packs(options.more)]
    for folder in options.model:
        print(json.dumps(report(device, folder, every)), flush=True)


if __name__ == "__main__":
    main()
