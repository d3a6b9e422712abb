"""What the Triton kernels compile to for an H100, where there need be none."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("triton")
SCRIPT = Path(__file__).parent / "compile_triton.py"

FAULTY = """
import triton
import triton.language as tl

from packrank_kernels.backend.triton.variants import Variant


@triton.jit
def product(x, w, out, steps, M: tl.constexpr, N: tl.constexpr):
    m, n, k = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, 64)
    sums = tl.zeros([M, N], dtype=tl.float32)
    for step in range(steps):
        at = step * 64 + k
        sums = tl.dot(tl.load(x + m * 4096 + at[None, :]), tl.load(w + at[:, None] * N + n), sums)
    tl.store(out + m * N + n, sums.to(tl.float16))


def make(name, m, n, stages, kind="*fp16", aligned=("x", "w", "out"), programs=1):
    signature = {"x": kind, "w": kind, "out": kind, "steps": "i32"}
    sizes = {"M": m, "N": n}
    return Variant(
        name, product, signature, sizes, 4, stages, frozenset(aligned), True, programs
    )


def variants():
    yield make("good", 64, 64, 3)
    yield make("too few rows", 32, 64, 3)
    yield make("too many registers", 128, 256, 1)
    yield make("too many stages", 64, 256, 6)
    yield make("too many at a time", 64, 64, 3, programs=9)
    yield make("wrong type", 64, 64, 3, kind="*fp17")
    yield make("no such argument", 64, 64, 3, aligned=("y",))
"""


def compile_variants(*modules, path=()):
    """(exit status, what was found by name, stderr) of the script, in a process of its own."""
    kernels = Path(importlib.util.find_spec("packrank_kernels").origin).parents[1]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (*path, kernels)))
    done = subprocess.run(
        [sys.executable, SCRIPT, *modules], capture_output=True, text=True, env=environment
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {variant["name"]: variant for variant in found}, done.stderr


@pytest.fixture(autouse=True)
def _disassembler():
    import triton

    if not (Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump").exists():
        pytest.skip("this Triton wheel has no cuobjdump")


# What `make test` lays beside the pinned one: torch 2.11 brings it.
OLDER = Path(sys.prefix) / "triton-3.6.0"


@pytest.mark.parametrize("older", [False, True], ids=["pinned", "3.6.0"])
def test_every_variant_fits_the_device(older):
    if older and not OLDER.is_dir():
        pytest.skip(f"needs {OLDER}, which make test installs")
    status, found, errors = compile_variants(path=[OLDER] if older else [])
    assert status == 0, errors
    assert {"norm", "embedding", "rows", "head", "linear", "attention", "maxsim"} <= {
        variant["module"] for variant in found.values()
    }
    versions = {variant["triton"] for variant in found.values()}
    assert versions == {"3.6.0" if older else version("triton")}
    assert sum(variant["wgmma"] > 0 for variant in found.values()) > 20


def test_faults_are_found(tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    status, found, errors = compile_variants("faulty", path=[tmp_path])
    assert status == 1
    failures = {name: " ".join(variant["failures"]) for name, variant in found.items()}
    assert failures["good"] == ""
    assert found["good"]["wgmma"] > 0
    assert "no HGMMA" in failures["too few rows"]
    assert "accesses to local memory" in failures["too many registers"]
    assert "bytes of shared memory exceed 232448" in failures["too many stages"]
    assert "does not compile" in failures["wrong type"]
    assert "the kernel has no argument y" in failures["no such argument"]
    assert "a multiprocessor has room for" in failures["too many at a time"]
    assert "compile_triton: 6 of 7 variants failed" in errors
