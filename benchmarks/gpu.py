"""Starts benchmarks/gpu/visit with that folder on the path: `make gpu`; --help says more."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    folder = str(Path(__file__).resolve().parent / "gpu")
    paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["PYTHONSAFEPATH"] = "1"  # -m would put the current folder first
    os.execv(sys.executable, [sys.executable, "-m", "visit", *sys.argv[1:]])
