"""Where a decoder's sequences lie, layer by layer: document tokens may become fewer on the way."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from packrank.models.decoder_layers import CausalSpans
from packrank.models.prefixes import longest
from packrank.models.program import Array, Extent
from packrank.request import Int32


@dataclass(frozen=True)
class Compression:
    """Runs of tokens that become one each.

    Attributes:
        sizes: [runs] int64, on the device. Tokens of each run; the runs lie end to end.
        cu_seqlens: [M + 1] int32, on the host. Where the sequences start in what is left.
        spans: the same on the device.
    """

    sizes: Tensor
    cu_seqlens: Int32
    spans: CausalSpans


@dataclass(frozen=True)
class Course:
    """What layers read of where sequences lie, on the device.

    Attributes:
        spans: as they lie now.
        ahead: layer -> what becomes of them before it.
    """

    spans: CausalSpans
    ahead: dict[int, Compression]


@dataclass(frozen=True)
class Plan:
    """A `Course` on the host, which knows it whole before the first of its layers runs.

    Attributes:
        cu_seqlens: [M + 1] int32 of the sequences as they lie now.
        prefix_of: [M] int32. Which sequence comes before each, -1: none.
        ahead: layer -> sizes [runs] and cu_seqlens [M + 1], int32; see `Compression`.
    """

    cu_seqlens: Int32
    prefix_of: Int32
    ahead: dict[int, tuple[Int32, Int32]]

    @classmethod
    def of(
        cls, cu_seqlens: Int32, prefix_of: Int32, layers: Iterable[int], ratio: int, tail: int
    ) -> "Plan":
        """Before each of some layers, runs of `ratio` document tokens become one.

        The last run of a document is as long as it comes. What stands before the document is a
        prefix of its own and stays, as does the tail. Source: FlagEmbedding's token_compress.
        """
        ahead, starts = {}, cu_seqlens
        is_prefix = np.zeros(len(prefix_of), dtype=bool)
        is_prefix[prefix_of[prefix_of >= 0]] = True
        for layer in sorted(layers):
            lengths = np.diff(starts)
            document = np.where(is_prefix, 0, np.maximum(lengths - np.int32(tail), 0))
            whole, rest = np.divmod(document, np.int32(ratio))
            # Of each sequence, in order: the sizes of its runs, and how many runs have each.
            sizes = np.stack([np.full_like(rest, ratio), rest, np.ones_like(rest)], axis=1)
            counts = np.stack([whole, rest > 0, lengths - document], axis=1)
            starts = np.append(0, np.cumsum(counts.sum(axis=1))).astype(np.int32)
            ahead[layer] = np.repeat(sizes.ravel(), counts.ravel()), starts
        return cls(cu_seqlens, prefix_of, ahead)

    def arrays(self) -> dict[str, Array]:
        """What `on_device` reads, to be uploaded."""
        arrays = {"cu_last": Array(np.arange(len(self.cu_seqlens), dtype=np.int32), "start")}
        if self.prefix_of.max(initial=-1) >= 0:
            arrays["prefix_of"] = Array(self.prefix_of, "sequence", rest=-1)
        arrays |= _places("", self.cu_seqlens)
        for layer, (sizes, cu_seqlens) in self.ahead.items():
            arrays |= _places(f"{layer}.", cu_seqlens)
            arrays[f"{layer}.sizes"] = Array(sizes, "token")
        return arrays

    @property
    def extent(self) -> Extent:
        """Of the sequences as they lie now."""
        return self._extent(self.cu_seqlens)

    def on_device(self, there: dict[str, Tensor], extent: Extent) -> Course:
        """The course, from what `arrays` has become on the device.

        Args:
            there: those arrays, or longer ones.
            extent: theirs.
        """
        ahead = {
            layer: Compression(
                there[f"{layer}.sizes"].long(),
                cu_seqlens,
                _spans(f"{layer}.", self._extent(cu_seqlens), there),
            )
            for layer, (_, cu_seqlens) in self.ahead.items()
        }
        return Course(_spans("", extent, there), ahead)

    def _extent(self, cu_seqlens: Int32) -> Extent:
        lengths = np.diff(cu_seqlens)
        return Extent(
            tokens=int(cu_seqlens[-1]),
            sequences=len(lengths),
            max_seqlen=int(lengths.max(initial=0)),
            max_seqlen_k=longest(cu_seqlens, self.prefix_of),
        )


def _spans(stem: str, extent: Extent, there: dict[str, Tensor]) -> CausalSpans:
    return CausalSpans(
        cu_seqlens=there[f"{stem}cu_seqlens"],
        max_seqlen_q=extent.max_seqlen,
        max_seqlen_k=extent.max_seqlen_k,
        prefix_of=there.get("prefix_of"),
        last=there[f"{stem}last"],
        cu_last=there["cu_last"],
    )


def _places(stem: str, cu_seqlens: Int32) -> dict[str, Array]:
    last: Int32 = cu_seqlens[1:] - np.int32(1)
    return {
        f"{stem}cu_seqlens": Array(cu_seqlens, "start"),
        f"{stem}last": Array(last, "sequence"),
    }
