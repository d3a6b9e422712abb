"""What a server says of itself and of requests: health, models, timing, OpenAPI."""

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

import packrank

BODY = {"query": "a", "texts": ["b", "c d"]}


def test_info_as_dify_reads_it(client: TestClient) -> None:
    info = client.get("/info").json()
    assert next(iter(info["model_type"])) == "reranker"
    assert info["model_type"]["reranker"] == {
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    assert (info["model_id"], info["model_dtype"]) == ("small", "float32")
    assert (info["max_input_length"], info["max_client_batch_size"]) == (40, 10_000)
    assert info["auto_truncate"] is True
    assert set(info) == {
        *("model_id", "model_sha", "model_dtype", "served_model_name", "model_type"),
        *("max_concurrent_requests", "max_input_length", "max_batch_tokens", "max_batch_requests"),
        *("max_client_batch_size", "auto_truncate", "tokenization_workers"),
        *("version", "sha", "docker_label"),
    }
    for name in ("max_concurrent_requests", "max_batch_tokens", "tokenization_workers"):
        assert type(info[name]) is int and info[name] >= 1
    # It then asks so, and reads "text" of each.
    rows = client.post("/rerank", json=BODY | {"return_text": True}).json()
    assert {row["index"]: row["text"] for row in rows} == {0: "b", 1: "c d"}


def test_info_before_the_model_is_there(serve: Any) -> None:
    client = serve()
    client.models.state = "warming"
    answer = client.get("/info")
    assert answer.status_code == 503
    assert answer.json()["error_type"] == "Unhealthy"


def test_models_as_openais_clients_list_them(client: TestClient) -> None:
    [model] = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"]) == ("small", "model")
    assert type(model["created"]) is int


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        ("text/html,application/xhtml+xml,*/*;q=0.8", True),
        ("*/*", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_root_is_a_page_for_browsers_and_health_for_others(
    client: TestClient, accept: str, is_page: bool
) -> None:
    answer = client.get("/", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers.get("content-type", "").startswith("text/html") == is_page
    assert bool(answer.content) == is_page


def test_no_page_where_there_shall_be_none(serve: Any) -> None:
    answer = serve(page=False).get("/", headers={"accept": "text/html"})
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/ping"])
def test_health_is_empty(client: TestClient, path: str) -> None:
    for answer in (client.get(path), client.head(path)):
        assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/rerank", BODY, 200),
        ("/predict", {"inputs": ["a", "b"]}, 200),
        ("/tokenize", {"inputs": "a"}, 200),
        ("/v1/rerank", {}, 422),
        ("/explain", {"query": "a", "document": "b"}, 422),
    ],
)
def test_request_ids_come_back(client: TestClient, path: str, body: Any, status: int) -> None:
    answer = client.post(path, json=body, headers={"X-Request-Id": "mine-1"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (status, "mine-1")
    others = {client.post(path, json=body).headers["x-request-id"] for _ in range(2)}
    assert len(others) == 2
    answer = client.post(path, json=body, headers={"x-request-id": "long" * 999})
    assert answer.headers["x-request-id"] == ("long" * 50)


def test_timing_headers_of_text_embeddings_inference(client: TestClient) -> None:
    headers = client.post("/rerank", json=BODY).headers
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == str(len("a" + "b" + "c d"))
    for name in ("x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"):
        assert headers[name].isdigit()
    assert headers["x-compute-time"] == headers["x-total-time"]
    # [CLS] a [SEP] b [SEP], and one token more.
    assert headers["x-compute-tokens"] == str(5 + 6)


def test_version(client: TestClient) -> None:
    assert client.get("/version").json() == {"version": packrank.__version__}


def test_the_page_of_documentation_needs_no_network(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    assert "http://" not in page.text
    found = re.findall(r'(?:src|href)="(/docs/static/[^"]+)"', page.text)
    assert len(found) == 3
    for path in found:
        answer = client.get(path)
        assert answer.status_code == 200
        assert len(answer.content) > 500


def test_openapi_describes_every_route(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert client.get("/api-doc/openapi.json").json() == document
    app: Any = client.app
    paths = {route.path for route in app.routes if getattr(route, "include_in_schema", False)}
    assert set(document["paths"]) == paths - {"/openapi.json", "/docs", "/docs/oauth2-redirect"}
    schemas = document["components"]["schemas"]

    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return found.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    assert {one.rpartition("/")[2] for one in references(document)} <= set(schemas)
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            assert about["description"], path
            assert "Args:" not in about["description"], path
            if method == "post":
                assert {"200", "401", "413", "415", "422", "429", "503"} <= set(about["responses"])
