"""Prints what this machine is and what runs on it, as JSON; why there is no device, if none.

Exit status 3 with a sentence where the Python that runs it has no torch.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from typing import Any

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    print(f"{sys.executable} has no torch; name one that has: make gpu PYTHON=/path/to/python3")
    sys.exit(3)

from packrank.bench.machine import cores, installed, processor

PACKAGES = ("torch", "triton", "transformers", "sentence-transformers", "tokenizers", "flash-attn",
            "late-interaction-kernels", "flash-maxsim", "numpy", "pybind11",
            "setuptools")  # fmt: skip
# As they are found: nothing here changes a setting of the device.
ASKED = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit",
         "temperature.gpu", "utilization.gpu")  # fmt: skip


def nvidia_smi() -> dict[str, str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    command = [tool, "--id=0", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except subprocess.TimeoutExpired:
        return {}
    values = done.stdout.strip().split(", ")
    return dict(zip(ASKED, values, strict=True)) if len(values) == len(ASKED) else {}


def nvcc() -> str | None:
    tool = shutil.which("nvcc", path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")
    if tool is None:
        return None
    done = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False)
    return next((x.strip() for x in done.stdout.splitlines() if "release" in x), None)


def no_device() -> str:
    """Why torch has no device to run on, and what to do."""
    ours, dry = f"torch {torch.__version__} of {sys.executable}", "make gpu ARGS=--dry-run"
    if torch.version.cuda is None:
        return (
            f"{ours} is built without CUDA; name a Python whose torch has it, make gpu "
            f"PYTHON=/path/to/python3, or try it without a device, {dry}"
        )
    return f"{ours} sees no CUDA device on this machine; {dry} tries it without one"


def main() -> None:
    machine: dict[str, Any] = {
        "processor": processor(),
        "cores": cores(),
        "cuda": torch.version.cuda,
        "nvcc": nvcc(),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        machine |= {
            "gpu": properties.name,
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "capability": f"{properties.major}.{properties.minor}",
            "as_found": nvidia_smi(),
        }
    else:
        machine["no_gpu"] = no_device()
    print(
        json.dumps(
            {
                "machine": machine,
                "python": platform.python_version(),
                "versions": {name: installed(name) for name in PACKAGES},
            }
        )
    )


if __name__ == "__main__":
    main()
