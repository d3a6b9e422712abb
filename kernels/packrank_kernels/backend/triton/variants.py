"""One kernel in one configuration, said so that it can be compiled where there is no GPU."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Variant:
    """A kernel as a launcher would compile it.

    Attributes:
        name: of the kernel and its configuration.
        kernel: the function that @triton.jit made.
        signature: argument -> type, "constexpr" among them.
        constexprs: argument -> value, of those.
        num_warps: warps of a program.
        num_stages: depth of the software pipeline.
        aligned: arguments that are known to be divisible by 16.
        matrix: whether it multiplies on the tensor cores.
        programs: how many of its programs a multiprocessor must have room for.
        fused: whether a product and a sum may become one instruction.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, object]
    num_warps: int
    num_stages: int
    aligned: frozenset[str] = frozenset()
    matrix: bool = False
    programs: int = 1
    fused: bool = True
