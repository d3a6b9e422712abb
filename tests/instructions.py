"""What a warp issues in the loops of the CUDA kernels, counted in their machine code.

    python tests/instructions.py

prints what benchmarks/gpu/arithmetic.py has as INSTRUCTIONS. Needs the module as built and the
disassembler of Triton's wheel, no device. Counted is the shortest way: a tile that lies in one
document, a step in which every query sees every key.
"""

import re
import subprocess
from pathlib import Path

from sass import Instruction, functions, shortest_loop

Units = tuple[int, int, int]  # issued, of which ALU, of which I2FP
Counts = dict[str, Units]

# Units with half as many lanes as a warp: integers, comparisons, highest of two, bytes.
_HALF_RATE = {"BMSK", "F2FP", "FMNMX", "FSEL", "FSETP", "IABS", "IADD3", "IMNMX", "ISETP", "LEA",
              "LOP3", "P2R", "PLOP3", "PRMT", "R2P", "SEL", "SGXT", "SHF", "VIADD", "VIADDMNMX",
              "VIMNMX"}  # fmt: skip
_NEAR = 160  # maxima, among which are those of a whole tile
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
        narrow, wide = (one(rf"maxsim_maxima\w*{pattern}Li128EEELi{n}E") for n in (32, 128))
        tile, panel = _units(narrow, _tile(narrow)), _units(wide, _panel(wide))
        whole = _units(wide, _tile(wide))
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
        _units(code, shortest_loop(code, places))
        for places in (products, copies, [*way, *later], [*copies, *first, *way])
    )
    turns = len(copies) // 2
    issue, alu, i2fp = (number // turns for number in chunk)
    return {
        "step": step,
        "tile": _less(tile, step),
        "chunk": (issue, alu, i2fp),
        "unit": _less(_less(unit, tile), chunk),
    }


def _tile(code: list[Instruction]) -> list[int]:
    """From waiting for a tile's copies to its maxima, through the copies of a later one."""
    products = _places(code, "[HI]GMMA")
    wait = max(place for place in _places(code, r"DEPBAR") if place < products[0])
    copies = [place for place in _places(code, "LDGSTS") if wait < place < products[0]]
    return _to_maxima(code, [wait, *copies, *products])


def _panel(code: list[Instruction]) -> list[int]:
    return _to_maxima(code, _places(code, "[HI]GMMA"))


def _to_maxima(code: list[Instruction], places: list[int]) -> list[int]:
    """On from the products through some maximum, whichever is the least way."""
    last = places[-1]
    maxima = [place for place in _places(code, "FMNMX") if place > last]
    ways = {place: len(shortest_loop(code, [last, place])) for place in maxima[:_NEAR]}
    nearest = min(filter(ways.get, ways), key=lambda place: ways[place])
    return shortest_loop(code, [*places, nearest])


def _places(code: list[Instruction], pattern: str) -> list[int]:
    return [place for place, one in enumerate(code) if re.match(pattern, one.name)]


def _units(code: list[Instruction], way: list[int]) -> Units:
    names = [code[place].name.partition(".")[0] for place in way]
    return len(names), sum(name in _HALF_RATE for name in names), names.count("I2FP")


def _less(all_of_it: Units, part: Units) -> Units:
    issue, alu, i2fp = (x - y for x, y in zip(all_of_it, part, strict=True))
    return issue, alu, i2fp


if __name__ == "__main__":
    import triton

    from packrank_kernels import _cuda

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    for kernel, counts in count(disassemble(tool, Path(_cuda.__file__))).items():
        print(f"{kernel!r}: {counts},")
