"""Documents of a store rank as their texts do, and which store fits which model."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from packrank import InputError, LateInteraction, Store, StoreError, StoreWriter
from packrank.stores.appender import Appender
from packrank_kernels import TokenEmbeddings

QUERIES = ["the sea", "", "a longer query of more words than the others", "sea sea the sea"]
DOCUMENTS = ["the sea a sea", "", "boat", "sea", "a longer document of words " * 5, "boat"]
IDS = [f"{document[:3]} {place}" for place, document in enumerate(DOCUMENTS)]
CONFIG = {"model_type": "ColBERT", "query_length": 16, "document_length": 24}


@pytest.fixture(scope="module")
def folder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("late") / "model"
    shutil.copytree(checkpoint("Bert", "Model"), path)
    save_tokenizer(path, "the sea a boat longer query document of more words than others")
    (path / "config_sentence_transformers.json").write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> LateInteraction:
    return LateInteraction(folder, device="cpu")


@pytest.fixture(scope="module")
def store(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """DOCUMENTS in float32, their ids their first characters and places."""
    path = tmp_path_factory.mktemp("stores") / "store"
    model = LateInteraction(folder, device="cpu")
    with Appender(path) as writer:
        writer.create("float32", model.size, model.identity)
        writer.append(IDS, model.encode_documents(DOCUMENTS))
        writer.commit()
    return Store.open(path)


@pytest.fixture(scope="module")
def stored(folder: Path, store: Store) -> LateInteraction:
    return LateInteraction(folder, device="cpu", store=store.path)


def test_a_store_ranks_as_its_texts_do(stored: LateInteraction) -> None:
    for query in QUERIES:
        expected = [(r.index, r.score, IDS[r.index]) for r in stored.rank(query, DOCUMENTS)]
        assert stored.rank(query) == expected
        assert stored.rank(query, top_k=2) == expected[:2]
        assert stored.rank(query, candidates=IDS[::-1], top_k=1)[0].score == expected[0][1]
        some = [expected[4], expected[0]]
        assert stored.rank(query, candidates=[id for *_, id in some]) == some[::-1]
    assert stored.rank("sea", candidates=[]) == []
    assert stored.store is not None and len(stored.store) == len(DOCUMENTS)


def test_the_best_are_those_of_all(
    stored: LateInteraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few scores are looked at at once."""
    expected = stored.rank("the sea")
    monkeypatch.setattr("packrank.late.attached._SCORES_AT_ONCE", 2)
    for top_k in range(1, 8):
        assert stored.rank("the sea", top_k=top_k) == expected[:top_k]


def test_equal_scores_keep_the_order_given_or_that_of_the_store(stored: LateInteraction) -> None:
    twins = [IDS[5], IDS[2]]  # the same text
    assert [r.id for r in stored.rank("sea", candidates=twins)] == twins
    assert [r.id for r in stored.rank("sea", candidates=twins[::-1])] == twins[::-1]
    places = [r.index for r in stored.rank("sea")]
    assert places.index(2) + 1 == places.index(5)


def test_the_mean_of_a_store_is_that_of_texts(folder: Path, store: Store) -> None:
    model = LateInteraction(folder, device="cpu", store=store)
    model.settings = replace(model.settings, mean=True)
    texts = [(r.index, r.score) for r in model.rank("the sea", DOCUMENTS)]
    assert [(r.index, r.score) for r in model.rank("the sea")] == texts
    total = LateInteraction(folder, device="cpu").rank("the sea", DOCUMENTS)
    assert np.float32(total[0].score) / np.float32(16) == np.float32(texts[0][1])


def test_exact_scores_are_those_of_decoded_vectors(folder: Path, tmp_path: Path) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(40, 60)).split([8, 7, 0, 9, 8, 8])
    embeddings = TokenEmbeddings.encode(vectors, "int8")
    model = LateInteraction(folder, device="cpu", store=Store(tmp_path, embeddings, [*"abcdef"]))
    decoded = [embeddings.decode(index) for index in range(6)]
    wanted = model.similarity(model.encode_queries(["the sea"])[0], decoded)
    order = np.argsort(-wanted, kind="stable").tolist()
    expected = [("abcdef"[index], wanted[index]) for index in order]
    assert [(r.id, r.score) for r in model.rank("the sea", exact=True)] == expected
    assert [(r.id, r.score) for r in model.rank("the sea", top_k=3, exact=6)] == expected[:3]
    rounded = model.rank("the sea", top_k=2)
    assert {r.score for r in rounded}.isdisjoint(score for _, score in expected[:2])
    anew = model.rank("the sea", top_k=2, candidates=["f", "a", "b", "d"], exact=2)
    own = model.rank("the sea", top_k=2, candidates=["f", "a", "b", "d"])
    assert {r.id for r in anew} == {r.id for r in own}
    assert all((r.id, r.score) in expected for r in anew)
    with pytest.raises(InputError, match="exact is 1 and top_k 2"):
        model.rank("the sea", top_k=2, exact=1)
    assert model.rank("the sea", ["a sea"], exact=True) == model.rank("the sea", ["a sea"])


