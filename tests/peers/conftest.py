"""A server over a small reranker of random weights, for the peers that are clients of one."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from served_process import serving

KEY = "secret"
Want = Callable[..., list[tuple[int, float]]]


@pytest.fixture(scope="session")
def small_reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from packrank.bench.subjects.checkpoints import write_checkpoint
    from packrank.bench.subjects.shapes import SHAPES

    shape = replace(SHAPES["MiniLM-L6"], layers=2, hidden=64, heads=4, inner=96)
    return write_checkpoint(shape, tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def address(small_reranker: Path) -> Iterator[str]:
    """Of a server that wants the key "secret"."""
    with serving(small_reranker, "--api-key", KEY) as address:
        yield address


@pytest.fixture(scope="session")
def want(small_reranker: Path) -> Want:
    """want(query, documents, top_k): (index, score) each, best first, by the model itself.

    `logits` are of the same order.
    """
    from packrank import Reranker

    model = Reranker(small_reranker, activation="sigmoid", device="cpu")

    def ranked(
        query: str,
        documents: list[str],
        top_k: int | None = None,
        logits: bool = False,
        **options: Any,
    ) -> list[tuple[int, float]]:
        found = model.rank(query, documents, top_k, **options)
        if not logits:
            return [(one.index, one.score) for one in found]
        values = model.score([(query, one) for one in documents], activation="identity").tolist()
        return [(one.index, values[one.index]) for one in found]

    return ranked
