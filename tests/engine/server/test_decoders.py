"""What only decoders have: layers to stop after, candidates that exit early, instructions."""

from collections.abc import Callable
from typing import Any

import pytest
from decoders import layerwise_minicpm
from fastapi.testclient import TestClient
from prompts import metaspace
from reranker_folders import qwen3

from packrank import Margins, Reranker
from packrank.checkpoint.fingerprint import fingerprint
from packrank.exits.margins import FILE, save

Serve = Callable[..., TestClient]
DOCUMENTS = ["red fox", "the sea", "a cold sea and nobody saw it", ""] * 4
BODY = {"query": "the red fox", "documents": DOCUMENTS}


@pytest.fixture(scope="module")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Reranker:
    """A model of heads after 8 to 12 layers, and margins for the best two of candidates."""
    folder = tmp_path_factory.mktemp("models") / "bge-reranker-v2-minicpm-layerwise"
    layerwise_minicpm(folder, metaspace(), layers=12)
    model = Reranker(folder)
    fields: dict[str, Any] = {"recall": 0.99, "held_out_recall": 1.0, "held_out_low": 0.98}
    fields |= {"held_out_high": 1.0, "dropped": (0.1, 0.2), "saved": 0.2, "num_fitted": 100}
    fields |= {"num_held_out": 100, "num_left_out": 0, "num_candidates": 100}
    margins = Margins(
        model="it", fingerprint=fingerprint(folder), settings=model.exit_settings, top_k=2,
        final_layer=12, layers=(4, 8), margins=(0.01, 0.005), extrapolated=False, **fields,
    )  # fmt: skip
    save(folder / FILE, margins)
    return Reranker(folder, activation="sigmoid")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Reranker:
    return Reranker(qwen3(tmp_path_factory.mktemp("models")).folder, activation="sigmoid")


def rows_of(answer: Any) -> list[tuple[int, float]]:
    assert answer.status_code == 200, answer.text
    return [(row["index"], row["relevance_score"]) for row in answer.json()["results"]]


def test_layers(serve: Serve, layered: Reranker) -> None:
    client = serve(layered)
    for layer in (4, 12, None, 0):
        want = layered.rank(BODY["query"], DOCUMENTS, cutoff_layer=layer or None)
        answer = client.post("/v1/rerank", json=BODY | {"cutoff_layer": layer})
        assert rows_of(answer) == [(one.index, one.score) for one in want]
    pairs = [("a", one) for one in DOCUMENTS]
    body = {"text_1": "a", "text_2": DOCUMENTS, "cutoff_layer": 4}
    scores = [row["score"] for row in client.post("/score", json=body).json()["data"]]
    assert scores == layered.score(pairs, cutoff_layers=4).tolist()
    refused = client.post("/v1/rerank", json=BODY | {"cutoff_layer": 13})
    assert refused.status_code == 422 and "cutoff_layer" in refused.json()["message"]
    assert client.get("/live").json()["models"][0]["layers"] == list(layered.exit_layers)


def test_candidates_that_exit_early(serve: Serve, layered: Reranker) -> None:
    client = serve(layered)
    want = layered.rank(BODY["query"], DOCUMENTS, 2, exit="calibrated")
    answer = client.post("/v2/rerank", json=BODY | {"exit": "calibrated", "top_n": 2})
    assert rows_of(answer) == [(one.index, one.score) for one in want]
    assert "document" not in answer.json()["results"][0]
    for added, said in (
        ({"raw_scores": True}, "no raw scores"),
        ({"truncate": False}, "always cut"),
        ({"top_n": 3}, "top"),
    ):
        refused = client.post("/v1/rerank", json=BODY | {"exit": "calibrated", "top_n": 2} | added)
        assert refused.status_code == 422 and said in refused.json()["message"]


@pytest.mark.parametrize("most", [4096, 1 << 31, 1 << 63, 10**30])
def test_limits_beyond_the_models_are_none(serve: Serve, layered: Reranker, most: int) -> None:
    want = layered.rank(BODY["query"], DOCUMENTS)
    names = ("max_tokens_per_doc", "max_tokens_per_query", "truncate_prompt_tokens")
    answer = serve(layered).post("/v1/rerank", json=BODY | dict.fromkeys(names, most))
    assert rows_of(answer) == [(one.index, one.score) for one in want]


def test_instructions_by_all_their_names(serve: Serve, told: Reranker) -> None:
    client = serve(told)
    want = told.rank(BODY["query"], DOCUMENTS, instruction="of animals")
    assert want != told.rank(BODY["query"], DOCUMENTS)
    for added in (
        {"instruction": "of animals"},
        {"instruct": "of animals"},
        {"chat_template_kwargs": {"instruction": "of animals", "other": 1}},
    ):
        found = rows_of(client.post("/v1/rerank", json=BODY | added))
        assert found == [(one.index, one.score) for one in want]
    for added in ({}, {"instruction": None}, {"instruct": ""}, {"chat_template_kwargs": {}}):
        found = rows_of(client.post("/v1/rerank", json=BODY | added))
        assert found == [(one.index, one.score) for one in told.rank(BODY["query"], DOCUMENTS)]
