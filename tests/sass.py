"""Machine code of CUDA kernels, as cuobjdump -sass prints it, with what each instruction waits for.

An instruction is 128 bits; of the highest 23, 21 say when the next may begin and which scoreboard
is set and waited for (Jia et al., "Dissecting the NVIDIA Volta GPU Architecture via
Microbenchmarking", 2018, section 2.1).
"""

import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

# Which unit computes what, at compute capability 9.0; lanes a clock of a multiprocessor by the
# table of arithmetic throughput in the CUDA C++ Programming Guide. Where there are two names for an
# operation (IADD3 and IMAD.IADD, MOV and IMAD.MOV) ptxas has chosen the unit. I2FP counts as "alu":
# its place is not documented, and conversions have at most 64 lanes.
UNITS = {
    # 64 lanes: sums of integers, logic, shifts, comparisons, minima and maxima, choices, bytes.
    "alu": "BMSK F2FP FMNMX FSEL FSETP I2FP IABS IADD3 IMNMX ISETP LEA LOP3 P2R PLOP3 PRMT R2P SEL "
    "SGXT SHF VIADD VIADDMNMX VIMNMX",
    "fma": "FADD FFMA FMUL HADD2 HFMA2 HMUL2 IDP IMAD",  # 128 lanes; integers 64
    "shuffle": "SHFL",
    "shared": "LDS LDSM STS",
    "global": "LDG STG",
    "copy": "LDGSTS",
    "product": "HGMMA HMMA IGMMA",
    "uniform": "R2UR UIADD3 UIMAD ULDC ULEA ULOP3 UMOV UISETP USEL USHF UPRMT UPLOP3 VOTEU",
}
_UNIT_OF = {name: unit for unit, names in UNITS.items() for name in names.split()}

_FUNCTION = re.compile(r"Function : (\w+)\n(.*?)\n\t*\.{4}", re.DOTALL)
_INSTRUCTION = re.compile(
    r"/\*([0-9a-f]{4,})\*/\s+(\S[^;]*?)\s*;\s+/\* 0x[0-9a-f]{16} \*/\n\s+/\* 0x([0-9a-f]{16}) \*/"
)

# BRA.DIV is taken where a warp has parted, which these kernels never let it do.
_BRANCH = re.compile(r"BRA(?!\.DIV)|BRX|JMP|CALL|RET|EXIT")
_PRODUCT = re.compile(r"[HI]GMMA\.64x(\d+)x\d+\S* R(\d+), R(\d+),")


@dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
        text: as it is printed.
        sets: the scoreboard, 0 to 5, that is clear when its result is there; 7: none.
        waits: mask of the scoreboards that it waits for.
    """

    text: str
    sets: int
    waits: int

    @cached_property
    def name(self) -> str:
        """With what follows the dots, without a predicate."""
        return re.sub(r"^@!?U?P\w+\s+", "", self.text).split()[0]

    @cached_property
    def unit(self) -> str:
        """Of `UNITS`, or "other": branches, waits, constants."""
        return _UNIT_OF.get(self.name.split(".")[0], "other")


def functions(dump: str, pattern: str = "") -> dict[str, list[Instruction]]:
    """Of each function of a dump in whose name the pattern is found, what it is made of."""
    found = {}
    for name, body in _FUNCTION.findall(dump):
        if not re.search(pattern, name):
            continue
        lines = [(text, int(high, 16) >> 41) for _, text, high in _INSTRUCTION.findall(body)]
        found[name] = [Instruction(text, bits >> 5 & 7, bits >> 11 & 63) for text, bits in lines]
    return found


def first_wait(code: list[Instruction], place: int) -> int:
    """Where what an instruction loads is first waited for; the code's length if it is not."""
    mask = 1 << code[place].sets
    later = range(place + 1, len(code))
    return next((n for n in later if code[n].waits & mask), len(code))


def shortest_loop(code: list[Instruction], through: list[int]) -> list[int]:
    """Places of the shortest way round that passes some in their order; empty: there is none.

    What only some turns do (a mask, the end of a document) is a detour, and not on it.
    """
    found: list[int] = []
    for start, end in zip(through, [*through[1:], through[0]], strict=True):
        came_from: dict[int, int] = {}
        queue = deque([start])
        while queue and end not in came_from:
            place = queue.popleft()
            for later in _next_places(code, place):
                if later not in came_from:
                    came_from[later] = place
                    queue.append(later)
        if end not in came_from:
            return []
        way = [end]
        while came_from[way[-1]] != start:
            way.append(came_from[way[-1]])
        found += reversed(way)
    return found


