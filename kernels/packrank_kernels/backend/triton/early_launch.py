"""A form of launching of which only a device can tell whether it pays: benchmarks race both.

Programmatic dependent launch (CUDA C++ Programming Guide, "Programmatic Dependent Launch and
Synchronization"): a kernel is put on the multiprocessors while the one before it ends, and waits
there for what that has written. It should save part of the microsecond between two kernels, of
which a small pack has some 45. `forward` of `make gpu` decides; the loser goes. The CUDA attention
kernel stays as it is: it loads queries as what nothing writes while a kernel runs (ld.global.nc).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_launches_early = False


@contextmanager
def within() -> Iterator[None]:
    """Products, norms and attention of this process are launched early; for benchmarks."""
    global _launches_early
    before, _launches_early = _launches_early, True
    try:
        yield
    finally:
        _launches_early = before


def options() -> dict[str, bool]:
    """What a launch takes for it, where it is asked for."""
    return {"EARLY": True, "launch_pdl": True} if _launches_early else {}


@triton.jit
def wait_for_inputs(EARLY: tl.constexpr):
    """First of all that a kernel does: launch the next, wait for the one before."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
