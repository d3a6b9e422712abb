"""Late interaction over HTTP: its scores, documents of a store by their ids, explanations."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from packrank import LateInteraction

Serve = Callable[..., TestClient]
DOCUMENTS = ["red fox", "owl", "", "a red owl sees the fox", "?"]
IDS = ["d1", "ä", "d3"]
STORED = ["owl", "red fox sees", "the fox"]
LOWEST = float(np.finfo(np.float32).min)


@pytest.fixture(scope="module")
def folder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A model that scores no token of "?", nor special ones, and cuts documents to 20."""
    folder = tmp_path_factory.mktemp("late") / "model"
    shutil.copytree(checkpoint("Bert", "Model"), folder)
    save_tokenizer(folder, "red fox owl a sees the ? [Q] [D]")
    kinds = {"": "sentence_transformers.models.Transformer", "1_Dense": "pylate.models.Dense.Dense"}
    dense = {"in_features": 60, "out_features": 8, "bias": False}
    settings = {
        "model_type": "ColBERT", "query_prefix": "[Q]", "document_prefix": "[D]",
        "query_length": 12, "document_length": 20,
        "skiplist_words": ["[CLS]", "[SEP]", "[D]", "?"],
    }  # fmt: skip
    files: dict[str, Any] = {
        "modules.json": [{"path": path, "type": kind} for path, kind in kinds.items()],
        "config_sentence_transformers.json": settings,
        "1_Dense/config.json": dense,
    }
    (folder / "1_Dense").mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    weight = torch.randn(8, 60, generator=torch.Generator().manual_seed(3))
    save_file({"linear.weight": weight}, folder / "1_Dense/model.safetensors")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LateInteraction:
    store = tmp_path_factory.mktemp("stores") / "store"
    LateInteraction(folder, device="cpu").encode_documents(STORED, store, IDS)
    return LateInteraction(folder, store=store, device="cpu")


@pytest.fixture
def client(serve: Serve, model: LateInteraction) -> TestClient:
    return serve(model)


def ranked(model: LateInteraction) -> list[tuple[int, float]]:
    """JSON has no -inf, which a document without vectors scores: it comes last all the same."""
    found = [(one.index, max(one.score, LOWEST)) for one in model.rank("red fox", DOCUMENTS)]
    assert {index for index, score in found if score == LOWEST} == {2, 4}
    return found


def test_texts_are_ranked_as_the_model_ranks_them(
    client: TestClient, model: LateInteraction
) -> None:
    body = {"query": "red fox", "documents": DOCUMENTS}
    for path, added in (
        ("/v2/rerank", {"max_tokens_per_doc": 4096, "model": "m", "max_tokens_per_query": None}),
        ("/v1/rerank", {"raw_scores": True}),
        ("/rerank", {"truncate": False}),
    ):
        rows = client.post(path, json=body | added).json()["results"]
        assert [(row["index"], row["relevance_score"]) for row in rows] == ranked(model)
    rows = client.post("/rerank", json={"query": "red fox", "texts": DOCUMENTS, "top_n": 2}).json()
    assert [(row["index"], row["score"]) for row in rows] == ranked(model)[:2]
    data = client.post("/score", json={"text_1": "red fox", "text_2": DOCUMENTS}).json()["data"]
    assert {row["index"]: row["score"] for row in data} == dict(ranked(model))
    nim = {"query": {"text": "red fox"}, "passages": [{"text": text} for text in DOCUMENTS]}
    rows = client.post("/v1/ranking", json=nim).json()["rankings"]
    assert [(row["index"], row["logit"]) for row in rows] == ranked(model)


