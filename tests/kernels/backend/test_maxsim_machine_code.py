"""Machine code of the MaxSim kernels: what nvcc made for sm_90a, where the module was built."""

import re
from collections import Counter
from types import SimpleNamespace

import pytest
import sass

# By format: documents' class; copies of a step; and at most so many instructions of a step, so many
# of the half-rate unit, and so many of the one that multiplies. A step is 16 document tokens of a
# warp, within a document, for one query of up to 32 tokens at D = 128: the shape that has goals.
STEPS = {
    "float16": ("PlainDocumentsINS0_4HalfE", 8, 184, 62, 50),
    "bfloat16": ("PlainDocumentsINS0_8BFloat16E", 8, 184, 62, 50),
    "int8": ("PlainDocumentsINS0_4Int8E", 6, 156, 40, 64),
    "4bit": ("ResidualDocumentsILi4E", 8, 260, 124, 78),
    "2bit": ("ResidualDocumentsILi2E", 8, 216, 94, 67),
}


@pytest.fixture(scope="module")
def kernels(disassembled):
    found = []
    pattern = r"maxsim_maximaINS0_\d+(\w*)Lb([01])ELi(\d+)EEELi(\d+)ELb([01])EEE"
    for name, code in sass.functions(disassembled("sm_90a"), "maxsim_maxima").items():
        if shape := re.search(pattern, name):
            whole, size, columns, evicts = map(int, shape.groups()[1:])
            found.append(
                SimpleNamespace(
                    name=name, documents=shape[1], whole=whole, size=size, columns=columns,
                    evicts=evicts, code=code,
                )
            )  # fmt: skip
    return found


def of_format(kernels, kind, **facts):
    return [
        kernel for kernel in kernels
        if STEPS[kind][0] in kernel.documents and facts.items() <= vars(kernel).items()
    ]  # fmt: skip


def step_of(kernel, kind):
    """A step that does all its work."""
    product = {"HGMMA": 8} if kind in ("float16", "bfloat16") else {"IGMMA": 4}
    codes = {"LDG.E.CONSTANT": 2} if kind in ("4bit", "2bit") else {}
    least = {"LDGSTS": STEPS[kind][1], "FMNMX": kernel.columns // 2, **product, **codes}
    return sass.shortest_step(kernel.code, least)


def test_all(disassembled, kernels):
    """wgmma, not one at a time, and nothing kept in local memory."""
    pattern = r"Function (\w*maxsim_maxima\w*):\s+REG:(\d+) STACK:(\d+)"
    usage = re.findall(pattern, disassembled("sm_90a"))
    registers = {name: int(count) for name, count, stack in usage if stack == "0"}
    assert len(usage) == len(registers) == len(kernels) == 56
    for kernel in kernels:
        names = Counter(one.name.split(".")[0] for one in kernel.code)
        assert registers[kernel.name] <= (128 if kernel.columns == 32 else 168), kernel.name
        assert not names["LDL"] and not names["STL"], kernel.name
        floats = re.search("Half|BFloat16", kernel.documents)
        assert names["HGMMA" if floats else "IGMMA"] in (4, 8), kernel.name
        assert [one.name for one in kernel.code].count("WARPGROUP.ARRIVE") == 1, kernel.name


@pytest.mark.parametrize("evicts", [0, 1])
@pytest.mark.parametrize("kind", STEPS)
def test_instructions_of_a_step(kernels, kind, evicts):
    """No more than there were; lanes do not meet where each keeps its maxima."""
    (kernel,) = of_format(kernels, kind, whole=1, size=128, columns=32, evicts=evicts)
    step = step_of(kernel, kind)
    found = sass.units(step)
    counts, (_, copies, *most) = [len(step), found["alu"], found["fma"]], STEPS[kind]
    assert all(a <= b for a, b in zip(counts, most, strict=True)), found
    assert found["shuffle"] == (7 if kind in ("float16", "bfloat16") else 0)
    assert found["copy"] == copies


@pytest.mark.parametrize("kind", ["4bit", "2bit"])
def test_codes_are_waited_for_in_the_next_step(kernels, kind):
    """Of a step that waits for a code it loads itself, every tile costs a latency of memory."""
    some = of_format(kernels, kind, whole=1)
    assert len(some) == 7
    for kernel in some:
        step = step_of(kernel, kind)
        loads = [n for n, one in enumerate(step) if one.name.startswith("LDG.E.CONSTANT")]
        assert len(loads) == 2
        assert all(sass.first_wait(step, n) == len(step) for n in loads), kernel.name
