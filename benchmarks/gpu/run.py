"""Run benchmarks of this folder, one after the other, in this process.

Started by benchmarks/gpu.py, which puts this folder on the path.
"""

import argparse
import importlib
import sys
from pathlib import Path

import torch
from measure import Session

from packrank_kernels.dispatch import TABLE

NAMES = ("ceilings", "attention", "linear", "norms", "forward", "decoders", "end_to_end",
         "maxsim", "maxsim_peers")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmarks", nargs="+", choices=NAMES)
    parser.add_argument("--rows", type=Path, required=True, help="rows are added here")
    parser.add_argument("--ceilings", type=Path, required=True, help="what the device can do")
    parser.add_argument("--seconds", type=float, default=60.0, help="no case begins after this")
    parser.add_argument("--shape", help="one model shape alone, where the benchmark has several")
    parser.add_argument("--without", action="append", default=[], help="a backend to leave out")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device; --dry-run tries the program without one")
    torch.manual_seed(0)
    for op, row in TABLE.items():
        TABLE[op] = tuple(backend for backend in row if backend.name not in options.without)
    session = Session(options.rows, options.ceilings, options.seconds, dry=options.dry_run)
    session.shape = options.shape
    for name in options.benchmarks:
        importlib.import_module(name).main(session)
    sys.exit(session.failures > 0)


if __name__ == "__main__":
    main()
