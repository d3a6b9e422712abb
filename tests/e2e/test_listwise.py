"""Listwise rerankers, from texts to rankings."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from listwise_folders import Jina, jina
from safetensors.torch import load_file, save_file

from packrank import InputError, Listwise, ModelError, PairError, Reranker, set_num_threads
from packrank.ordering.by_blocks import ByBlocks
from packrank.request import Pack, Ranking

QUERY = "what is a panda?"
DOCUMENTS = [
    "a panda is an animal",
    "it was the query of a document",
    "",
    "the passage 漢字 é",
    "what is the document",
    "a panda",
    "0 1 0 1",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Jina:
    return jina(tmp_path_factory.mktemp("jina"))


def scores_of(ranking: Ranking) -> np.ndarray:
    return np.array([score for _, score, _ in sorted(ranking)], dtype=np.float32)


def test_scores_are_those_of_transformers(model: Jina) -> None:
    ranking = Listwise(model.folder).rank(QUERY, DOCUMENTS)
    want = model.scores(QUERY, [DOCUMENTS])
    np.testing.assert_allclose(scores_of(ranking), want, rtol=0, atol=2e-5)
    assert [index for index, _, _ in ranking] == np.argsort(-want, kind="stable").tolist()
    assert ranking.num_layers.tolist() == [4] * 7
    assert ranking.calls is not None
    assert ranking.calls.prompts == 1
    assert ranking.calls.prompt_tokens > 200


def test_blocks_are_merged_by_weight(model: Jina) -> None:
    ranking = Listwise(model.folder, block_size=3).rank(QUERY, DOCUMENTS)
    want = model.scores(QUERY, [DOCUMENTS[:3], DOCUMENTS[3:6], DOCUMENTS[6:]])
    np.testing.assert_allclose(scores_of(ranking), want, rtol=0, atol=2e-5)
    assert ranking.calls is not None
    assert ranking.calls.prompts == 3
    alone = model.scores(QUERY, [DOCUMENTS])
    assert np.abs(want - alone).max() > 1e-3  # what blocks are made of counts


def test_an_instruction_counts(model: Jina) -> None:
    ranking = Listwise(model.folder, instruction="Find pandas").rank(QUERY, DOCUMENTS)
    want = model.scores(QUERY, [DOCUMENTS], "Find pandas")
    np.testing.assert_allclose(scores_of(ranking), want, rtol=0, atol=2e-5)


def test_bfloat16_stays_near(model: Jina) -> None:
    ranking = Listwise(model.folder, dtype="bfloat16").rank(QUERY, DOCUMENTS)
    want = model.scores(QUERY, [DOCUMENTS])
    np.testing.assert_allclose(scores_of(ranking), want, rtol=0, atol=0.1)


@pytest.mark.usefixtures("restored_threads")
def test_company_changes_no_bit(model: Jina) -> None:
    """Nor do budgets and threads; the order of documents does, which the model reads in a row."""
    listwise = Listwise(model.folder, block_size=3)
    alone = listwise.rank(QUERY, DOCUMENTS)
    others = [("it was", ["the", "panda"]), ("a", []), (QUERY, DOCUMENTS), ("漢", DOCUMENTS * 2)]
    assert listwise.rank_many(others)[2] == alone
    assert Listwise(model.folder, block_size=3, budget_tokens=300).rank(QUERY, DOCUMENTS) == alone
    set_num_threads(2)
    assert listwise.rank(QUERY, DOCUMENTS) == alone
    other_way = listwise.rank(QUERY, DOCUMENTS[::-1])
    assert not np.array_equal(scores_of(other_way)[::-1], scores_of(alone))


def test_documents_come_back_as_they_were_given(model: Jina) -> None:
    listwise = Listwise(model.folder)
    documents = [("x", DOCUMENTS[0]), {"id": 3, "title": "a", "text": "panda", "year": 1}]
    ranking = listwise.rank(QUERY, documents, top_k=1)
    assert len(ranking) == 1
    ranking = listwise.rank(QUERY, documents)
    by_index = {found.index: found for found in ranking}
    assert by_index[0].id == "x"
    assert by_index[1].id == "3"
    assert by_index[1].document == "a panda"
    assert by_index[1].metadata["year"] == 1
    texts = [DOCUMENTS[0], "a panda"]
    np.testing.assert_allclose(scores_of(ranking), model.scores(QUERY, [texts]), rtol=0, atol=2e-5)


def test_what_cannot_be_ranked_is_named(model: Jina) -> None:
    listwise = Listwise(model.folder)
    ranking, failures = listwise.try_rank(QUERY, ["a", None, "\ud800", "b"])  # type: ignore[list-item]
    assert sorted(found.index for found in ranking) == [0, 3]
    assert failures.keys() == {1, 2}
    assert ranking.num_layers.tolist() == [4, 0, 0, 4]
    np.testing.assert_allclose(
        scores_of(ranking), model.scores(QUERY, [["a", "b"]]), rtol=0, atol=2e-5
    )
    with pytest.raises(PairError, match=r"NoneType.*try_rank"):
        listwise.rank(QUERY, ["a", None])  # type: ignore[list-item]
    found = listwise.try_rank_many([("a", ["b"]), ("\ud800", ["a", "b"])])
    assert found[0][0] == listwise.rank("a", ["b"])
    assert found[1][0] == []
    assert found[1][1].keys() == {0, 1}
    with pytest.raises(InputError, match="lone surrogate"):
        listwise.rank("\ud800", ["a"])
    assert listwise.rank(QUERY, []) == []
    for top_k in (0, True, "1"):
        with pytest.raises(InputError, match="top_k is"):
            listwise.rank(QUERY, ["a"], top_k)  # type: ignore[arg-type]


def test_a_document_that_is_too_long_fails_alone(model: Jina) -> None:
    listwise = Listwise(model.folder, document_length=100000)
    documents = ["a", "panda " * 5000, "b"]
    ranking, failures = listwise.try_rank(QUERY, documents)
    assert failures.keys() == {1}
    assert "lower document_length or query_length" in failures[1]
    # A block ends that has no room for another document of this length.
    want = model.scores(QUERY, [["a"], ["b"]])
    np.testing.assert_allclose(scores_of(ranking), want, rtol=0, atol=2e-5)
    with pytest.raises(PairError, match="with its query it has"):
        listwise.rank(QUERY, documents)


def test_one_query_of_nan_fails_alone(model: Jina, monkeypatch: pytest.MonkeyPatch) -> None:
    right = ByBlocks._vectors

    def broken(self: ByBlocks, pack: Pack) -> list[np.ndarray]:
        first, *others = right(self, pack)
        return [np.where(np.arange(len(first))[:, None] == 1, np.nan, first), *others]

    monkeypatch.setattr(ByBlocks, "_vectors", broken)
    listwise = Listwise(model.folder)
    found = listwise.try_rank_many([("panda", ["a", "b"]), ("q", ["a", "b"])])
    assert found[0][1] == dict.fromkeys((0, 1), "the model's vectors for it are no finite numbers")
    assert found[0][0] == []
    assert found[0][0].num_layers.tolist() == [0, 0]
    assert len(found[1][0]) == 2
    with pytest.raises(PairError, match="no finite numbers"):
        listwise.rank("panda", ["a", "b"])


def test_it_is_pickled_as_its_call(model: Jina) -> None:
    listwise = Listwise(model.folder, block_size=2)
    again = pickle.loads(pickle.dumps(listwise))
    assert again.rank(QUERY, DOCUMENTS) == listwise.rank(QUERY, DOCUMENTS)


def test_other_doors_say_which_is_the_right_one(model: Jina, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a listwise reranker; Listwise ranks with it"):
        Reranker(model.folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((model.folder / name).read_bytes())
    tensors = load_file(model.folder / "model.safetensors")
    save_file(
        {n: x for n, x in tensors.items() if "projector.2" not in n}, tmp_path / "model.safetensors"
    )
    with pytest.raises(ModelError, match=r"has no projector.2.weight; is a file missing"):
        Listwise(tmp_path)
    save_file(tensors | {"projector.2.bias": torch.ones(16)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"projector.2.bias"):
        Listwise(tmp_path)
    raw = json.loads((model.folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"hidden_act": "nonsense"}))
    with pytest.raises(ModelError, match="nonsense"):
        Listwise(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_length": 0}, "query_length is 0"),
        ({"document_length": True}, "document_length is True"),
        ({"block_size": -1}, "block_size is -1"),
        ({"instruction": 3}, "instruction is a int"),
        ({"instruction": "\ud800"}, "the instruction holds a lone surrogate"),
        ({"device": ["cpu", "cpu"]}, "is ranked with on one device; name one"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"budget_tokens": 0}, "budget_tokens is 0"),
    ],
)
def test_options_are_checked(model: Jina, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Listwise(model.folder, **options)  # type: ignore[arg-type]
