"""What stands where a bucket has room to spare."""

from typing import Any

import numpy as np
import pytest

from packrank.models.program import Array, Extent

EXTENT = Extent(tokens=6, sequences=4, max_seqlen=64, max_seqlen_k=64)


@pytest.mark.parametrize(
    ("values", "per", "rest", "expected"),
    [
        ([5, 7, 9], "token", 0, [5, 7, 9, 0, 0, 0]),
        ([0, 1, 3], "start", 0, [0, 1, 3, 3, 3]),
        ([-1, 0], "sequence", -1, [-1, 0, -1, -1]),
        ([0, 2], "sequence", 0, [0, 2, 0, 0]),
        ([0, 1, 2, 3, 6], "start", 0, [0, 1, 2, 3, 6]),
    ],
)
def test_an_array_goes_on_without_tokens_of_anybody(
    values: list[int], per: Any, rest: int, expected: list[int]
) -> None:
    array = Array(np.array(values, dtype=np.int32), per, rest)
    target = np.full(array.room(EXTENT), 99, dtype=np.int32)
    array.fill(target)
    assert target.tolist() == expected
