"""Rankings in each dialect: the bodies that clients send, and what each reads of the answer."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from toy_model import Open

from packrank import Reranker

QUERY = "a bc"
DOCUMENTS = ["de abc e", "a bc", "", "a bc", "e d c b a"]
GIVEN = {"query": QUERY, "documents": DOCUMENTS}
TEXTS = {"query": QUERY, "texts": DOCUMENTS}


@pytest.fixture(scope="session")
def want(reranker: Reranker) -> list[tuple[int, float]]:
    return [(one.index, one.score) for one in reranker.rank(QUERY, DOCUMENTS)]


# Client -> where it posts, and what.
OBJECT: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere.ClientV2": ("/v2/rerank", {"model": "rerank-v3.5", **GIVEN}),
    "cohere.ClientV2 with all": (
        "/v2/rerank",
        {"model": "m", **GIVEN, "top_n": 3, "max_tokens_per_doc": 4096, "priority": 0},
    ),
    "cohere.Client": ("/v1/rerank", {"model": "m", **GIVEN, "return_documents": False}),
    "langchain-cohere": (
        "/v2/rerank",
        {"model": "m", **GIVEN, "top_n": 3, "max_tokens_per_doc": None},
    ),
    "langchain-community Jina": (
        "/v1/rerank",
        {**GIVEN, "model": "jina-reranker-v1-base-en", "top_n": None},
    ),
    "llama-index cohere": ("/v2/rerank", {"model": "rerank-english-v2.0", **GIVEN, "top_n": 2}),
    "llama-index jina": ("/v1/rerank", {**GIVEN, "model": "m", "top_n": 2}),
    "haystack cohere": (
        "/v2/rerank",
        {"model": "m", **GIVEN, "top_n": 10, "max_tokens_per_doc": 4096},
    ),
    "haystack jina": ("/v1/rerank", {**GIVEN, "model": "m", "top_n": None}),
    "haystack vllm": ("/v1/rerank", {"model": "m", **GIVEN}),
    "rerankers": (
        "/v1/rerank",
        {"model": "m", **GIVEN, "top_n": 5, "return_documents": True},
    ),
    "litellm cohere": (
        "/v2/rerank",
        {"model": "m", **GIVEN, "top_n": 3, "return_documents": True},
    ),
    "litellm hosted_vllm": (
        "/rerank",
        {"model": "m", **GIVEN, "top_n": 3, "return_documents": True, "max_tokens_per_doc": 512,
         "truncate_prompt_tokens": -1, "truncation_side": "right",
         "max_tokens_per_query": 0},
    ),
    "Open WebUI": ("/v1/rerank", {"model": "", **GIVEN, "top_n": 5}),
    "Dify openai_api_compatible": ("/rerank", {"model": "m", **GIVEN, "top_n": 3}),
    "Dify localai": ("/rerank", {"model": "m", **GIVEN, "top_n": None}),
    "Dify gpustack": ("/v1/rerank", {"model": "m", **GIVEN, "top_n": 3}),
    "Dify jina": ("/v1/rerank", {"model": "m", **GIVEN, "top_n": 3, "return_documents": False}),
    "RAGFlow": ("/v1/rerank", {"model": "m", **GIVEN, "top_n": 5}),
    "RAGFlow Xinference": (
        "/v1/rerank",
        {"model": "m", **GIVEN, "return_documents": "true", "return_len": "true"},
    ),
    "vLLM bench": ("/v1/rerank", {"model": "m", **GIVEN, "truncate_prompt_tokens": -1}),
    "reranking": ("/reranking", GIVEN),
    "SageMaker": ("/invocations", GIVEN),
}  # fmt: skip

TEI: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-index TEI": ("/rerank", TEXTS),
    "haystack TEI": (
        "/rerank",
        {**TEXTS, "raw_scores": False, "truncate": True, "truncation_direction": "Right"},
    ),
    "rerankers TEI": ("/rerank", {"model": "m", **TEXTS, "top_n": 5, "return_text": True}),
    "litellm huggingface": (
        "/rerank",
        {"raw_scores": False, "truncate": False, "truncation_direction": "Right", "query": QUERY,
         "top_n": 3, "texts": DOCUMENTS, "return_text": True},
    ),
    "Dify TEI": ("/rerank", {**TEXTS, "return_text": True}),
    "RAGFlow TEI": ("/rerank", {**TEXTS, "raw_scores": False, "truncate": True}),
    "root": ("/", TEXTS),
    "SageMaker": ("/invocations", TEXTS),
    "v1": ("/v1/rerank", TEXTS),
    "beside null": ("/rerank", {**TEXTS, "documents": None}),
}  # fmt: skip


def echoes(path: str, body: dict[str, Any]) -> bool:
    return bool(body.get("return_documents", path != "/v2/rerank"))


@pytest.mark.parametrize("name", OBJECT)
def test_clients_of_cohere_jina_and_vllm(
    client: TestClient, want: list[tuple[int, float]], name: str
) -> None:
    path, body = OBJECT[name]
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [(row["index"], row["relevance_score"]) for row in found["results"]] == want[
        : body.get("top_n") or None
    ]
    for row in found["results"]:
        assert all(
            type(row[key]) is kind for key, kind in (("index", int), ("relevance_score", float))
        )
        if echoes(path, body):
            assert row["document"] == {"text": DOCUMENTS[row["index"]]}
        else:
            assert "document" not in row
    tokens = int(answer.headers["x-compute-tokens"])
    assert tokens > 0
    assert found["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert found["model"] == "small"
    assert found["id"] != client.post(path, json=body).json()["id"]
    assert found["meta"]["api_version"] == {"version": "2"}
    assert found["meta"]["billed_units"] == {"search_units": 1}
    assert found["meta"]["tokens"] == {"input_tokens": tokens, "output_tokens": 0}


@pytest.mark.parametrize("name", TEI)
def test_clients_of_text_embeddings_inference(
    client: TestClient, want: list[tuple[int, float]], name: str
) -> None:
    path, body = TEI[name]
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    rows = [
        {"index": index, "score": score}
        | ({"text": DOCUMENTS[index]} if body.get("return_text") else {})
        for index, score in want
    ]
    assert answer.json() == rows[: body.get("top_n") or None]


def test_clients_of_nim(client: TestClient, reranker: Reranker) -> None:
    body: dict[str, Any] = {
        "model": "nvidia/rerank",
        "query": {"text": QUERY},
        "passages": [{"text": text} for text in DOCUMENTS],
    }
    logits = reranker.score([(QUERY, text) for text in DOCUMENTS], activation="identity").tolist()
    order = sorted(range(5), key=lambda index: -logits[index])
    for added in ({}, {"truncate": "END"}, {"truncate": "NONE"}, {"truncate": None, "top_k": None}):
        found = client.post("/v1/ranking", json=body | added).json()
        assert found["rankings"] == [{"index": i, "logit": logits[i]} for i in order]
        assert found["usage"]["total_tokens"] > 0
    found = client.post("/v1/ranking", json=body | {"top_k": 2}).json()
    assert [row["index"] for row in found["rankings"]] == order[:2]
    body["passages"][0] = {"text": "a " * 99}
    assert client.post("/v1/ranking", json=body | {"truncate": "END"}).status_code == 200
    refused = client.post("/v1/ranking", json=body | {"truncate": "NONE"})
    assert refused.status_code == 422
    assert client.post("/v1/ranking", json=body | {"truncate": "START"}).status_code == 422


def test_raw_scores_are_logits(client: TestClient, reranker: Reranker) -> None:
    pairs = [(QUERY, text) for text in DOCUMENTS]
    logits = dict(enumerate(reranker.score(pairs, activation="identity").tolist()))
    for added in ({"raw_scores": True}, {"use_activation": False}, {"raw_scores": "true"}):
        rows = client.post("/v1/rerank", json=GIVEN | added).json()["results"]
        assert {row["index"]: row["relevance_score"] for row in rows} == logits
        rows = client.post("/rerank", json=TEXTS | added).json()
        assert {row["index"]: row["score"] for row in rows} == logits


def test_equal_scores_keep_the_order_of_their_indices(client: TestClient) -> None:
    rows = client.post("/rerank", json={"query": "a", "texts": ["b", "c", "b"] * 20}).json()
    for score in {row["score"] for row in rows}:
        indices = [row["index"] for row in rows if row["score"] == score]
        assert indices == sorted(indices)
    assert len(rows) == 60


def test_rank_fields_are_read_in_their_order(client: TestClient, reranker: Reranker) -> None:
    documents: list[Any] = [
        {"title": "a b", "body": "c", "year": 7},
        {"body": "d e", "title": None},
        {"title": ["a", "e"], "text": "c"},
        "plain",
    ]
    body = {"query": QUERY, "documents": documents, "rank_fields": ["title", "body"]}
    rows = client.post("/v1/rerank", json=body).json()["results"]
    texts = ["title: a b\nbody: c", "body: d e", 'title: ["a","e"]', "plain"]
    assert [(row["index"], row["relevance_score"]) for row in rows] == [
        (one.index, one.score) for one in reranker.rank(QUERY, texts)
    ]
    echoed = {row["index"]: row["document"] for row in rows}
    # What came goes back; what had no text has the one that was read.
    assert echoed == {
        0: {"text": texts[0], **documents[0]},
        1: {"text": texts[1], **documents[1]},
        2: documents[2],
        3: {"text": "plain"},
    }
    answer = client.post("/v1/rerank", json=body | {"documents": [{"text": "a"}]})
    assert answer.status_code == 422
    assert "none of the rank_fields" in answer.json()["message"]


def test_documents_that_are_objects_come_back_whole(client: TestClient) -> None:
    documents = [
        {"text": "a", "url": "x", "n": {"deep": [1, None]}},
        {"content": "b", "text": None},
    ]
    rows = client.post("/v1/rerank", json={"query": "a", "documents": documents}).json()["results"]
    echoed = {row["index"]: row["document"] for row in rows}
    assert echoed == {0: documents[0], 1: {"content": "b", "text": "b"}}


def test_truncation(client: TestClient, reranker: Reranker) -> None:
    long = ["a", "b " * 99]
    want = [(one.index, one.score) for one in reranker.rank(QUERY, long)]
    for added in ({}, {"truncate": True}, {"truncate": None}, {"truncate_prompt_tokens": -1}):
        rows = client.post("/rerank", json={"query": QUERY, "texts": long} | added).json()
        assert [(row["index"], row["score"]) for row in rows] == want
    for path, name in (("/rerank", "texts"), ("/v1/rerank", "documents")):
        body = {"query": QUERY, name: long, "truncate": False}
        answer = client.post(path, json=body)
        assert answer.status_code == 422
        assert "document at index 1" in answer.text and "40" in answer.text
        assert client.post(path, json=body | {name: ["a"]}).status_code == 200
    for name in ("truncation_direction", "truncation_side"):
        fits = client.post("/rerank", json=TEXTS | {name: "Left"})
        assert fits.json() == client.post("/rerank", json=TEXTS).json()
        for more in ({}, {"truncate": True}, {"truncate_prompt_tokens": -1}):
            body = {"query": QUERY, "texts": long, name: "left"} | more
            answer = client.post("/rerank", json=body)
            assert answer.status_code == 422 and "document at index 1" in answer.json()["error"]
        answer = client.post("/rerank", json=TEXTS | {name: "up"})
        assert answer.status_code == 422 and "left or right" in answer.json()["error"]


def test_an_operator_may_refuse_what_is_too_long(serve: Any) -> None:
    strict = serve(auto_truncate=False)
    body = {"query": "a", "texts": ["b " * 99]}
    assert strict.post("/rerank", json=body).status_code == 422
    assert strict.post("/rerank", json=body | {"truncate": True}).status_code == 200
    assert strict.get("/info").json()["auto_truncate"] is False


def test_an_operator_may_let_v2_echo(serve: Any) -> None:
    rows = serve(return_documents=True).post("/v2/rerank", json=GIVEN).json()["results"]
    assert all(row["document"] == {"text": DOCUMENTS[row["index"]]} for row in rows)


def test_priorities_that_cohere_has(client: TestClient, want: list[tuple[int, float]]) -> None:
    for priority in (0, 1, 999, "7", None):
        rows = client.post("/v2/rerank", json=GIVEN | {"priority": priority}).json()["results"]
        assert [(row["index"], row["relevance_score"]) for row in rows] == want


def test_priority_reaches_the_engine(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from packrank import Engine

    given: list[Any] = []
    submit = Engine.submit_pairs

    def noted(self: Engine, pairs: Any, **options: Any) -> Any:
        given.append((options["priority"], options["caller"], options["timeout"]))
        return submit(self, pairs, **options)

    monkeypatch.setattr(Engine, "submit_pairs", noted)
    client.post("/v2/rerank", json=GIVEN | {"priority": 7}, headers={"api-key": "mine"})
    client.post("/v2/rerank", json=GIVEN)
    assert given == [(7, "mine", None), (0, None, None)]


def test_layers_and_exits_that_an_encoder_lacks_are_refused(client: TestClient) -> None:
    for added, said in (
        ({"cutoff_layer": 1}, "cutoff"),
        ({"exit": "calibrated"}, ""),
        ({"exit": "other"}, "expected 'calibrated'"),
        ({"instruction": "rank"}, "instruction"),
        ({"instruct": "rank"}, "instruction"),
        ({"chat_template_kwargs": {"instruction": "rank"}}, "instruction"),
    ):
        answer = client.post("/v1/rerank", json=GIVEN | added)
        assert answer.status_code == 422, added
        assert said in answer.json()["message"]


def test_one_label_of_a_toy(toy_client: TestClient) -> None:
    rows = toy_client.post("/rerank", json={"query": "q", "texts": ["a", "b", "c"]}).json()
    assert [row["index"] for row in rows] == [1, 0, 2]
    raw = toy_client.post(
        "/rerank", json={"query": "q", "texts": ["a", "b", "c"], "raw_scores": True}
    ).json()
    assert [row["score"] for row in raw] == [2.0, 1.0, -3.0]


def test_several_models_by_name(serve: Any, toy: Open, reranker: Reranker) -> None:
    both = serve({"toy": toy(activation="sigmoid"), "small": reranker})
    body = {"query": "q", "documents": ["a", "b"], "raw_scores": True}
    small = reranker.rank("q", ["a", "b"])
    for model, name in (
        ("small", "small"),
        ("toy", "toy"),
        (None, "toy"),
        ("", "toy"),
        ("x", "toy"),
    ):
        found = both.post("/v1/rerank", json=body | {"model": model}).json()
        assert found["model"] == name
        scores = [row["relevance_score"] for row in found["results"]]
        assert (scores == [2.0, 1.0]) == (name == "toy")
        order = [row["index"] for row in found["results"]]
        assert order == ([1, 0] if name == "toy" else [one.index for one in small])
    assert [one["id"] for one in both.get("/v1/models").json()["data"]] == ["toy", "small"]
    assert both.get("/info").json()["model_id"] == "toy"
    assert [one["name"] for one in both.get("/live").json()["models"]] == ["toy", "small"]
