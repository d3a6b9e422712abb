"""The table of published scores, and which model each is of."""

from pathlib import Path

import numpy as np
import pytest

from packrank.verify.published import PUBLISHED, published_of


def test_the_table_is_whole() -> None:
    for one in PUBLISHED:
        assert len(one.pairs) == len(one.logits) > 0
        assert np.isfinite(np.array(one.logits)).all()
        assert one.source.count(",") == 1, "who, and where"
        assert one.cutoff_layer is None or one.cutoff_layer > 0


@pytest.mark.parametrize(
    ("folder", "name", "count"),
    [
        ("/models/x", "BAAI/bge-reranker-large", 4),
        ("/models/bge-reranker-large", "/models/bge-reranker-large/", 4),
        ("/hub/models--BAAI--bge-reranker-v2-m3/snapshots/0a1b", "/hub/other", 2),
        ("/models/ms-marco-MiniLM-L-6-v2", ".", 1),
        ("/models/ms-marco-MiniLM-L12-v2", ".", 0),
        ("/models/bge-reranker-large-tuned", ".", 0),
    ],
)
def test_a_model_is_known_by_its_name(folder: str, name: str, count: int) -> None:
    assert len([*published_of(Path(folder), name)]) == count
