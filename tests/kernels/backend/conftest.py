"""The CUDA kernels without a device: programs of tests/cuda, compiled under sanitizers and kept,
and the machine code of the built module.
"""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from compiled import digest, kept

from packrank_kernels.backend import cuda

ROOT = Path(__file__).parents[3]
FOLDERS = ROOT / "csrc/cuda", ROOT / "tests/cuda"
FLAGS = [
    *("-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    *(f"-I{folder}" for folder in FOLDERS),
]


@pytest.fixture(scope="session")
def emulation(compiled_folder):
    """emulation("driver.cpp", "-O1"): the program that this source of tests/cuda makes."""
    if platform.machine() != "x86_64":
        pytest.skip("the emulation of a device is written for x86-64")
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    for library in ("libasan.so", "libubsan.so"):
        found = subprocess.check_output(["g++", f"-print-file-name={library}"], text=True)
        if not Path(found.strip()).is_absolute():
            pytest.skip(f"needs {library} of g++")
    version = subprocess.check_output(["g++", "--version"], text=True)

    def compile(name, *more):
        flags, source = [*FLAGS, *more], ROOT / "tests/cuda" / name
        return kept(
            compiled_folder / f"{source.stem}-{digest(version, *flags, *FOLDERS)}",
            lambda path: subprocess.run(["g++", *flags, source, "-o", path], check=True),
        )

    return compile


@pytest.fixture(scope="session")
def module():
    """The file of the built CUDA module."""
    if cuda._missing is not None:
        assert shutil.which("nvcc") is None, cuda._missing
        pytest.skip("needs the module, and there is no nvcc to make it")
    return Path(cuda._cuda.__file__)


@pytest.fixture(scope="session")
def triton_tool():
    """triton_tool("cuobjdump"): where Triton's wheel has this program of NVIDIA's."""

    def find(name):
        path = Path(pytest.importorskip("triton").__file__).parent / "backends/nvidia/bin" / name
        if not path.exists():
            pytest.skip(f"this Triton wheel has no {name}")
        return path

    return find


@pytest.fixture(scope="session")
def disassembled(module, triton_tool, compiled_folder):
    """disassembled("sm_90a"): the module's code for this device, and what it takes of it."""

    def disassemble(architecture):
        flags = ["-arch", architecture, "-sass", "-res-usage"]

        def write(path):
            with open(path, "w") as file:
                subprocess.run([triton_tool("cuobjdump"), *flags, module], stdout=file, check=True)

        return kept(
            compiled_folder / f"{module.name}-{digest(*flags, module)}.txt", write
        ).read_text()

    return disassemble
