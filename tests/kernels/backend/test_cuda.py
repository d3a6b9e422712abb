"""The CUDA C++ kernels: their source run on a processor, their machine code, and on a device."""

import contextlib
import re
import runpy
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import sass
import torch

import packrank_kernels
from packrank_kernels import attention, reference
from packrank_kernels.backend import cuda, cuda_maxsim
from packrank_kernels.testing import TOLERANCE, assert_close, cu_seqlens

CUDA = torch.device("cuda")
# What __launch_bounds__ allows: 65536 registers for 4 blocks of 128 threads.
REGISTERS = {"attention_tiles": 128, "attention_row": 96}
# Instructions of 16 queries by 64 keys that all see all, by head size. With nvcc 13.0 it is 233 and
# 305 on sm_80, 239 and 314 on sm_90a.
STEP = {32: 245, 64: 320}

needs_device = pytest.mark.skipif(
    not torch.cuda.is_available() or cuda.why_not(CUDA, torch.float16) is not None,
    reason="needs a CUDA device and the module for it",
)


def test_the_kernels_are_right_on_a_processor(emulation, thorough):
    """Under sanitizers, threads and copies in random order; see tests/cuda."""
    program = emulation("driver.cpp", "-O1", *([] if thorough else ["-DSAMPLE"]))
    result = subprocess.run([program], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "right\n"), result.stderr


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_machine_code(disassembled, architecture):
    """What was built: nothing kept in local memory, no more registers than blocks may have.

    A full step has no branch, and no more instructions than it had when it was last looked at. The
    first queries are on their way before keys and values are waited for.
    """
    dump = disassembled(architecture)
    found = re.findall(
        r"Function \w*?(attention_tiles|attention_row)\w*:\s+"
        r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)",
        dump,
    )
    assert len(found) == 8
    of_the_system = {"sm_80": 0, "sm_90a": 1024}[architecture]
    for name, registers, stack, shared, local in found:
        assert int(registers) <= REGISTERS[name]
        assert (stack, local) == ("0", "0"), name
        assert int(shared) == of_the_system, "shared memory is asked for at the launch"
    sizes = []
    for name, code in sass.functions(dump, "attention_tiles").items():
        size = 64 if "Li64E" in name else 32
        steps = [len(run) for run in sass.straight(code) if products_of(run) == size]
        assert steps, f"{name} has branches in every step"
        assert min(steps) <= STEP[size], name
        loads = [n for n, each in enumerate(code) if each.name.startswith("LDG.E.128")]
        waits = [n for n, each in enumerate(code) if each.text.startswith("DEPBAR.LE SB0")]
        assert loads[0] < waits[0], name
        sizes.append(size)
    assert sorted(sizes) == [32, 32, 64, 64]


def products_of(run):
    return sum(one.name.startswith("HMMA.16816") for one in run)


def test_a_warpgroups_products_are_one_batch(disassembled, thorough):
    """MaxSim's, of a warpgroup whose warps are together, on memory that it may see, in one go.

    Of all kernels, or in the short form of those for the fewest query tokens at once.
    """
    code = sass.functions(
        disassembled("sm_90a"), f"maxsim_maxima.*{'' if thorough else 'ELi32ELb'}"
    )
    assert len(code) == (56 if thorough else 22)
    faults = {name: found for name in code if (found := sass.product_faults(code[name]))}
    assert not faults


