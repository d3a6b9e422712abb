"""The mine_hard_negatives of sentence-transformers, on given scores: no model, no datasets."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.util import hard_negatives

Row = dict[str, Any]
Scores = Mapping[tuple[str, str], float]  # of (query, document)


class Dataset:
    """As much of the datasets package's as mining asks for: columns, and rows counted by query."""

    def __init__(self, columns: Mapping[str, list[Any]]) -> None:
        self.columns = columns
        self.column_names = list(columns)

    @classmethod
    def from_dict(cls, columns: Mapping[str, list[Any]]) -> "Dataset":
        return cls(columns)

    def __len__(self) -> int:
        return len(self.columns[self.column_names[0]])

    def __getitem__(self, name: str) -> list[Any]:
        return self.columns[name]

    def to_pandas(self) -> Any:
        def groupby(name: str) -> Any:
            counts = Counter(self.columns[name])
            counted = {other: counts for other in self.column_names if other != name}
            return SimpleNamespace(count=lambda: SimpleNamespace(to_dict=lambda: counted))

        return SimpleNamespace(groupby=groupby)

    def rows(self) -> list[Row]:
        values = zip(*self.columns.values(), strict=True)
        return [dict(zip(self.columns, row, strict=True)) for row in values]


class Model:
    """A bi-encoder and a cross-encoder with given scores; an embedding is a text's number."""

    device = torch.device("cpu")

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.texts: list[str] = []

    def encode_query(self, texts: Sequence[str], **_: Any) -> np.ndarray:
        self.texts.extend(texts)
        first = len(self.texts) - len(texts)
        return np.arange(first, len(self.texts))[:, None]

    encode_document = encode_query

    def _of(self, query: Any, document: Any) -> float:
        return self.scores[self.texts[query.item()], self.texts[document.item()]]

    def similarity(self, queries: Any, documents: Any) -> torch.Tensor:
        return torch.tensor([[self._of(one, other) for other in documents] for one in queries])

    def similarity_pairwise(self, queries: Any, documents: Any) -> torch.Tensor:
        pairs = zip(queries, documents, strict=True)
        return torch.tensor([self._of(one, other) for one, other in pairs])

    def predict(self, pairs: list[tuple[str, str]], **_: Any) -> torch.Tensor:
        return torch.tensor([self.scores[pair] for pair in pairs])


def mined_rows(
    pairs: Sequence[tuple[str, str]],
    corpus: Sequence[str],
    scores: Scores,
    found_by: Scores | None = None,
    **options: Any,
) -> list[Row]:
    """Its rows of (question, answer) pairs; found_by: what a bi-encoder says, scores another."""
    package = ModuleType("datasets")
    package.Dataset = Dataset  # type: ignore[attr-defined]
    queries, positives = (list(column) for column in zip(*pairs, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "datasets", package)
        patch.setattr(hard_negatives, "is_datasets_available", lambda: True)
        patch.setattr(hard_negatives, "trange", lambda *span, **_: range(*span))
        patch.setattr(hard_negatives, "tqdm", lambda coming, **_: coming)
        mined: Any = hard_negatives.mine_hard_negatives(
            Dataset({"question": queries, "answer": positives}),  # type: ignore[arg-type]
            Model(found_by or scores),  # type: ignore[arg-type]
            corpus=list(corpus),
            cross_encoder=Model(scores) if found_by else None,  # type: ignore[arg-type]
            verbose=False,
            **options,
        )
    rows: list[Row] = mined.rows()
    return rows
