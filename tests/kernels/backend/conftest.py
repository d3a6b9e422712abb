"""The CUDA kernels on a processor: programs of tests/cuda, compiled under sanitizers and kept."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from compiled import digest, kept

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
