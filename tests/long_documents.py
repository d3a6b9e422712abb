"""Windows of a long document, worked out one by one as `rerank` of jina-reranker-v2 does it."""

from typing import Any

import numpy as np
from prompts import rows

from packrank.text.pairs import PairReader

# Of a BERT of 40 positions, beside a query of two words.
WORDS = ["red", "blue", "fox", "owl"]
LIMIT = 40
ROOM = LIMIT - 3
OVER = ROOM - 2  # of a document beside a query of two words: just fits
LENGTHS = [0, 1, OVER - 1, OVER, OVER + 1, OVER + 26, OVER + 27, OVER + 28, 200]


def some_words(count: int, seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


DOCUMENTS = [some_words(length, n) for n, length in enumerate(LENGTHS)]
PAIRS = [(query, text) for query in ("red fox", "") for text in DOCUMENTS]
PAIRS += [(some_words(n, n), some_words(m, m)) for n in (18, 19, 34, 50) for m in (4, 19, 20, 60)]


def windows(ids: list[int], size: int) -> list[list[int]]:
    """Runs of `size` tokens, each 80 or a quarter before the end of the last; the last at the end.

    Source: modeling_xlm_roberta.py of jinaai/jina-reranker-v2-base-multilingual.
    """
    if len(ids) <= size:
        return [ids]
    overlap = min(80, size // 4)
    found, start = [], 0
    while start + size < len(ids):
        found.append(ids[start : start + size])
        start += size - overlap
    return [*found, ids[-size:]]


def halves(query: list[int], document: list[int], room: int) -> tuple[list[int], int]:
    """The query as it is cut where the longer text is, and what a window of the document has."""
    if len(query) + len(document) <= room:
        return query, len(document)
    if len(query) > room // 2 and len(document) > room // 2:
        # Of two texts that are as long the second counts as longer.
        longer = room - room // 2
        first, second = (longer, room // 2) if len(query) > len(document) else (room // 2, longer)
        return query[:first], second
    if len(query) > room // 2:
        return query[: room - len(document)], len(document)
    return query, room - len(query)


def read(layout: Any, pairs: list[tuple[Any, Any]]) -> list[list[list[int]]]:
    """The sequences of each pair; none of one that failed."""
    reader = PairReader(layout, 1 << 20, long_documents="windows")
    window = reader.window(pairs)
    assert window.num_pairs == len(pairs) and window.indices == sorted(window.indices)
    assert window.failures.keys().isdisjoint(window.indices)
    found: list[list[list[int]]] = [[] for _ in pairs]
    for place, ids in zip(window.indices, rows(window.sequences), strict=True):
        found[place].append(ids)
    return found
