"""Tables of a program's own, with their scores."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from packrank import InputError, Reranker
from packrank.scoring import table_batches


@pytest.fixture
def reranker(
    checkpoint: Callable[..., Path], save_tokenizer: Callable[..., None], tmp_path: Path
) -> Reranker:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(checkpoint("Bert", num_labels=1), folder)
    save_tokenizer(folder, "red blue fox owl")
    return Reranker(folder, device="cpu")


def test_pairs_come_back_with_scores_and_errors(
    reranker: Reranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_batches, "_ROWS", 3)
    documents = ["fox", None, "owl", "fox", " ", "red", "blue", "fox"]
    table = pa.table({"query": ["red"] * 8, "n": range(8), "document": documents})
    asked: list[int] = []

    def tables() -> Iterator[Any]:
        for start in (0, 4):
            asked.append(start)
            yield table.slice(start, 4)

    found = pa.concat_tables(reranker.score_batches(tables()))
    assert found.drop_columns(["score", "error"]) == table
    sound = [place for place, text in enumerate(documents) if text and text.strip()]
    want = np.full(8, np.nan, np.float32)
    want[sound] = reranker.score([("red", str(documents[place])) for place in sound])
    got = found["score"].to_numpy()
    np.testing.assert_array_equal(got, want)
    assert found.schema.field("score").type == pa.float32()
    errors = found["error"].to_pylist()
    assert [error is None for error in errors] == [place in sound for place in range(8)]
    assert errors[4] == '"document" is empty'
    raw = pa.concat_tables(reranker.score_batches([table], activation="identity"))["score"]
    assert raw[0].as_py() == reranker.score([("red", "fox")], activation="identity")[0]


def test_lists_and_training_lines(reranker: Reranker) -> None:
    table = pa.table(
        {
            "query": ["red", "blue", None, "owl"],
            "pos": [["fox"], ["fox", "owl"], ["fox"], None],
            "neg": [["owl", None], [], ["fox"], ["red"]],
        }
    )
    [found] = reranker.score_batches([table])
    one = {(q, d): reranker.score([(q, d)])[0].item() for q in ("red", "blue", "owl")
           for d in ("fox", "owl", "red")}  # fmt: skip
    assert found["pos_scores"].to_pylist() == [
        [one["red", "fox"]],
        [one["blue", "fox"], one["blue", "owl"]],
        [None],
        None,
    ]
    assert found["neg_scores"].to_pylist() == [
        [one["red", "owl"], None],
        [],
        [None],
        [one["owl", "red"]],
    ]
    errors = found["error"].to_pylist()
    assert errors[1] is None and str(errors[0]).startswith("neg 2: ") and errors[2] and errors[3]


class Frame:
    """As pandas and polars have tables: it exports one."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def test_what_exports_a_table_is_taken(reranker: Reranker) -> None:
    table = pa.table({"q": ["red", "blue"], "d": ["fox", "owl"]})
    found = list(
        reranker.score_batches(
            [Frame(table), table.to_batches()[0]],
            query_column="q",
            document_column="d",
            score_column="relevance",
        )
    )
    assert [one.num_rows for one in found] == [2, 2]
    assert found[0]["relevance"] == found[1]["relevance"]
    assert list(reranker.score_batches([])) == []
    [alone] = reranker.score_batches([pa.table({"query": [None], "document": ["a"]})])
    assert alone["score"].to_pylist() == [None]
    with pytest.raises(InputError, match="expected a table"):
        list(reranker.score_batches([3]))
    with pytest.raises(InputError, match="no column 'query'"):
        list(reranker.score_batches([pa.table({"a": [1]})]))