def test_documents_without_vectors_are_last_and_broken_ones_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = list(torch.nn.functional.normalize(torch.randn(9, 60)).split([3, 1, 0, 2, 3]))
    vectors[0] = vectors[0] * float("nan")
    vectors[3][:, 0] = torch.tensor([1, -1]) * float("inf")  # its score is infinite
    embeddings = TokenEmbeddings.encode(vectors, "float32")
    model = LateInteraction(folder, device="cpu", store=Store(tmp_path, embeddings, [*"abcde"]))
    reason = "its score is not a finite number"
    ranking, failures = model.try_rank("sea")
    assert [r.id for r in ranking][2:] == ["c"]
    assert ranking[-1].score == -np.inf
    assert {r.id for r in ranking} == {"b", "c", "e"}
    assert failures == {0: reason, 3: reason}
    assert model.try_rank("sea", top_k=1) == (ranking[:1], failures)
    assert model.try_rank("sea", exact=True) == (ranking, failures)
    assert model.try_rank("sea", top_k=1, exact=2) == (ranking[:1], failures)
    assert model.try_rank("sea", candidates=["d", "c", "e", "d"])[1] == {3: reason}
    monkeypatch.setattr("packrank.late.attached._SCORES_AT_ONCE", 2)
    assert [model.try_rank("sea", top_k=k) for k in (2, 4)] == [
        (ranking[:2], failures),
        (ranking, failures),
    ]
    with pytest.raises(InputError, match=f"document 'a' of the store: {reason}"):
        model.rank("sea")
    with pytest.raises(InputError, match=f"document 'd' of the store: {reason}"):
        model.rank("sea", candidates=["c", "d"])


def test_refuses_another_store(model: LateInteraction, stored: LateInteraction) -> None:
    for call, message in (
        (lambda: model.rank("sea"), "there is no store; attach one, or give documents"),
        (lambda: stored.rank("sea", candidates=["x"]), "no document of .* has the id 'x'"),
        (lambda: stored.rank("sea", candidates="abc"), "candidates is a str, expected"),
        (lambda: stored.rank("sea", ["a"], candidates=["x"]), "leave documents out"),
        (lambda: stored.rank("sea", top_k=0), "top_k is 0"),
        (lambda: stored.rank("\ud800"), "the query holds a lone surrogate"),
        (lambda: stored.rank(7), "query is a int"),  # type: ignore[call-overload]
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_refuses_a_store_of_another_model(tmp_path: Path, folder: Path, store: Store) -> None:
    narrow = Store(tmp_path, TokenEmbeddings.encode([torch.ones(1, 4)], "int8"), ["a"])
    with pytest.raises(StoreError, match="holds vectors of 4 dimensions, and the model makes 60"):
        LateInteraction(folder, device="cpu", store=narrow)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = other / "config_sentence_transformers.json"
    config.write_text(json.dumps(CONFIG | {"document_prefix": "sea"}))
    with pytest.raises(StoreError, match=f"was encoded by {folder}, and {other} is another model"):
        LateInteraction(other, device="cpu", store=store)
    with pytest.raises(StoreError, match="is not there; pass a folder"):
        LateInteraction(folder, device="cpu", store=tmp_path / "nowhere")
    foreign = Store(tmp_path, store.embeddings, IDS)  # of an index, which names no model
    assert LateInteraction(other, device="cpu", store=foreign).rank("sea")


def test_a_model_is_the_files_that_it_is_loaded_from(folder: Path, tmp_path: Path) -> None:
    path = shutil.copytree(folder, tmp_path / "model")
    dense = {"in_features": 60, "out_features": 4, "bias": False}
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Dense", "type": "pylate.models.Dense"},
        {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},  # has no folder
    ]
    (path / "1_Dense").mkdir()
    (path / "1_Dense/config.json").write_text(json.dumps(dense))
    (path / "modules.json").write_text(json.dumps(modules))
    weights = path / "1_Dense/model.safetensors"
    save_file({"linear.weight": torch.ones(4, 60)}, weights)
    LateInteraction(path, device="cpu").encode_documents(["sea"], path / "passages.store")
    (path / "results.json").write_text("{}")
    (path / "onnx").mkdir()
    (path / "onnx/config.json").write_text("{}")
    LateInteraction(path, device="cpu").encode_documents(["boat"], path / "passages.store")
    assert len(Store.open(path / "passages.store")) == 2
    save_file({"linear.weight": torch.zeros(4, 60)}, weights)
    with pytest.raises(StoreError, match=f"encoded by {path}, and its files have changed; name"):
        LateInteraction(path, device="cpu", store=path / "passages.store")


