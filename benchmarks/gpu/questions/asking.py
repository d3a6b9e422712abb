"""Whom questions are asked, and how an answer is checked."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from packrank_kernels.dispatch import TABLE
from packrank_kernels.testing import TOLERANCE, assert_close

LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200, 255, 256, 0, 31]


class NotHere(Exception):
    """What is asked about is not on this machine."""


class Device:
    """Where questions are asked; on a CPU, to try the program, backends are chosen for it."""

    def __init__(self, dry: bool) -> None:
        self.device = torch.device("cpu" if dry else "cuda")
        self.dry = dry
        self.dtype = torch.float32 if dry else torch.float16
        self.lengths = LENGTHS[:8] if dry else LENGTHS

    def named(self, op: str, name: str, dtype: torch.dtype | None = None) -> str:
        """A backend to ask for by name; it must be there."""
        if self.dry:
            return "auto"
        (backend,) = (one for one in TABLE[op] if one.name == name)
        if reason := backend.why_not(self.device, dtype or self.dtype):
            raise NotHere(reason)
        return name

    def draw(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(*shape, device=self.device).to(dtype or self.dtype)

    @contextlib.contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Within it torch raises where a call would wait for the device."""
        if self.dry:
            yield
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def check(call: Callable[[], Tensor], expected: Tensor, roundings: int = 2) -> None:
    """Compare, by so many times what a test allows of an op that rounds once.

    What the call leaves unwritten is NaN: the allocator hands the same block out again.
    """
    dtype = call().dtype
    torch.full(expected.shape, torch.nan, dtype=dtype, device=expected.device)
    assert_close(call(), expected, roundings * TOLERANCE[dtype])


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Say of what an answer within is wrong."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from None