def test_nothing_of_cudas_runtime_is_exported(module):
    """It is linked in: another copy in the process must not be taken for it, nor it for that."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    listing = subprocess.check_output(["nm", "-D", module], text=True)
    symbols = {line.split()[-1] for line in listing.splitlines()}
    assert "PyInit__cuda" in symbols
    assert not [name for name in symbols if re.match("_*(cuda|cu[A-Z])", name)]


@pytest.mark.parametrize("architecture", ["sm_100", "sm_120"])
def test_newer_devices_can_translate_the_ptx(architecture, module, triton_tool, tmp_path, thorough):
    """As their driver would: all of it, or in the short form the first kernel of each file."""
    cuobjdump = triton_tool("cuobjdump")
    command = [cuobjdump, "-xptx", "all", module]
    subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, check=True)
    sources = sorted(tmp_path.glob("*.ptx"))
    assert len(sources) == 3
    assemblers = [shutil.which("ptxas"), *sorted(cuobjdump.parent.glob("ptxas*"))]
    refusal = "there is none"
    for ptxas in filter(None, assemblers):
        for source in sources:
            names = re.findall(r"\.entry (\w+)", source.read_text())
            chosen = names if thorough else names[:1]
            entries = [word for name in chosen for word in ("--entry", name)]
            command = [ptxas, "-arch", architecture, *entries, source, "-o", tmp_path / "out"]
            result = subprocess.run(command, capture_output=True, text=True)
            refusal = result.stdout + result.stderr
            if result.returncode != 0:
                break
        else:
            return
        assert re.search("Unsupported .version|is not defined for option", refusal), refusal
    pytest.skip(f"no ptxas here takes this PTX for {architecture}: {refusal.strip()}")


@pytest.mark.parametrize("file", [cuda.__file__, cuda_maxsim.__file__])
def test_a_module_that_does_not_load_is_refused_with_the_reason(monkeypatch, file):
    monkeypatch.setitem(sys.modules, "packrank_kernels._cuda", None)
    monkeypatch.delattr(packrank_kernels, "_cuda", raising=False)
    reason = runpy.run_path(file)["why_not"](torch.device("cpu"), torch.float16)
    start, end = "packrank_kernels._cuda cannot be loaded (", "); reinstall with nvcc"
    assert reason.startswith(start) and reason.endswith(end)
    assert "None in sys.modules" in reason  # the import's own words


def test_refusals(monkeypatch):
    def why_not(device="cuda", dtype=torch.float16, **facts):
        return cuda.why_not(torch.device(device), dtype, **facts)

    monkeypatch.setattr(cuda, "_missing", "it is not built")
    assert why_not() == "it is not built"
    monkeypatch.setattr(cuda, "_missing", None)
    monkeypatch.setattr(cuda, "_cuda", SimpleNamespace(MOST_KEYS=256), raising=False)
    monkeypatch.setattr(cuda, "_capability", lambda device: (7, 5))
    assert why_not("cpu").endswith("is loaded, but the tensors are on cpu, not on a CUDA device")
    assert why_not() == "the device's compute capability is below 8.0"
    monkeypatch.setattr(cuda, "_capability", lambda device: (8, 0))
    assert why_not(dtype=torch.float32).startswith("the tensors are torch.float32, not")
    assert why_not(head_size=96) == "the head size is 96, not 32 or 64"
    assert why_not(heads_per_key=2) == "it has neither causal attention nor grouped queries"
    assert why_not(causal=True) == "it has neither causal attention nor grouped queries"
    assert why_not(rotary=True) == "it does not rotate queries and keys"
    assert "max_seqlen_k is not given" in why_not(max_seqlen_k=None)
    assert why_not(max_seqlen_k=257) == "a sequence may have 257 keys, more than 256"
    assert why_not(max_seqlen_q=1, max_seqlen_k=257) is None
    assert "would depend on the longest sequence" in why_not(deterministic=True)
    assert why_not() is None
    assert why_not(dtype=torch.bfloat16, head_size=64, max_seqlen_k=256, unequal=True) is None


def test_what_cannot_be_read_16_bytes_at_a_time_is_copied():
    x = torch.randn(10, 3, 2, 32, dtype=torch.float16)
    assert cuda._aligned(x[:, 1]).data_ptr() == x[:, 1].data_ptr()
    odd = torch.randn(5, 2, 33, dtype=torch.float16)[..., :32]
    shifted = torch.randn(5 * 64 + 1, dtype=torch.float16)[1:].view(5, 2, 32)
    for tensor in (odd, shifted):
        copy = cuda._aligned(tensor)
        assert copy.data_ptr() % 16 == 0
        assert copy.stride() == (64, 32, 1)
        assert torch.equal(copy, tensor)


def test_a_failure_of_cuda_is_told_in_its_words(monkeypatch):
    """Where there is no device: all arguments arrive, and the first call of CUDA's is refused."""
    if torch.cuda.is_available() or cuda._missing is not None:
        pytest.skip("needs the module, and no device for it")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    q, k, v = torch.randn(4, 3, 2, 32).half().unbind(1)
    cu = cu_seqlens([4])
    options = {"scale": 0.1, "window": 2**63 - 1, "max_seqlen_q": 4, "causal": False}
    with pytest.raises(RuntimeError, match=r"attention: device: .*CUDA"):
        cuda.attention(q, k, v, cu, cu, max_seqlen_k=4, **options)
    with pytest.raises(ValueError, match="more than 256 keys"):
        cuda.attention(q, k, v, cu, cu, max_seqlen_k=257, **options)
    assert cuda.attention(q[:0], k, v, cu, cu, max_seqlen_k=4, **options).shape == (0, 2, 32)


@pytest.mark.gpu
@needs_device
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("window", [None, 0, 40])
@pytest.mark.parametrize("one_query", [False, True])
def test_on_a_device(dtype, size, window, one_query):
    lengths = [1, 256, 15, 16, 17, 0, 33, 64, 65, 128, 129, 200, 31, 32, 2]
    queries = [min(n, 1) for n in lengths] if one_query else lengths
    qkv = torch.randn(sum(lengths), 3, 5, size, dtype=dtype)
    cu_q, cu_k = cu_seqlens(queries), cu_seqlens(lengths)
    q = qkv[cu_k[:-1][cu_k.diff() > 0], 0] if one_query else qkv[:, 0]
    moved = qkv.to(CUDA)
    longest = {"max_seqlen_q": max(queries), "max_seqlen_k": 256}

    def run(spare):
        more_q = torch.cat([cu_q, cu_q[-1:].expand(spare)]).to(CUDA)
        more_k = torch.cat([cu_k, cu_k[-1:].expand(spare)]).to(CUDA)
        on_it = q.to(CUDA) if one_query else moved[:, 0]
        return attention(
            on_it, moved[:, 1], moved[:, 2], more_q, more_k,
            window=window, backend="cuda", **longest,
        )  # fmt: skip

    actual = run(0)
    wide = (x.double() for x in (q, qkv[:, 1], qkv[:, 2]))
    expected = reference.attention(*wide, cu_q, cu_k, size**-0.5, window, None)
    assert_close(actual.cpu(), expected, TOLERANCE[dtype])
    assert torch.equal(run(300), actual)


@pytest.mark.gpu
@needs_device
def test_a_graph_follows_cu_seqlens():
    """Captured once, replayed with other sequences."""
    qkv = torch.randn(256, 3, 4, 64, dtype=torch.float16, device=CUDA)
    cu = cu_seqlens([0] * 9).to(CUDA)

    def run():
        options = {"max_seqlen_q": 128, "max_seqlen_k": 128, "backend": "cuda"}
        return attention(*qkv.unbind(1), cu, cu, **options)

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    for lengths in ([128, 128, 0, 0, 0, 0, 0, 0, 0], [20, 100, 3, 7, 1, 0, 60, 0, 9]):
        cu.copy_(cu_seqlens(lengths))
        graph.replay()
        rows = sum(lengths)
        assert torch.equal(out[:rows], run()[:rows])
