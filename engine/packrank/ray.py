"""Pairs scored in pipelines of Ray Data: `Scorer`, a class for `Dataset.map_batches`.

`packrank score --ray` is for files; this is for a pipeline of one's own. It needs the extra:
`pip install 'packrank[ray]'`, on every node.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.arguments import check_str
from packrank.checkpoint.hub import HubOptions, resolve
from packrank.checkpoint.kind import LATE, RERANKERS, expect
from packrank.errors import InputError
from packrank.late_interaction import LateInteraction
from packrank.records.shapes import Asked, Problem, Shape, Side
from packrank.records.tables import arrow
from packrank.reranker import Reranker

__all__ = ["Scorer"]

_HUB = ("revision", "token", "cache_folder", "local_files_only")


class Scorer:
    """A reranker, or late interaction, as a stateful actor: batches of pairs, with their scores.

    Each actor opens the model once. A row that cannot be scored (no text, no Unicode, too long)
    has a null score and says why; it ends nothing. A score is what `Reranker.score` gives the pair.

    ```python
    import ray
    from packrank.ray import Scorer

    pairs = ray.data.read_parquet("s3://bucket/pairs")  # columns "query" and "document"
    scored = pairs.map_batches(
        Scorer,
        fn_constructor_kwargs={"model": "BAAI/bge-reranker-v2-m3", "max_length": 512},
        concurrency=2,  # actors
        num_gpus=1,  # of each
        batch_format="pyarrow",
        batch_size=4096,
    )
    scored.write_parquet("s3://bucket/scored")  # with "score" and "error"
    ```

    On processors `num_cpus` takes the place of `num_gpus`; Ray gives an actor as many threads.

    Attributes:
        model: that is open.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        query: str = "query",
        document: str = "document",
        score: str = "score",
        error: str = "error",
        cutoff_layer: int | None = None,
        **options: Any,
    ) -> None:
        """Open a model.

        Args:
            model: a folder that every node has, or a hub name.
            query: the column of queries.
            document: the column of documents; where there is a column "title" too, that goes
                before each.
            score: the column that scores go to.
            error: the column that says of a row without a score why.
            cutoff_layer: layers that a layerwise reranker runs, as `Reranker.rank` takes it.
            options: of `Reranker`, or of `LateInteraction`, whichever the model is for.

        Raises:
            ModelError: the folder or name cannot be used.
            InputError: an option cannot.
        """
        columns = {"query": query, "document": document, "score": score, "error": error}
        for name, column in columns.items():
            check_str(name, column)
        if len(set(columns.values())) < len(columns):
            raise InputError("query, document, score and error name four columns; two are the same")
        self.model = opened(model, **options)
        if cutoff_layer is not None and not isinstance(self.model, Reranker):
            raise InputError("cutoff_layer is for rerankers, and this model is late interaction")
        self._cutoff_layer, self._error = cutoff_layer, error
        has_title = "title" not in (query, document)
        self._shape = Shape(Side(query), (Side(document, scores=score, has_title=has_title),))

    def __call__(self, batch: Any) -> Any:
        """Score a batch.

        Args:
            batch: of N rows: a table of pyarrow, or arrays by column, as batch_format "pyarrow" and
                "numpy" have it.

        Returns:
            The same with two more columns. Scores are float32 [N], null (in arrays NaN) where there
            is none; of a model of several labels lists of them, in arrays [N, labels]. Errors are
            texts, null (None) where there is none. Columns of these names are replaced.

        Raises:
            InputError: a column is missing, or the batch is neither.
        """
        asked = [self._shape.pairs(row)[0][0] for row in self._rows(batch)]
        sound = [place for place, one in enumerate(asked) if isinstance(one, Asked)]
        errors = [one.reason if isinstance(one, Problem) else None for one in asked]
        found, failures = self._scored([tuple(asked[place]) for place in sound])
        scores = np.full((len(asked), *found.shape[1:]), np.nan, dtype=np.float32)
        scores[sound] = found
        for index, reason in failures.items():
            errors[sound[index]] = reason
        names = self._shape.documents[0].scores, self._error
        if isinstance(batch, Mapping):
            arrays = scores, np.array(errors, dtype=object)
            return {**batch, **dict(zip(names, arrays, strict=True))}
        return _added(batch, list(zip(names, _columns(scores, errors), strict=True)))

    def _rows(self, batch: Any) -> Iterable[dict[str, Any]]:
        if isinstance(batch, Mapping):
            names = list(batch)
        elif hasattr(batch, "column_names") and hasattr(batch, "to_pylist"):
            names = batch.column_names
        else:
            raise InputError(
                f'a batch is a {type(batch).__name__}; give map_batches batch_format="pyarrow" or '
                '"numpy"'
            )
        wanted = [self._shape.query.column, self._shape.documents[0].column]
        for name in wanted:
            if name not in names:
                there = ", ".join(map(repr, names))
                raise InputError(f"there is no column {name!r}; there are {there}")
        if "title" in names:
            wanted.append("title")
        if isinstance(batch, Mapping):
            columns = [batch[name] for name in wanted]
            return (dict(zip(wanted, row, strict=True)) for row in zip(*columns, strict=True))
        rows: list[dict[str, Any]] = batch.select(list(dict.fromkeys(wanted))).to_pylist()
        return rows

    def _scored(self, pairs: list[Any]) -> tuple[NDArray[np.float32], dict[int, str]]:
        """[N] or [N, labels] float32, and index -> reason of those that have none."""
        if not isinstance(self.model, Reranker):
            return self.model.try_score(pairs)
        return self.model.try_score(pairs, cutoff_layers=self._cutoff_layer)


def opened(model: str | os.PathLike[str], **options: Any) -> Reranker | LateInteraction:
    """The model of a folder or hub name, by the front door that it is for.

    Args:
        model: a folder, or a hub name.
        options: of that door.

    Raises:
        ModelError: the folder or name cannot be used.
        InputError: an option cannot.
    """
    hub = HubOptions(**{name: options[name] for name in _HUB if name in options})
    is_reranker = expect(resolve(model, hub), RERANKERS + LATE) in RERANKERS
    return Reranker(model, **options) if is_reranker else LateInteraction(model, **options)


def _added(table: Any, columns: list[tuple[str, Any]]) -> Any:
    """A table of pyarrow with columns added, or in the place of those of their names."""
    for name, column in columns:
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table


def _columns(scores: NDArray[np.float32], errors: list[str | None]) -> tuple[Any, Any]:
    """As pyarrow has them, null where there is none."""
    pyarrow = arrow("batches are tables of Arrow")
    reasons = pyarrow.array(errors, pyarrow.string())
    if scores.ndim == 1:
        failed = np.array([error is not None for error in errors], dtype=np.bool_)
        return pyarrow.array(scores, pyarrow.float32(), mask=failed), reasons
    rows = zip(scores.tolist(), errors, strict=True)
    lists = [row if error is None else None for row, error in rows]
    return pyarrow.array(lists, pyarrow.list_(pyarrow.float32())), reasons
