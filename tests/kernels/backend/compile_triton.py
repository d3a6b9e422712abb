"""Compile every Triton kernel in every configuration for an H100 and check what comes of it.

    python tests/kernels/backend/compile_triton.py [module ...]

Needs no GPU. Takes the variants of the given modules, else of all in
packrank_kernels.backend.triton; prints a JSON object a line and variant (name, registers, stack,
shared memory, how many WGMMA instructions). Exit status 1, and a sentence on stderr for each, where
a variant spills registers, exceeds the shared memory, or ought to use the tensor cores and does
not. With --disassemble these are read off the machine code instead of the PTX and ptxas' own word,
which takes half as long again.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.metadata
import io
import json
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from compiled import digest, kept

PACKAGE = "packrank_kernels.backend.triton"
SHARED_MEMORY = 227 * 1024  # that a block may have on sm_90
TARGET = 90


def cuobjdump():
    """Where Triton's wheel has its disassembler."""
    import triton

    return Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def modules_with_variants():
    package = importlib.import_module(PACKAGE)
    names = [f"{PACKAGE}.{found.name}" for found in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if hasattr(importlib.import_module(name), "variants")]


@functools.cache
def variants(module):
    return list(importlib.import_module(module).variants())


def compile_for_hopper(variant):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_source

    names = variant.kernel.arg_names
    given = {name: kind for name, kind in variant.signature.items() if kind != "constexpr"}
    unknown = (variant.signature.keys() | variant.constexprs.keys() | variant.aligned) - {*names}
    if unknown:
        raise ValueError(f"the kernel has no argument {', '.join(sorted(unknown))}")
    source = ASTSource(
        variant.kernel,
        {name: given.get(name, "constexpr") for name in names},
        # An optional tensor that is not given is None.
        {name: variant.constexprs.get(name) for name in names if name not in given},
        {(names.index(name),): [["tt.divisibility", 16]] for name in variant.aligned},
    )
    options = {
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        "enable_fp_fusion": variant.fused,
    }
    return compile_source(source, target=GPUTarget("cuda", TARGET, 32), options=options)


def dump(file, option):
    command = [cuobjdump(), option, file]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def examine(module, index, disassemble, folder):
    """What one variant compiles to, and what is wrong with it; without fault it is kept."""
    variant = variants(module)[index]
    version = importlib.metadata.version("triton")
    start = {"name": variant.name, "module": module.rpartition(".")[2], "triton": version}
    if folder is None:
        return start | inspect(variant, disassemble)
    path = folder / f"triton-{key_of(variant, version, disassemble)}.json"
    if path.exists():
        return start | json.loads(path.read_text())
    found = inspect(variant, disassemble)
    if not found["failures"]:
        kept(path, lambda unfinished: unfinished.write_text(json.dumps(found)))
    return start | found


def key_of(variant, version, disassemble):
    """Of all that decides what is found, among it the kernel's source and that of all it calls."""
    from triton import knobs
    from triton._C.libtriton import get_cache_invalidating_env_vars

    facts = {name: value for name, value in vars(variant).items() if name != "kernel"}
    facts["aligned"] = sorted(variant.aligned)
    compiler = version, knobs.nvidia.ptxas.version, get_cache_invalidating_env_vars()
    kernel = variant.kernel.cache_key
    return digest(Path(__file__), TARGET, kernel, facts, disassemble, *compiler)


def reads_early(ptx):
    """Whether a kernel that is launched early touches global memory before it has waited."""
    start, waits, _ = ptx.partition("griddepcontrol.wait")
    return not waits or re.search(r"\b(ld|st|atom|cp)\.(global|async)", start) is not None


def inspect(variant, disassemble):
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where Triton puts what ptxas refuses
            compiled = compile_for_hopper(variant)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return {"failures": [f"does not compile: {reason[:300]}"]}
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = dump(file.name, "-res-usage")
        registers, stack = map(int, re.search(r"\bREG:(\d+) STACK:(\d+)", usage).groups())
        # What is spilled, or indexed in local memory, needs a stack.
        code = dump(file.name, "-sass") if disassemble or stack else ""
    products = r"\b[HI]GMMA\b" if code else r"\bwgmma\.mma_async\b"
    found = {
        "registers": registers,
        "stack": stack,
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", code)),
        "shared_memory": compiled.metadata.shared,
        "wgmma": len(re.findall(products, code or compiled.asm["ptx"])),
    }
    # Registers are handed out eight at a time, and a kilobyte of shared memory is the system's.
    each = -(-registers // 8) * 8 * 32 * variant.num_warps
    room = min(65536 // each, (SHARED_MEMORY + 1024) // (compiled.metadata.shared + 1024))
    failures = []
    if room < variant.programs:
        failures.append(f"a multiprocessor has room for {room}, expected {variant.programs}")
    if variant.constexprs.get("EARLY") and reads_early(compiled.asm["ptx"]):
        failures.append("it reads memory before it waits for the kernel that writes it")
    if found["spills"]:
        failures.append(f"{found['spills']} accesses to local memory, expected none")
    if found["shared_memory"] > SHARED_MEMORY:
        failures.append(f"{found['shared_memory']} bytes of shared memory exceed {SHARED_MEMORY}")
    if variant.matrix and not found["wgmma"]:
        failures.append("no HGMMA or IGMMA, expected the tensor cores to be used")
    return found | {"failures": failures}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("module", nargs="*", help=f"default: all of {PACKAGE}")
    parser.add_argument("--share", default="0/1", metavar="I/N", help="every Nth, from the Ith on")
    parser.add_argument("--disassemble", action="store_true", help="read off the machine code")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="what was found, by content")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N")
    args = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)
    first, step = map(int, args.share.split("/"))
    tasks = [
        (module, index, args.disassemble, args.keep)
        for module in args.module or modules_with_variants()
        for index in range(first, len(variants(module)), step)
    ]
    if not tasks:
        sys.exit("compile_triton: the modules have no variants")
    failed = 0
    with tempfile.TemporaryDirectory() as cache, contextlib.ExitStack() as stack:
        os.environ["TRITON_CACHE_DIR"] = cache
        mapped = map
        if args.jobs > 1 and len(tasks) > 20:  # a process takes seconds to start
            spawn = multiprocessing.get_context("spawn")
            mapped = stack.enter_context(ProcessPoolExecutor(args.jobs, mp_context=spawn)).map
        for found in mapped(examine, *zip(*tasks, strict=True)):
            print(json.dumps(found), flush=True)
            for failure in found["failures"]:
                print(f"compile_triton: {found['name']}: {failure}", file=sys.stderr)
            failed += bool(found["failures"])
    if failed:
        sys.exit(f"compile_triton: {failed} of {len(tasks)} variants failed")


if __name__ == "__main__":
    main()
