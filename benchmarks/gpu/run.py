"""Run benchmarks of this folder, one after the other, in this process.

Started by `visit`, which puts this folder on the path.
"""

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

import torch
from measure import Session

from packrank_kernels.dispatch import TABLE

NAMES = ("ceilings", "attention", "relative", "paged", "linear", "norms", "forward", "deberta",
         "decoders", "generation", "end_to_end", "maxsim", "maxsim_streaming", "maxsim_peers",
         "counters")  # fmt: skip


def age() -> float:
    """Seconds since this process began: to import torch takes some of them."""
    began = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]  # in ticks
    since = time.clock_gettime(time.CLOCK_BOOTTIME) - int(began) / os.sysconf("SC_CLK_TCK")
    return min(max(since, 0.0), 60.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmarks", nargs="+", choices=NAMES)
    parser.add_argument("--rows", type=Path, required=True, help="rows are added here")
    parser.add_argument("--ceilings", type=Path, required=True, help="what the device can do")
    parser.add_argument("--seconds", type=float, default=60.0, help="no case begins after this")
    parser.add_argument("--shape", action="append", default=[], help="some, of those it has")
    parser.add_argument("--without", action="append", default=[], help="a backend to leave out")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device; --dry-run tries the program without one")
    torch.manual_seed(0)
    for op, row in TABLE.items():
        TABLE[op] = tuple(backend for backend in row if backend.name not in options.without)
    seconds = options.seconds - age()
    session = Session(options.rows, options.ceilings, seconds, dry=options.dry_run)
    session.chosen = options.shape
    for name in options.benchmarks:
        importlib.import_module(name).main(session)
    sys.exit(session.failures > 0)


if __name__ == "__main__":
    main()
