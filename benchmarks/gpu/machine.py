"""Prints what this machine is and what runs on it, as JSON."""

import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "triton", "transformers", "sentence-transformers", "tokenizers", "flash-attn",
            "late-interaction-kernels", "flash-maxsim", "numpy", "pybind11",
            "setuptools")  # fmt: skip
# As they are found: nothing here changes a setting of the device.
ASKED = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit",
         "temperature.gpu", "utilization.gpu")  # fmt: skip


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


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


def main() -> None:
    machine: dict[str, Any] = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
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
