"""What another package does to the stack of signal handlers does not outlast it."""

import ctypes
import sys

import pytest

from packrank.bench.peers import opening
from packrank.bench.peers.signal_stack import Stack, signal_stack


@pytest.mark.skipif(sys.platform != "linux", reason="sigaltstack is called as on Linux")
def test_a_package_that_puts_its_own_signal_stack_does_not_leave_it() -> None:
    before = signal_stack()
    memory = ctypes.create_string_buffer(1 << 17)
    with opening._fenced():
        signal_stack(Stack(ctypes.addressof(memory), 0, len(memory)))
        assert signal_stack().sp == ctypes.addressof(memory)
    after = signal_stack()
    assert (after.sp, after.size) == (before.sp, before.size)
