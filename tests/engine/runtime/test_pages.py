"""Pages of a cache: taken and given back, and never more bytes than were allowed."""

import random

import pytest
import torch

from packrank.errors import InputError
from packrank.runtime.pages import CPU_CACHE_BYTES, Pages, default_cache_bytes


def test_every_page_is_of_one_taker() -> None:
    rng, pages = random.Random(0), Pages(50, 4)
    held: list[list[int]] = []
    for _ in range(2000):
        if rng.random() < 0.5 and len(pages):
            held.append(pages.take(rng.randint(0, len(pages))))
        elif held:
            pages.give_back(held.pop(rng.randrange(len(held))))
        taken = [number for one in held for number in one]
        assert len(set(taken)) == len(taken) == 50 - len(pages)
        assert all(0 <= number < 50 for number in taken)
    for one in held:
        pages.give_back(one)
    assert sorted(pages.take(50)) == list(range(50))


def test_the_last_given_back_is_the_next_taken() -> None:
    pages = Pages(9, 4)
    first, second = pages.take(2), pages.take(3)
    assert (first, second) == ([0, 1], [2, 3, 4])
    pages.give_back(second)
    assert pages.take(4) == [2, 3, 4, 5]


def test_as_many_as_fit() -> None:
    pages = Pages.within(1000, 300, 16)
    assert (pages.count, len(pages), pages.tokens) == (3, 3, 48)
    assert [pages.needed(tokens) for tokens in (0, 1, 16, 17)] == [0, 1, 1, 2]
    with pytest.raises(InputError, match="cache_bytes is 299, and one page of 16 tokens takes 300"):
        Pages.within(299, 300, 16)


def test_a_cache_of_nobodys_size_leaves_memory() -> None:
    assert 0 < default_cache_bytes(torch.device("cpu")) <= CPU_CACHE_BYTES
