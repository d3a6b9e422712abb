"""Tests that take `backend` and `device` run on every backend of their module's `OP`, everywhere.

A test on a CUDA device carries the mark `gpu`; where there is none it is not made. Triton's kernels
run on the CPU too, in its interpreter. Dtypes that a backend refuses are left out.
"""

import pytest
import torch

from packrank_kernels.dispatch import TABLE

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def cases(op):
    for backend in TABLE[op]:
        reason = backend.why_not(CPU, torch.float32)
        if backend.name in ("avx512", "avx2", "scalar", "triton", "reference"):
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            yield pytest.param(backend.name, CPU, id=backend.name, marks=marks)
    for backend in TABLE[op] if torch.cuda.is_available() else ():
        if any(backend.why_not(CUDA, dtype) is None for dtype in DTYPES):
            yield pytest.param(backend.name, CUDA, id=f"{backend.name}-cuda", marks=pytest.mark.gpu)


def pytest_generate_tests(metafunc):
    if {"backend", "device"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("backend", "device"), list(cases(metafunc.module.OP)))


def refused(item):
    """Whether a test is of a dtype, float32 if it names none, that its backend does not take."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    if not {"backend", "device"} <= params.keys():
        return False
    (backend,) = [b for b in TABLE[item.module.OP] if b.name == params["backend"]]
    return backend.why_not(params["device"], params.get("dtype", torch.float32)) is not None


def pytest_collection_modifyitems(config, items):
    out = [item for item in items if refused(item) and not item.get_closest_marker("skip")]
    config.hook.pytest_deselected(items=out)
    gone = set(out)
    items[:] = [item for item in items if item not in gone]
