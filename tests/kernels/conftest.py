"""Tests that take `backend` and `device` run on every backend of their module's `OP`, everywhere.

A test on a CUDA device carries the mark `gpu`; where there is none it is not made. Triton's kernels
run on the CPU too, in its interpreter.
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


@pytest.fixture(autouse=True)
def _skip_what_a_backend_refuses_by_dtype(request):
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    if {"backend", "device"} <= params.keys():
        backends = {b.name: b for b in TABLE[request.module.OP]}
        reason = backends[params["backend"]].why_not(
            params["device"], params.get("dtype", torch.float32)
        )
        if reason:
            pytest.skip(reason)
