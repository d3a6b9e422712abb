"""What Triton's launchers tell a device: calls on one that is not there, see `pretend`."""

import ctypes
import functools
import operator
from importlib import import_module
from pkgutil import iter_modules

import pytest
from pretend.device import MEMORY, build
from pretend.process import need_it_pretended, run

from packrank_kernels.backend import triton

# Each but the first is to be found, by the word that is its launcher's name.
FAULTY = """
import functools

import torch
import triton
import triton.language as tl
from pretend.cases import DEVICE, Case, draw
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit(do_not_specialize=["n"])
def copy(x, y, n):
    at = tl.program_id(0) * 16 + tl.arange(0, 16)
    tl.store(y + at, tl.load(x + at, at < n), at < n)


@triton.jit
def copy_as_many(x, y, n):
    at = tl.arange(0, 16)
    tl.store(y + at, tl.load(x + at, at < n), at < n)


@triton.jit
def move(x, y):
    y.store([0, 0], x.load([0, 0]))


def launch(n, *, kernel=copy, grid=(1,), x=None, **changes):
    x = draw(32) if x is None else x
    compiled = kernel[1,](draw(32), draw(32), n)
    known = vars(compiled).copy()
    vars(compiled).update(changes)
    try:
        kernel[grid](x, draw(32), n)
    finally:
        vars(compiled).update(known)


def encode(n, **changes):
    x, y = (TensorDescriptor.from_tensor(draw(n, 64), [16, 64]) for _ in range(2))
    vars(x).update(changes)
    move[1,](x, y)


def cases():
    for name, call in {
        "fine": launch,
        "as fine": encode,
        "copy_as_many": functools.partial(launch, kernel=copy_as_many),
        "cpu tensor": functools.partial(launch, x=torch.zeros(32, dtype=torch.float16)),
        "grid's y": functools.partial(launch, grid=(1, 70000)),
        "threads": functools.partial(launch, packed_metadata=(8, 1, 0)),
        "shared memory": functools.partial(launch, packed_metadata=(4, 1, 50000)),
        "stride": functools.partial(encode, strides=[65, 1]),
        "address": functools.partial(encode, base=draw(4096)[1:]),
    }.items():
        yield Case(name, "", call)
"""


def check(found):
    """Nothing is refused, and a kernel serves any number of rows, sequences or documents."""
    assert found
    for case in found:
        assert (case["error"], case["later"]) == (None, []), case
        assert case["launches"] > 0
        # x, the weight and the result.
        assert case["maps"] == (3 * case["launches"] if case["launcher"] == "by_descriptors" else 0)


def kernels_of_variants():
    modules = [import_module(f"{triton.__name__}.{m.name}") for m in iter_modules(triton.__path__)]
    every = [module.variants() for module in modules if hasattr(module, "variants")]
    return {variant.kernel.fn.__name__ for variants in every for variant in variants}


def pytest_generate_tests(metafunc):
    """All calls in the long form, side by side on four cores; else one of each launcher."""
    if "share" in metafunc.fixturenames:
        thorough = metafunc.config.getoption("--thorough")
        metafunc.parametrize("share", [f"{i}/4" for i in range(4)] if thorough else ["0/1"])


@pytest.fixture
def form(thorough, compiled_folder, tmp_path):
    """In the long form everything is compiled anew."""
    return ["--keep", tmp_path] if thorough else ["--sample", "--keep", compiled_folder]


def test_nothing_is_refused_and_one_kernel_serves_any_count(share, form, thorough):
    found = run("launches.py", "--share", share, *form)
    check(found)
    if not thorough:
        launched = functools.reduce(operator.or_, (case["names"].keys() for case in found))
        assert launched == kernels_of_variants()


def test_by_an_older_triton_too(request, share, form):
    older = request.config.getoption("--older-triton")
    if older is None or not older.is_dir():
        pytest.skip("needs another Triton: make older-triton, make proofs")
    check(run("launches.py", "--share", share, *form, path=(older,)))


def test_faults_are_found(tmp_path, compiled_folder):
    (tmp_path / "faulty.py").write_text(FAULTY)
    found = run("launches.py", "faulty", "--keep", compiled_folder, path=(tmp_path,))
    told = {case["launcher"]: str(case["error"] or case["later"] or "") for case in found}
    assert (told.pop("fine"), told.pop("as fine")) == ("", "")
    assert len(told) == 7
    assert [name for name, error in told.items() if name not in error] == [], told


@pytest.fixture(scope="session")
def library(compiled_folder):
    need_it_pretended()
    found = ctypes.CDLL(str(build(compiled_folder)))
    found.cuTensorMapEncodeTiled.argtypes = [
        *(ctypes.c_void_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p),
        *([ctypes.c_void_p] * 4),
        *([ctypes.c_int] * 4),
    ]
    return found


def encode(library, **changes):
    """What is said of a map of [100, 64] float16 in boxes of [128, 64], one thing changed."""
    given = {
        "type": 6,
        "rank": 2,
        "address": MEMORY + 4096,
        "sizes": [64, 100],
        "strides": [128],
        "box": [64, 128],
        "steps": [1, 1],
        "swizzle": 3,
    } | changes
    room = ctypes.create_string_buffer(256)
    sizes, strides = ((ctypes.c_uint64 * 6)(*given[name]) for name in ("sizes", "strides"))
    box, steps = ((ctypes.c_uint32 * 6)(*given[name]) for name in ("box", "steps"))
    status = library.cuTensorMapEncodeTiled(
        ctypes.addressof(room) // 64 * 64 + 64, given["type"], given["rank"], given["address"],
        sizes, strides, box, steps, 0, given["swizzle"], 2, 0,
    )  # fmt: skip
    text = ctypes.c_char_p()
    library.cuGetErrorString(status, ctypes.byref(text))
    return text.value.decode() if status else ""


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, ""),
        ({"box": [64, 256]}, ""),
        ({"type": 13}, "type"),
        ({"rank": 0}, "rank"),
        ({"rank": 6}, "rank"),
        ({"address": MEMORY + 4104}, "address"),
        ({"address": 4096}, "memory"),
        ({"sizes": [64, 0]}, "size"),
        ({"sizes": [64, 2**32 + 1]}, "size"),
        ({"strides": [136]}, "stride"),
        ({"strides": [2**40]}, "stride"),
        ({"box": [64, 0]}, "box"),
        ({"box": [64, 257]}, "box"),
        ({"box": [4, 128]}, "16 bytes"),
        ({"box": [128, 128]}, "swizzle"),
        ({"swizzle": 2}, "swizzle"),
        ({"steps": [1, 9]}, "steps"),
    ],
)
def test_a_bad_map_is_refused(library, changes, word):
    found = encode(library, **changes)
    assert word in found if word else not found