def test_a_store_is_attached_to_a_model_that_is_loaded(folder: Path, tmp_path: Path) -> None:
    model = LateInteraction(folder, device="cpu")
    assert model.store is None
    for name, texts in (("one", ["sea", "boat"]), ("two", ["a longer query", "sea"])):
        model.encode_documents(texts, tmp_path / name)
        model.attach(tmp_path / name)
        assert model.store is not None and model.store.path == tmp_path / name
        expected = LateInteraction(folder, device="cpu", store=tmp_path / name).rank("the sea")
        assert model.rank("the sea") == expected
    model.encode_documents(["the sea"], tmp_path / "two")
    assert len(model.rank("sea")) == 2
    model.attach(Store.open(tmp_path / "two"))
    assert len(model.rank("sea")) == 3
    with pytest.raises(StoreError, match="is not there"):
        model.attach(tmp_path / "three")
    assert len(model.rank("sea")) == 3


def test_threads_rank_while_stores_are_attached(folder: Path, tmp_path: Path) -> None:
    """Each ranking is of one store, whole."""
    model = LateInteraction(folder, device="cpu")
    stores = []
    for count in (2, 5):
        model.encode_documents(["sea"] * count, tmp_path / str(count))
        stores.append(Store.open(tmp_path / str(count)))
    model.attach(stores[0])
    model.rank("sea")
    with ThreadPoolExecutor(3) as pool:
        ranked = [pool.submit(model.rank, "sea") for _ in range(40)]
        for turn in range(40):
            model.attach(stores[turn % 2])
    assert {len(future.result()) for future in ranked} <= {2, 5}


def test_an_index_of_another_checkpoint_is_said(folder: Path, store: Store) -> None:
    def named(name: str) -> Store:
        index = Store(store.path, store.embeddings, IDS)
        index.model = {"name": name}
        return index

    with pytest.warns(UserWarning, match="names colbert-ir/colbertv2.0 as its model"):
        model = LateInteraction(folder, device="cpu", store=named("colbert-ir/colbertv2.0"))
    assert model.rank("sea")
    for name in ("organisation/model", "/elsewhere/MODEL/", str(folder)):
        model.attach(named(name))


def test_a_store_of_vectors_from_elsewhere_is_attached_by_what_it_says(
    model: LateInteraction, folder: Path, tmp_path: Path
) -> None:
    """Its model's identity: to that model. A name: with a warning. Nothing: to any of its size."""
    vectors = model.encode_documents(DOCUMENTS)
    known = {"nothing": None, "name": "colbert-x", "identity": model.identity}
    for name, said in known.items():
        with StoreWriter(tmp_path / name, format="float32", model=said) as writer:
            writer.append(IDS, vectors)
    stored = LateInteraction(folder, device="cpu")
    other = LateInteraction(folder, device="cpu", document_length=9)
    expected = [(r.index, r.score, IDS[r.index]) for r in stored.rank("the sea", DOCUMENTS)]
    for name in ("nothing", "identity"):
        stored.attach(tmp_path / name)
        assert stored.rank("the sea") == expected
    other.attach(tmp_path / "nothing")
    with pytest.warns(UserWarning, match="names colbert-x as its model, and this one is"):
        other.attach(tmp_path / "name")
    with pytest.raises(StoreError, match="document_length 24, and this model cuts documents to 9"):
        other.attach(tmp_path / "identity")
    assert other.store is not None and other.store.path == tmp_path / "name"
    with StoreWriter(tmp_path / "narrow") as writer:
        writer.append(["a"], [torch.ones(1, 4)])
    with pytest.raises(StoreError, match="holds vectors of 4 dimensions, and the model makes 60"):
        stored.attach(tmp_path / "narrow")


def test_a_store_is_let_go_of(folder: Path, store: Store) -> None:
    stored = LateInteraction(folder, device="cpu", store=store.path)
    stored.attach(None)
    assert stored.store is None and pickle.loads(pickle.dumps(stored)).store is None
    with pytest.raises(InputError, match="there is no store; attach one"):
        stored.rank("sea")
    stored.attach(store.path)
    assert stored.rank("sea") and pickle.loads(pickle.dumps(stored)).store is not None
    with pytest.raises(InputError, match="the path of a store is a int"):
        stored.attach(7)  # type: ignore[arg-type]
    assert stored.store is not None


def test_a_store_that_is_cut_off_meanwhile(folder: Path, tmp_path: Path) -> None:
    LateInteraction(folder, device="cpu").encode_documents(["red fox", "sea"], tmp_path / "store")
    stored = LateInteraction(folder, device="cpu", store=tmp_path / "store")
    os.truncate(tmp_path / "store/values.bin", 1)
    for call in (lambda: stored.rank("sea"), lambda: stored.explain("sea", "sea", candidate="1")):
        with pytest.raises(StoreError, match="was cut off while it was open"):
            call()