@pytest.mark.parametrize("top_n", [None, 1, 2, 9])
def test_documents_of_the_store_by_their_ids(
    client: TestClient, model: LateInteraction, top_n: int | None
) -> None:
    for ids in (IDS, IDS[::-1], ["ä"]):
        body = {"model": "m", "query": "red fox", "document_ids": ids, "documents": None}
        found = client.post("/v2/rerank", json=body | {"top_n": top_n}).json()
        want = model.rank("red fox", candidates=ids)[:top_n]
        assert found["results"] == [
            {"index": ids.index(one.id), "relevance_score": one.score, "document_id": one.id}
            for one in want
        ]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"document_ids": []}, 400, "list of document_ids must not be empty"),
        ({"document_ids": ["d1", "none"]}, 422, "none"),
        ({"document_ids": ["d1", "d1"]}, 422, "an id twice"),
        ({"document_ids": [7]}, 422, "document_ids.0"),
        ({"document_ids": ["d1"], "documents": ["a"]}, 422, "send one"),
        ({"documents": ["a"], "cutoff_layer": 1}, 422, "late interaction has no cutoff_layer"),
        ({"documents": ["a"], "instruction": "x"}, 422, "late interaction has no instruction"),
        ({"documents": ["a"], "long_documents": "windows"}, 422, "has no long_documents"),
        ({"documents": ["a"], "exit": "calibrated"}, 422, "late interaction has no exit"),
        ({"document_ids": ["d1"], "exit": "calibrated"}, 422, "late interaction has no exit"),
        ({"document_ids": ["d1"], "cutoff_layer": 1}, 422, "late interaction has no cutoff_layer"),
        ({"documents": ["a"], "max_tokens_per_doc": 19}, 422, "the model reads 20"),
        ({"documents": ["a"], "max_tokens_per_query": 1}, 422, "the model reads 12"),
        ({"documents": ["a", "owl " * 30], "truncate": False}, 422, "index 1: its document has 13"),
    ],
)
def test_what_it_refuses(client: TestClient, body: Any, status: int, said: str) -> None:
    answer = client.post("/v1/rerank", json={"query": "red"} | body)
    assert (answer.status_code, said in answer.json()["message"]) == (status, True), answer.text


def test_a_query_that_would_be_cut(client: TestClient) -> None:
    body = {"query": "fox " * 30, "texts": ["a"]}
    assert client.post("/rerank", json=body).status_code == 200
    answer = client.post("/rerank", json=body | {"truncate": "false"})
    assert answer.status_code == 422
    assert "its query has 21 tokens more than the model reads" in answer.json()["error"]


def test_ids_need_a_store(serve: Serve, folder: Path, client: TestClient) -> None:
    bare = serve(LateInteraction(folder, device="cpu"))
    answer = bare.post("/v1/rerank", json={"query": "red", "document_ids": ["d1"]})
    assert answer.status_code == 422
    assert "no store of documents" in answer.json()["message"]
    [live] = client.get("/live").json()["models"]
    assert (live["kind"], live["documents"]) == ("late interaction", 3)
    assert client.get("/info").json()["max_input_length"] == 20


def test_explanations_are_the_models(client: TestClient, model: LateInteraction) -> None:
    body = {"query": "red fox", "document": "the red owl"}
    found = client.post("/explain", json=body).json()
    want = model.explain("red fox", "the red owl").to_dict()
    assert found == json.loads(json.dumps(want))
    assert client.post("/explain", json={"query": "red"}).status_code == 422
    engine = client.models.served[0].engine  # type: ignore[attr-defined]
    before = engine.totals.requests
    assert client.post("/explain", json=body).status_code == 200
    assert engine.totals.requests == before + 1  # in its turn, as all that runs the model
    nothing = client.post("/explain", json={"query": "red", "document": "?"})
    assert nothing.json()["score"] is None


def test_tokens_are_those_of_its_tokenizer(client: TestClient) -> None:
    [found] = client.post("/tokenize", json={"inputs": "red fox", "add_special_tokens": 0}).json()
    assert [(one["text"], one["id"]) for one in found] == [("red", 5), ("fox", 6)]


def test_a_score_that_is_not_finite_is_the_models_fault(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "packrank.late.text_scores.similarity", lambda _, rows, mean: np.full(len(rows), np.nan)
    )
    answer = client.post("/rerank", json={"query": "red fox", "texts": ["owl"]})
    assert answer.status_code == 424
    assert answer.json()["error"].endswith("index 0: its score is not a finite number")
