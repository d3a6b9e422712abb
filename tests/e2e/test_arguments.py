"""What callers hand over in place of lists of strings and whole numbers."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packrank import PairError, Reranker

TEXTS = ["red fox", "owl", "blue blue fox"]


def test_a_document_that_is_no_text_fails_alone(model: Path) -> None:
    reranker = Reranker(model)
    documents: Any = ["red fox", None, "owl", 7, float("nan")]
    want = reranker.rank("red", ["red fox", "owl"])
    for ranking, failures in (
        reranker.try_rank("red", documents),
        reranker.try_rank_many([("red", ["owl"]), ("red", documents)])[1],
    ):
        assert [(row.score, row.document) for row in ranking] == [
            (row.score, row.document) for row in want
        ]
        kinds = {index: reason.split()[4] for index, reason in failures.items()}
        assert kinds == {1: "NoneType,", 3: "int,", 4: "float,"}
    with pytest.raises(PairError, match=r"a NoneType.*try_rank scores the others") as error:
        reranker.rank("red", documents)
    assert error.value.index == 1


def test_one_pair_has_one_score(model: Path) -> None:
    reranker = Reranker(model)
    [want] = reranker.score([("red", "owl")])
    assert reranker.score(("red", "owl")) == want
    assert reranker.score(np.array(["red", "owl"])).shape == ()
    assert reranker.try_score(("red", "\ud800"))[1].keys() == {0}
    assert reranker.score([("red", "owl"), ("red", "fox")]).shape == (2,)


def test_numpys_texts_and_numbers_will_do(model: Path) -> None:
    plain = Reranker(model, max_length=7, budget_tokens=30)
    reranker = Reranker(model, max_length=np.int64(7), budget_tokens=np.int32(30))
    pairs = np.array([["red", "red fox owl blue fox"], ["owl", "fox"]])
    want = plain.score([tuple(pair) for pair in pairs.tolist()])
    assert reranker.score(pairs).tolist() == want.tolist()
    assert reranker.score(pairs.astype(object)).tolist() == want.tolist()
    ranked = reranker.rank(np.str_("red"), np.array(TEXTS), top_k=np.int64(2))
    assert ranked == plain.rank("red", TEXTS, top_k=2)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_is_opened_again_by_the_same_options(model: Path, copied: Any) -> None:
    reranker = Reranker(model, activation="identity", truncation="only_second", max_length=7)
    other = copied(reranker)
    assert other is not reranker
    assert other.max_length == 7
    pairs = [("red", "fox owl " * 9), ("owl", "blue")]
    assert other.score(pairs).tolist() == reranker.score(pairs).tolist()
    assert other.rank("red", TEXTS) == reranker.rank("red", TEXTS)


def test_a_pickle_is_opened_from_any_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    want = Reranker(model.name).score([("red", "fox")])
    pickled = [pickle.dumps(Reranker(model.name)), pickle.dumps(Reranker(model=Path(model.name)))]
    monkeypatch.chdir("/")
    assert [pickle.loads(one).score([("red", "fox")]) for one in pickled] == [want, want]
