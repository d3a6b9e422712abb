"""Token ids by text: found again, bounded in bytes, the least recently used let go."""

import tracemalloc

import numpy as np
import pytest

from packrank.documents import Tokenization, TokenizedText
from packrank.serving.token_cache import TokenCache

HERE, THERE = Tokenization("m", "abc"), Tokenization("m", "other")


def ids(count: int, tokenization: Tokenization = HERE) -> TokenizedText:
    return TokenizedText(np.zeros(count, dtype=np.int32), tokenization)


def test_what_was_kept_is_found_by_text_and_tokenization() -> None:
    cache, one = TokenCache(10_000), ids(3)
    cache.keep("a", one)
    assert cache.find(HERE, ["a", "b"]) == [one, None]
    assert cache.find(THERE, ["a"]) == [None]
    assert (cache.hits, cache.misses) == (1, 2)


def test_bytes_are_bounded_and_the_least_recently_used_goes() -> None:
    one = TokenCache(10_000)
    one.keep("a", ids(10))
    cache = TokenCache(3 * one.used)
    for text in "abc":
        cache.keep(text, ids(10))
    assert len(cache) == 3
    cache.find(HERE, ["a"])
    cache.keep("d", ids(10))
    assert [one is not None for one in cache.find(HERE, list("abcd"))] == [True, False, True, True]
    assert cache.used == 3 * one.used
    cache.keep("e" * 5000, ids(10))
    assert len(cache) == 3  # one that is larger than all is not kept


def test_keeping_twice_counts_once() -> None:
    cache = TokenCache(10_000)
    cache.keep("a", ids(3))
    used = cache.used
    cache.keep("a", ids(3))
    assert cache.used == used


@pytest.mark.parametrize("letter", "xö日😀")
@pytest.mark.parametrize("length", [5, 400])
def test_its_bytes_are_those_of_the_process(letter: str, length: int) -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        cache = TokenCache(1 << 20)
        for n in range(4000):
            cache.keep(f"{n}{letter * length}", ids(length // 4))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.9 < cache.used / (1 << 20) <= 1
    assert 0.85 < taken / cache.used < 1.2


def test_no_room_is_off() -> None:
    cache = TokenCache(0)
    cache.keep("", ids(0))
    assert not cache.is_on and len(cache) == 0
