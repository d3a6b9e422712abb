"""What the Triton kernels compile to for an H100, where there need be none."""

import importlib.util
import json
import os
import re
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
def product(x, w, out, steps, M: tl.constexpr, N: tl.constexpr, EARLY: tl.constexpr):
    m, n, k = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, 64)
    sums = tl.zeros([M, N], dtype=tl.float32)
    for step in range(steps):
        at = step * 64 + k
        sums = tl.dot(tl.load(x + m * 4096 + at[None, :]), tl.load(w + at[:, None] * N + n), sums)
    tl.store(out + m * N + n, sums.to(tl.float16))


def make(name, m, n, stages, kind="*fp16", aligned=("x", "w", "out"), programs=1, early=False):
    signature = {"x": kind, "w": kind, "out": kind, "steps": "i32"}
    sizes = {"M": m, "N": n, "EARLY": early}
    return Variant(
        name, product, signature, sizes, 4, stages, frozenset(aligned), True, programs
    )


def variants():
    yield make("good", 64, 64, 3)
    yield make("too few rows", 32, 64, 3)
    yield make("too many registers", 128, 256, 1)
    yield make("too many stages", 64, 256, 6)
    yield make("too many at a time", 64, 64, 3, programs=9)
    yield make("reads early", 64, 64, 3, early=True)
    yield make("wrong type", 64, 64, 3, kind="*fp17")
    yield make("no such argument", 64, 64, 3, aligned=("y",))
"""


def compile_variants(*arguments, path=()):
    """(exit status, what was found by name, stderr) of the script, in a process of its own."""
    kernels = Path(importlib.util.find_spec("packrank_kernels").origin).parents[1]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    tests = SCRIPT.parents[2]
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (*path, kernels, tests)))
    jobs = 1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count()
    done = subprocess.run(
        [sys.executable, SCRIPT, f"--jobs={jobs}", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {variant["name"]: variant for variant in found}, done.stderr


@pytest.fixture(autouse=True)
def _disassembler():
    import triton

    if not (Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump").exists():
        pytest.skip("this Triton wheel has no cuobjdump")


@pytest.fixture
def form(thorough, compiled_folder):
    """How it is looked at: by ptxas' word, what was found kept by content; or machine code."""
    return ["--disassemble"] if thorough else [f"--keep={compiled_folder}"]


def check_whole(status, found, errors, triton):
    assert status == 0, errors
    folder = Path(importlib.util.find_spec("packrank_kernels.backend.triton").origin).parent
    modules = {path.stem for path in folder.glob("*.py") if "def variants(" in path.read_text()}
    assert len(modules) > 6
    assert {variant["module"] for variant in found.values()} == modules
    assert sum(variant["wgmma"] > 0 for variant in found.values()) > len(found) // 2
    assert {variant["triton"] for variant in found.values()} == {triton}


def pytest_generate_tests(metafunc):
    """All variants in the long form, side by side on four cores; of each module a sample."""
    if "share" in metafunc.fixturenames:
        thorough = metafunc.config.getoption("--thorough")
        metafunc.parametrize("share", [f"{i}/4" for i in range(4)] if thorough else ["0/16"])


def test_variants_fit_the_device(share, form):
    status, found, errors = compile_variants(f"--share={share}", *form)
    check_whole(status, found, errors, version("triton"))
    assert len(found) > 200 // int(share[2:])


def test_variants_fit_by_an_older_triton_too(request, thorough, form):
    """A sample of them, or all: torch 2.11 brings Triton 3.6.0."""
    older = request.config.getoption("--older-triton")
    if older is None or not older.is_dir():
        pytest.skip("needs another Triton: make older-triton, make proofs")
    share = "0/1" if thorough else "0/16"
    status, found, errors = compile_variants(f"--share={share}", *form, path=[older])
    [metadata] = older.glob("triton-*.dist-info")
    check_whole(status, found, errors, metadata.name.split("-")[1].removesuffix(".dist"))
    assert len(found) > (200 if thorough else 12)


@pytest.fixture
def long_form(thorough):
    """Of what is asked of compile_triton.py itself there is no other."""
    if not thorough:
        pytest.skip("runs with --thorough")


@pytest.mark.parametrize("options", [[], ["--disassemble"]], ids=["ptxas", "machine code"])
def test_faults_are_found(tmp_path, options, long_form):
    (tmp_path / "faulty.py").write_text(FAULTY)
    status, found, errors = compile_variants("faulty", *options, path=[tmp_path])
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
    assert "reads memory before it waits" in failures["reads early"]
    assert "compile_triton: 7 of 8 variants failed" in errors


def test_what_was_found_is_kept_by_content(tmp_path, long_form):
    """Not failures; and another kernel of the same name is looked at anew."""
    folder = tmp_path / "kept"
    folder.mkdir()
    source = re.sub(r"    yield make\(\"too .*\n", "", FAULTY)

    def run():
        (tmp_path / "faulty.py").write_text(source)
        return compile_variants("faulty", f"--keep={folder}", path=[tmp_path])

    status, first, errors = run()
    [path] = folder.iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"registers": 1}))
    assert run() == (status, first | {"good": first["good"] | {"registers": 1}}, errors)
    source = source.replace("step * 64", "step * 32")
    assert run()[1]["good"]["registers"] > 1
