"""What machine this is: what two runs must have in common to be compared."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("torch", "numpy", "tokenizers", "triton", "transformers", "sentence-transformers"),
    *("openvino", "onnxruntime", "FlagEmbedding", "maxsim-cpu", "late-interaction-kernels"),
)
# Instruction sets that kernels here or elsewhere go by.
_INSTRUCTION_SETS = (
    *("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "avx_vnni"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve"),
)
# Of `describe`, what makes the same work take as long.
HARDWARE = ("processor", "cores", "threads", "gpu", "gpus")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# Of a processor that does not say.
_USUAL_CACHES = {"L1": 32 << 10, "L2": 512 << 10}


def describe(device: str = "cpu") -> dict[str, Any]:
    """The machine and what is installed on it, as JSON takes it.

    Args:
        device: that is used, by torch's name. Of CUDA devices that or the first is described, and
            of the others no more is said than how many there are.
    """
    import torch

    import packrank_kernels

    cpu = torch.device("cpu")
    linear = packrank_kernels.backends(cpu, torch.float32)["linear"]
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": cores(),
        "threads": packrank_kernels.get_num_threads(),
        "instruction_sets": instruction_sets(),
        "backend": next(name for name, reason in linear if reason is None),
        "caches": {name: size for name, (size, _) in caches().items()},
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "packrank": installed("packrank"),
        "python": platform.python_version(),
        "versions": {name: known for name in PACKAGES if (known := installed(name))},
    }
    if torch.cuda.is_available():
        found |= gpu(device if device != "cpu" else "cuda:0")
    return found


def gpu(device: str) -> dict[str, Any]:
    """A CUDA device."""
    import torch

    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
        "gpu_memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "capability": f"{properties.major}.{properties.minor}",
    }


def processor() -> str:
    """Its name."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def instruction_sets() -> list[str]:
    """Those of the processor that matter here; where it does not say, torch's word for it."""
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            return [name for name in _INSTRUCTION_SETS if name in flags]
    import torch

    return [torch.backends.cpu.get_cpu_capability()]


def caches() -> dict[str, tuple[int, int]]:
    """Name ("L1", "L2", "L3") -> bytes of one data cache, and how many processors share it."""
    found = {}
    for folder in sorted(_CACHES.glob("index*")):
        level, kind, size, shared = (
            " ".join(_lines(str(folder / name)))
            for name in ("level", "type", "size", "shared_cpu_list")
        )
        match = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and match and level.isdigit():
            factor = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[match[2]]
            found[f"L{level}"] = int(match[1]) * factor, _count(shared)
    return found or {name: (size, 1) for name, size in _USUAL_CACHES.items()}


def memory_bytes() -> int | None:
    """What this process may use: the machine's, or its control group's."""
    sizes = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            sizes.append(int(line.split()[1]) << 10)
    sizes += [int(line) for line in _lines("/sys/fs/cgroup/memory.max") if line.isdigit()]
    return min(sizes, default=None)


def installed(name: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit(folder: Path) -> str:
    """Of a checkout, and whether it was changed since."""
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    return done.stdout.strip() or "unknown"


def _count(listed: str) -> int:
    """How many numbers a list such as "0-3,8" has."""
    total = 0
    for part in filter(None, listed.split(",")):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return max(total, 1)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
