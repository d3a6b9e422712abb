"""Batches as Ray Data gives them, with their scores; Ray itself is in tests/peers/ray."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

from packrank import InputError, LateInteraction, ModelError, Reranker
from packrank.ray import Scorer

PAIRS = [("red fox", "blue owl"), ("owl", "fox"), ("red fox", "blue owl"), ("blue", "red red owl")]


@pytest.fixture(scope="module")
def folders(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    made = {}
    for name, options in {
        "one": {"num_labels": 1},
        "three": {"num_labels": 3},
        "late": {"suffix": "Model"},
    }.items():
        made[name] = tmp_path_factory.mktemp("models") / name
        shutil.copytree(checkpoint("Bert", **options), made[name])
        save_tokenizer(made[name], "red blue fox owl")
    return made


def table(**more: Any) -> pyarrow.Table:
    queries, documents = zip(*PAIRS, strict=True)
    return pyarrow.table({"id": [7, 8, 9, 10], "query": queries, "document": documents, **more})


def test_scores_are_those_of_the_reranker(folders: dict[str, Path]) -> None:
    wanted = Reranker(folders["one"]).score(PAIRS)
    scorer = Scorer(folders["one"])
    found = scorer(table())
    assert found.schema.field("score").type == pyarrow.float32()
    assert found.schema.field("error").type == pyarrow.string()
    assert found.drop_columns(["score", "error"]).equals(table())
    np.testing.assert_array_equal(found["score"].to_numpy(), wanted)
    assert found["error"].null_count == 4
    arrays = {name: np.array(column, dtype=object) for name, column in table().to_pydict().items()}
    given = dict(arrays)
    out = scorer(arrays)
    assert list(out) == ["id", "query", "document", "score", "error"]
    assert out["score"].dtype == np.float32
    np.testing.assert_array_equal(out["score"], wanted)
    assert out["error"].tolist() == [None] * 4
    assert arrays.keys() == given.keys()


def test_a_bad_row_has_an_error_and_no_score(folders: dict[str, Path]) -> None:
    queries = ["red", None, "fox", "owl", "red"]
    documents = ["fox", "owl", " ", "red " * 60, "blue"]
    batch = pyarrow.table({"query": queries, "document": documents})
    scorer = Scorer(folders["one"], truncation="off")
    found = scorer(batch)
    wanted = Reranker(folders["one"]).score([("red", "fox"), ("red", "blue")])
    assert found["score"].to_pylist() == [wanted[0], None, None, None, wanted[1]]
    errors = found["error"].to_pylist()
    assert errors[0] is errors[4] is None
    assert errors[1:3] == ['there is no "query", or it is null', '"document" is empty']
    assert "tokens, more than" in errors[3]
    arrays: dict[str, Any] = {
        "query": np.array([3, "red", "a\ud800"], dtype=object),
        "document": np.array(["fox", "fox", "fox"]),
    }
    out = scorer(arrays)
    np.testing.assert_array_equal(np.isnan(out["score"]), [True, False, True])
    assert out["error"][0] == '"query" is 3, expected a text'
    assert out["error"][1] is None


def test_lists_of_scores_of_several_labels(folders: dict[str, Path]) -> None:
    scorer = Scorer(folders["three"], activation="softmax")
    wanted = Reranker(folders["three"], activation="softmax").score(PAIRS)
    batch = table().set_column(2, "document", pyarrow.array([None, *(d for _, d in PAIRS[1:])]))
    found = scorer(batch)
    assert found.schema.field("score").type == pyarrow.list_(pyarrow.float32())
    assert found["score"].to_pylist() == [None, *wanted[1:].tolist()]
    empty = scorer(table().slice(0, 0))
    assert empty.schema == found.schema and len(empty) == 0
    arrays = scorer({"query": np.array(["red"]), "document": np.array([None], dtype=object)})
    assert arrays["score"].shape == (1, 3) and np.isnan(arrays["score"]).all()


def test_columns_have_the_names_that_are_given(folders: dict[str, Path]) -> None:
    batch = table(title=["owl", None, "fox", "red"], score=["old", "old", "old", "old"])
    batch = batch.rename_columns(["id", "q", "d", "title", "score"])
    found = Scorer(folders["one"], query="q", document="d", error="why")(batch)
    assert found.column_names == ["id", "q", "d", "title", "score", "why"]
    titles = zip(PAIRS, batch["title"].to_pylist(), strict=True)
    titled = [(q, d if title is None else f"{title} {d}") for (q, d), title in titles]
    np.testing.assert_array_equal(found["score"].to_numpy(), Reranker(folders["one"]).score(titled))


def test_late_interaction_scores_by_its_own_door(folders: dict[str, Path]) -> None:
    scorer = Scorer(folders["late"], document_length=4)
    assert isinstance(scorer.model, LateInteraction)
    wanted = LateInteraction(folders["late"], document_length=4).score(PAIRS)
    np.testing.assert_array_equal(scorer(table())["score"].to_numpy(), wanted)
    with pytest.raises(InputError, match="cutoff_layer is for rerankers"):
        Scorer(folders["late"], cutoff_layer=1)


def test_what_is_wrong_for_all_rows_is_raised(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="no/such/model"):
        Scorer("no/such/model", local_files_only=True)
    with pytest.raises(InputError, match="name four columns; two are the same"):
        Scorer(folders["one"], score="error")
    scorer = Scorer(folders["one"])
    with pytest.raises(InputError, match="no column 'document'; there are 'id', 'query'"):
        scorer(table().select(["id", "query"]))
    with pytest.raises(InputError, match='a batch is a list; give map_batches batch_format="pyarr'):
        scorer([{"query": "red", "document": "fox"}])


def test_the_class_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(Scorer)) is Scorer
