"""A forward as a program: what it reads of the host, all at once, and what a device then does.

A program runs for its own pack, or in buffers that have room for a little more: tokens past its own
belong to no sequence, and sequences past its own are empty. Nobody reads what becomes of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from packrank.request import Int32, Pack


@dataclass(frozen=True)
class Extent:
    """What the host knows of a pack while it launches a forward; kernels read the rest.

    Attributes:
        tokens: T.
        sequences: N; prefixes that stand by themselves are among them.
        max_seqlen: tokens of the longest sequence by itself, or more.
        max_seqlen_k: of the longest, its prefix included, or more.
    """

    tokens: int
    sequences: int
    max_seqlen: int
    max_seqlen_k: int

    @classmethod
    def of(cls, pack: Pack) -> "Extent":
        """Of a pack whose sequences stand alone, and of no more."""
        longest = pack.max_seqlen
        return cls(len(pack.token_ids), pack.num_sequences, longest, longest)


@dataclass(frozen=True)
class Array:
    """An array of a pack, and how it goes on in a longer one.

    Attributes:
        values: int32.
        per: what has an entry: a token, or some of them; a sequence; or the start of each, and the
            end.
        rest: what follows the pack's own; starts repeat the last, so that what follows is empty.
    """

    values: Int32
    per: Literal["token", "sequence", "start"]
    rest: int = 0

    def room(self, extent: Extent) -> int:
        """How long it is in buffers of this extent."""
        return {
            "token": extent.tokens,
            "sequence": extent.sequences,
            "start": extent.sequences + 1,
        }[self.per]

    def fill(self, target: Int32) -> None:
        """Write it into an array that may be longer."""
        count = len(self.values)
        target[:count] = self.values
        target[count:] = self.values[-1] if self.per == "start" else self.rest


@dataclass(frozen=True)
class Program:
    """A forward that has not begun.

    Attributes:
        kind: programs of one kind, with arrays of the same names, differ in their arrays alone.
        arrays: by name.
        extent: of its pack.
        forward: (arrays on the device, their extent) -> the result; waits for nothing there.
        own: which rows of the result are its pack's.
        may_have_room: whether it runs in larger buffers too.
    """

    kind: tuple[object, ...]
    arrays: dict[str, Array]
    extent: Extent
    forward: Callable[[dict[str, Tensor], Extent], Tensor]
    own: slice
    may_have_room: bool = True

    def then(self, function: Callable[[Tensor], Tensor]) -> "Program":
        """The same, and `function` of its result, row by row."""
        forward = self.forward
        return replace(
            self,
            kind=(*self.kind, function),
            forward=lambda there, extent: function(forward(there, extent)),
        )
