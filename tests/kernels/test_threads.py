import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from packrank_kernels import (
    FORMATS,
    Codec,
    TokenEmbeddings,
    attention,
    get_num_threads,
    linear,
    maxsim,
    pack_linear,
    set_num_threads,
)
from packrank_kernels.testing import cu_seqlens


@pytest.fixture(autouse=True)
def restore():
    before = get_num_threads()
    yield
    set_num_threads(before)


def work():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(500, 96, generator=generator)
    docs = torch.randn(4000, 96, generator=generator)
    weight = torch.randn(288, 96, generator=generator)
    y = linear(x, pack_linear(weight, activation="gelu"))
    lengths = [100, 1, 299, 100]
    cu = cu_seqlens(lengths)
    z = attention(*y.view(500, 3, 3, 32).unbind(1), cu, cu)
    weights = torch.randn(16, generator=generator).sort().values
    codec = Codec.of(docs[:40], (weights[1:] + weights[:-1]) / 2, weights)
    stored = [
        TokenEmbeddings.encode(torch.split(docs, [8 * n for n in lengths]), format, chosen)
        for format, chosen in [*((f, None) for f in FORMATS[:4]), ("4bit", codec)]
    ]
    return z, *(maxsim(x[:32], documents) for documents in stored)


def test_bits_do_not_depend_on_threads():
    set_num_threads(1)
    alone = work()
    for num_threads in (2, 3, 7):
        set_num_threads(num_threads)
        assert all(torch.equal(a, b) for a, b in zip(work(), alone, strict=True))


def count_workers():
    return sum(
        path.read_text().strip() == "packrank" for path in Path("/proc/self/task").glob("*/comm")
    )


def test_kernels_start_with_as_many_threads_as_torch():
    program = """
import torch
from pathlib import Path
torch.set_num_threads(3)
from packrank_kernels import linear, pack_linear
linear(torch.randn(500, 64), pack_linear(torch.randn(64, 64)))
print([path.read_text() for path in Path("/proc/self/task").glob("*/comm")].count("packrank\\n"))
"""
    workers = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert workers.strip() == "2"


def test_one_setting_decides_both():
    for num_threads in (3, 2, 1):
        set_num_threads(num_threads)
        work()
        assert torch.get_num_threads() == get_num_threads() == num_threads
        assert count_workers() == num_threads - 1, "the caller's thread works too"
    with pytest.raises(ValueError, match="num_threads is 0, expected at least 1"):
        set_num_threads(0)


def test_many_callers_at_once():
    set_num_threads(2)
    expected = work()
    results = []
    callers = [threading.Thread(target=lambda: results.append(work())) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 8
    for result in results:
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own():
    set_num_threads(2)
    x, layer = torch.randn(300, 64), pack_linear(torch.randn(64, 64))
    documents = TokenEmbeddings.encode(torch.split(x, 100), "int8")

    def compute():
        return torch.cat([linear(x, layer).flatten(), maxsim(x[:100], documents)])

    expected = compute()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(30)  # a child that waits for its parent's threads waits for ever
            status = 0 if torch.equal(compute(), expected) else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_process_may_end_while_a_daemon_thread_computes():
    """Python ends such a thread by unwinding its stack, which aborts in PyTorch's operators too."""
    program = """
import threading, torch
from packrank_kernels import linear, pack_linear
x, layer, started = torch.ones(2000, 256), pack_linear(torch.ones(256, 256)), threading.Event()
def compute():
    while True:
        linear(x + x, layer)
        started.set()
threading.Thread(target=compute, daemon=True).start()
started.wait()
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("call", ["end()", "threading.Thread(target=end).start()"])
def test_what_else_terminates_the_process_still_does(call):
    program = f"""
import ctypes, packrank_kernels, threading
end = ctypes.CDLL("libstdc++.so.6")._ZSt9terminatev
{call}
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == -signal.SIGABRT
    assert "terminate called without an active exception" in result.stderr
