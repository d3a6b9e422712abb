"""Pages of a cache of keys and values: how many there are, and which are free. Knows no tensor."""

import os

import torch

from packrank.errors import InputError

# Of a cache whose size nobody says, on a CPU: 16 prompts of 4000 tokens of a model like Mistral-7B
# take twice as much in bfloat16, of one like Qwen2.5-0.5B a fifth. Of a CUDA device, this share of
# what is free once the model is there.
CPU_CACHE_BYTES = 4 << 30
_SHARE = 0.5


class Pages:
    """Which pages are free. The last to be given back is the next to be taken.

    Any page serves any sequence, so there is no hole that none fits: of a sequence's pages only the
    last is not full.

    Args:
        count: of all pages, numbered from 0.
        size: tokens of a page.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._free = list(range(count))[::-1]

    @classmethod
    def within(cls, limit: int, page_bytes: int, size: int) -> "Pages":
        """As many as take no more than `limit` bytes together.

        Raises:
            InputError: not even one does.
        """
        count = limit // page_bytes
        if count < 1:
            raise InputError(
                f"cache_bytes is {limit}, and one page of {size} tokens takes {page_bytes}"
            )
        return cls(count, size)

    def __len__(self) -> int:
        """How many are free."""
        return len(self._free)

    @property
    def tokens(self) -> int:
        """That all of them hold."""
        return self.count * self.size

    def needed(self, tokens: int) -> int:
        """Pages of a sequence of so many tokens."""
        return -(-tokens // self.size)

    def take(self, count: int) -> list[int]:
        """So many, which must be free."""
        assert 0 <= count <= len(self)
        start = len(self) - count
        taken, self._free[start:] = self._free[start:][::-1], []
        return taken

    def give_back(self, pages: list[int]) -> None:
        """They are free again."""
        self._free += pages[::-1]


def default_cache_bytes(device: torch.device) -> int:
    """Of a cache on this device, where nobody says."""
    if device.type == "cuda":
        return int(_SHARE * torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(CPU_CACHE_BYTES, int(_SHARE * free))
