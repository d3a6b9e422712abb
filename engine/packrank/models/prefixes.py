"""What the sequences of a query begin with, once: packs as decoders run them."""

from dataclasses import dataclass

import numpy as np

from packrank.request import Int32, Pack, spread


@dataclass(frozen=True)
class SharedPack:
    """A pack in which what several sequences begin with is a sequence of its own.

    Attributes:
        token_ids: [T] int32.
        cu_seqlens: [M + 1] int32. Where each sequence starts, then T: P prefixes, then what is left
            of the N sequences of the pack, in their order.
        prefix_of: [M] int32. Which sequence comes before each, -1: none.
    """

    token_ids: Int32
    cu_seqlens: Int32
    prefix_of: Int32

    @property
    def max_seqlen(self) -> int:
        """Tokens of the longest sequence, its prefix included."""
        return longest(self.cu_seqlens, self.prefix_of)


def longest(cu_seqlens: Int32, prefix_of: Int32) -> int:
    """Tokens of the longest sequence, its prefix included."""
    lengths = np.diff(cu_seqlens)
    return int((lengths + np.where(prefix_of < 0, 0, lengths[prefix_of])).max(initial=0))


def share_prefixes(pack: Pack) -> SharedPack:
    """The same tokens with every query's prefix once; all of them where no two have one in common.

    A prefix stands alone even where only one sequence has it: how a sequence is laid out does not
    depend on the others.
    """
    if pack.queries is None or pack.shared is None:
        alone = np.full(pack.num_sequences, -1, dtype=np.int32)
        return SharedPack(pack.token_ids, pack.cu_seqlens, alone)
    with_prefix = np.flatnonzero(pack.shared > 0)
    _, first, owner = np.unique(pack.queries[with_prefix], return_index=True, return_inverse=True)
    leaders = with_prefix[first]
    own = pack.cu_seqlens[:-1] + pack.shared
    starts = np.concatenate([pack.cu_seqlens[:-1][leaders], own])
    lengths = np.concatenate([pack.shared[leaders], pack.lengths - pack.shared])
    rows, cu_seqlens = spread(starts, lengths.astype(np.int32))
    prefix_of = np.full(len(lengths), -1, dtype=np.int32)
    prefix_of[len(leaders) + with_prefix] = owner
    return SharedPack(pack.token_ids[rows], cu_seqlens, prefix_of)
