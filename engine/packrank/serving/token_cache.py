"""Token ids of documents, kept as long as there is room for them."""

import sys
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from packrank.documents import Tokenization, TokenizedText

_OVERHEAD = 400  # bytes of an entry beside its text and its ids


class TokenCache:
    """Documents' token ids by text, the least recently used let go first. Threads may share it.

    Args:
        capacity: bytes of texts and ids together; 0 keeps nothing.

    Attributes:
        hits, misses: how many texts were found so far, and how many were not.
    """

    def __init__(self, capacity: int) -> None:
        self.hits = self.misses = 0
        self._capacity, self._used = capacity, 0
        self._kept: OrderedDict[tuple[Tokenization, str], tuple[TokenizedText, int]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def used(self) -> int:
        """Bytes of what is kept."""
        return self._used

    @property
    def is_on(self) -> bool:
        """Whether it keeps anything."""
        return self._capacity > 0

    def find(self, tokenization: Tokenization, texts: Sequence[str]) -> list[TokenizedText | None]:
        """What is known of these texts, in their order."""
        with self._lock:
            found = [self._kept.get((tokenization, text)) for text in texts]
            for text, one in zip(texts, found, strict=True):
                if one is not None:
                    self._kept.move_to_end((tokenization, text))
            self.hits += (hits := sum(one is not None for one in found))
            self.misses += len(texts) - hits
        return [None if one is None else one[0] for one in found]

    def keep(self, text: str, found: TokenizedText) -> None:
        """Keep one, and let others go for it."""
        size = _OVERHEAD + sys.getsizeof(text) + found.token_ids.nbytes
        if size > self._capacity:
            return
        with self._lock:
            key = found.tokenization, text
            if key in self._kept:
                return
            self._kept[key] = found, size
            self._used += size
            while self._used > self._capacity:
                self._used -= self._kept.popitem(last=False)[1][1]
