"""What a warp issues in the loops of the CUDA kernels, counted in their machine code.

    python tests/instructions.py

prints what benchmarks/gpu/resources.py has as INSTRUCTIONS. Needs the module as built and the
disassembler of Triton's wheel, no device. Counted is the shortest way: a tile that lies in one
document, a step in which every query sees every key.
"""

import re
import subprocess
from pathlib import Path

from sass import Instruction, functions, shortest_loop, shortest_step, units

Units = tuple[int, int]  # issued, of which ALU
Counts = dict[str, Units]

FORMATS = {"float16": r"PlainDocuments\w*HalfEf\w*", "int8": r"PlainDocuments\w*Int8Ei\w*",
           "4bit": r"ResidualDocumentsILi4\w*", "2bit": r"ResidualDocumentsILi2\w*"}  # fmt: skip


def disassemble(program: Path, module: Path) -> str:
    """The machine code for compute capability 9.0."""
    command = [program, "-arch", "sm_90a", "-sass", module]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def count(dump: str) -> dict[str, Counts]:
    """Kernel -> what of it -> instructions; see INSTRUCTIONS."""

    def one(pattern: str) -> list[Instruction]:
        [text] = [part for part in parts if re.match(rf"\w*{pattern}", part)]
        [code] = functions(f"Function : {text}").values()
        return code

    parts = dump.split("Function : ")
    found = {
        f"attention {size}": _attention(one(rf"attention_tiles\w*HalfELi{size}E"), size)
        for size in (32, 64)
    }
    for format, pattern in FORMATS.items():
        narrow, wide = (one(rf"maxsim_maxima\w*{pattern}Li128EEELi{n}ELb0") for n in (32, 128))
        tile, whole = _maxsim(format, narrow, 32), _maxsim(format, wide, 128)
        panel = _maxsim(format, wide, 128, copies=False)
        found[f"maxsim {format}"] = {"tile": tile, "rows": _less(whole, panel), "panel": panel}
    return found


def _attention(code: list[Instruction], size: int) -> Counts:
    """Of a step of 16 queries and 64 keys; of a tile of 16 queries, of copying a chunk of a key and
    of a value, and of a unit, each without what it has of those before."""
    end = max(_places(code, "EXIT"))  # what follows is for lanes that diverge
    products, queries = _places(code, "HMMA"), _places(code, r"LDG\.E\.128")
    # A step has as many as a head has elements; with and without branches there are two forms.
    forms = (products[:size], products[-size:])
    products = min(forms, key=lambda form: len(shortest_loop(code, form)))
    copies = _places(code, "LDGSTS")[2:]  # the first two belong to what is left after pairs
    stores = [place for place in _places(code, "STG") if place < end]
    # A unit's first tile has its queries before the copies are waited for, others after the stores.
    first, later = queries[: len(queries) // 2], queries[len(queries) // 2 :]
    way = [*products, *stores]
    step, chunk, tile, unit = (
        _units([code[place] for place in shortest_loop(code, places)])
        for places in (products, copies, [*way, *later], [*copies, *first, *way])
    )
    turns = len(copies) // 2
    issue, alu = (number // turns for number in chunk)
    return {
        "step": step,
        "tile": _less(tile, step),
        "chunk": (issue, alu),
        "unit": _less(_less(unit, tile), chunk),
    }


def _maxsim(format: str, code: list[Instruction], columns: int, *, copies: bool = True) -> Units:
    """Of a tile's step with so many columns; without copies, of a panel of them alone."""
    least = {"HGMMA": 8} if format == "float16" else {"IGMMA": 4}
    least["FMNMX"] = columns // 2
    if copies:
        least["LDGSTS"] = 6 if format == "int8" else 8
        least["LDG.E.CONSTANT"] = 2 * (format in ("4bit", "2bit"))
    return _units(shortest_step(code, least))


def _places(code: list[Instruction], pattern: str) -> list[int]:
    return [place for place, one in enumerate(code) if re.match(pattern, one.name)]


def _units(way: list[Instruction]) -> Units:
    return len(way), units(way)["alu"]


def _less(all_of_it: Units, part: Units) -> Units:
    issue, alu = (x - y for x, y in zip(all_of_it, part, strict=True))
    return issue, alu


if __name__ == "__main__":
    import triton

    from packrank_kernels import _cuda

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    for kernel, counts in count(disassemble(tool, Path(_cuda.__file__))).items():
        print(f"{kernel!r}: {counts},")
