"""What stands where a bucket has room to spare."""

import numpy as np
import pytest

from packrank.models.program import Extent, entries, fill

EXTENT = Extent(tokens=6, sequences=4, max_seqlen=64, max_seqlen_k=64)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("token_ids", [5, 7, 9], [5, 7, 9, 0, 0, 0]),
        ("cu_seqlens", [0, 1, 3], [0, 1, 3, 3, 3]),
        ("cu_last", [0, 1, 2], [0, 1, 2, 2, 2]),
        ("prefix_of", [-1, 0], [-1, 0, -1, -1]),
        ("last", [0, 2], [0, 2, 0, 0]),
        ("rows", [1], [1, 0, 0, 0, 0, 0]),
    ],
)
def test_an_array_goes_on_without_tokens_of_anybody(
    name: str, values: list[int], expected: list[int]
) -> None:
    target = np.full(entries(name, EXTENT), 99, dtype=np.int32)
    fill(target, name, np.array(values, dtype=np.int32))
    assert target.tolist() == expected