def shortest_step(code: list[Instruction], least: Mapping[str, int]) -> list[Instruction]:
    """The shortest way round that begins with the first product and does all the work of a step.

    Args:
        code: of a function.
        least: how many instructions of a name it must pass; a name is the beginning of those that
            count. Unlike `shortest_loop` it need not know which: there may be several ways to do
            the work.
    """
    start = next(n for n, one in enumerate(code) if one.unit == "product")
    names = list(least)
    counted = [next((i for i, x in enumerate(names) if one.name.startswith(x)), -1) for one in code]
    missing = tuple(least[name] - (i == counted[start]) for i, name in enumerate(names))
    came_from: dict[tuple[int, tuple[int, ...]], tuple[int, tuple[int, ...]]] = {}
    queue = deque([(start, missing)])
    while queue:
        at = queue.popleft()
        for later in _next_places(code, at[0]):
            if later == start and not any(at[1]):
                way = [at]
                while way[-1] != (start, missing):
                    way.append(came_from[way[-1]])
                return [code[place] for place, _ in reversed(way)]
            left, i = at[1], counted[later]
            if i >= 0 and left[i] > 0:
                left = (*left[:i], left[i] - 1, *left[i + 1 :])
            if later != start and (later, left) not in came_from:
                came_from[later, left] = at
                queue.append((later, left))
    raise ValueError(f"no way round passes {dict(least)}")


def units(step: Iterable[Instruction]) -> Counter[str]:
    """How many instructions each unit has."""
    return Counter(one.unit for one in step)


def _next_places(code: list[Instruction], place: int) -> list[int]:
    """Where it goes on: an instruction has 16 bytes; lanes are taken not to diverge."""
    one = code[place]
    following = [place + 1] if place + 1 < len(code) else []
    if not one.name.startswith(("BRA", "EXIT", "RET", "CALL")) or one.name == "BRA.DIV":
        return following
    if one.name != "BRA":
        return following if one.text.startswith("@") else []
    condition, target = one.text.replace("BRA", "").split("0x")
    return [*following, int(target, 16) // 16] if condition.strip() else [int(target, 16) // 16]


def straight(code: list[Instruction]) -> list[list[Instruction]]:
    """The code cut after every branch: what runs from end to end once it has begun."""
    runs: list[list[Instruction]] = [[]]
    for each in code:
        runs[-1].append(each)
        if _BRANCH.match(each.name):
            runs.append([])
    return runs


def product_faults(code: list[Instruction]) -> list[str]:
    """What holds up, or makes wrong, a kernel's one batch of a warpgroup's products."""
    names = [each.name for each in code]
    products = [n for n, each in enumerate(code) if _PRODUCT.match(each.text)]
    first, last = products[0], products[-1]
    arrive = names.index("WARPGROUP.ARRIVE")
    together = max((n for n in range(arrive) if names[n] == "WARPSYNC.ALL"), default=0)
    shown = [n for n in range(arrive) if names[n].startswith("FENCE.VIEW.ASYNC")]
    between, held = names[first:last], [each.waits for each in code[first + 1 : last + 1]]
    operands = set[int]().union(*(_operands(code[n].text) for n in products))
    targets = (re.search(r"\s(?:P\w+, )?R(\d+),", each.text) for each in code[arrive:last])
    others = (found for found in targets if found and not _PRODUCT.match(found.string))
    faults = {
        "a branch between WARPSYNC.ALL and ARRIVE": any(map(_BRANCH.match, names[together:arrive])),
        "no WARPSYNC.ALL before ARRIVE": not together,
        "no FENCE.VIEW.ASYNC before ARRIVE": not shown,
        "no barrier between FENCE.VIEW.ASYNC and ARRIVE": bool(shown)
        and "BAR.SYNC.DEFER_BLOCKING" not in names[shown[-1] : arrive],
        "a branch between ARRIVE and the products": any(map(_BRANCH.match, names[arrive:last])),
        "an operand that is written after ARRIVE": any(int(x[1]) in operands for x in others),
        "a product that waits for another": any("DEPBAR" in name for name in between),
        "a product that waits for memory": any(held),
        "no wait after the products": names[last + 1] != "WARPGROUP.DEPBAR.LE",
    }
    return [fault for fault, there in faults.items() if there]


def _operands(product: str) -> set[int]:
    """Registers of a product: half a register a column for sums, and four of what it multiplies."""
    found = _PRODUCT.match(product)
    assert found is not None
    columns, sums, left = map(int, found.groups())
    return {*range(sums, sums + columns // 2), *range(left, left + 4)}
