"""Which routes there are, by which methods, and what of a body says which is meant."""

from typing import Any

import pytest
from fastapi.testclient import TestClient


def test_routes_that_are_not_there(client: TestClient) -> None:
    for answer, said in (
        (client.post("/v3/rerank", json={}), "POST /v3/rerank: not found; /docs lists"),
        (client.get("/v1/rerank"), "GET /v1/rerank: method not allowed"),
    ):
        body = answer.json()
        assert said in body["message"] == body["detail"] == body["error"]["message"]
    for path, methods in (
        ("/v1/rerank", "POST"),
        ("/", "GET, HEAD, POST"),
        ("/health", "GET, HEAD"),
        ("/v1/retrieval/some/model/reranking", "POST"),
        ("/docs", "GET, HEAD"),
        ("/docs/static/favicon.png", "GET, HEAD"),
    ):
        answer = client.put(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)
    assert "allow" not in client.put("/v3/rerank").headers


def test_whatever_is_got_has_a_head(client: TestClient) -> None:
    app: Any = client.app
    paths = {one.path for one in app.routes if "GET" in (getattr(one, "methods", None) or ())}
    assert {"/docs", "/openapi.json", "/api-doc/openapi.json", "/docs/oauth2-redirect"} < paths
    for path in (*paths, "/docs/static/favicon.png"):
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"") == (200, b""), path


def test_null_is_the_same_as_leaving_it_out(client: TestClient) -> None:
    for body in ({"inputs": ["a", "b"]}, {"query": "q"}):
        plain = client.post("/", json=body)
        null = client.post("/", json=body | {"texts": None})
        assert (null.status_code, null.json()) == (plain.status_code, plain.json())
    ranked = client.post("/", json={"query": "q", "texts": ["a"], "inputs": None})
    assert ranked.status_code == 200
    for path in ("/rerank", "/"):
        for nothing in (None, ""):
            body = {"query": "q", "texts": ["a"], "exit": nothing, "instruction": nothing}
            body["long_documents"] = nothing
            assert client.post(path, json=body).status_code == 200


RANKED: list[tuple[str, dict[str, Any], str]] = [
    ("/rerank", {"query": "q", "documents": ["a", "b", "c"]}, "results"),
    ("/v2/rerank", {"query": "q", "documents": ["a", "b", "c"]}, "results"),
    ("/rerank", {"query": "q", "texts": ["a", "b", "c"]}, ""),
    ("/", {"query": "q", "texts": ["a", "b", "c"]}, ""),
    ("/v1/ranking", {"query": {"text": "q"}, "passages": [{"text": x} for x in "abc"]}, "rankings"),
]


@pytest.mark.parametrize(("path", "body", "rows"), RANKED)
def test_how_many_come_back_by_either_name_in_every_dialect(
    client: TestClient, path: str, body: dict[str, Any], rows: str
) -> None:
    for asked, count in (
        ({}, 3),
        ({"top_n": 2}, 2),
        ({"top_k": 2}, 2),
        ({"top_n": 1, "top_k": 2}, 1),
        ({"top_n": None, "top_k": "2"}, 2),
        ({"top_n": 0, "top_k": 2}, 3),
        ({"top_k": 0}, 3),
    ):
        for at in (path, "/invocations"):
            found = client.post(at, json=body | asked).json()
            assert len(found[rows] if rows else found) == count, (asked, at)
    assert client.post(path, json=body | {"top_k": -1}).status_code == 422


def test_texts_come_back_by_either_name(client: TestClient) -> None:
    for name in ("return_text", "return_documents"):
        for asked in (True, False):
            rows = client.post("/rerank", json=RANKED[2][1] | {name: asked}).json()
            assert ["text" in row for row in rows] == [asked] * 3
            for path in ("/rerank", "/v2/rerank"):
                found = client.post(path, json=RANKED[0][1] | {name: asked}).json()
                assert ["document" in row for row in found["results"]] == [asked] * 3


@pytest.mark.parametrize("may_cut", [True, False])
def test_nim_cuts_as_it_is_told_or_else_as_the_server_does(serve: Any, may_cut: bool) -> None:
    client = serve(auto_truncate=may_cut)
    body = {"query": {"text": "q"}, "passages": [{"text": "a " * 99}]}
    for word, cuts in (
        ("END", True), (True, True), ("end", True), ("NONE", False), ("none", False),
        (False, False), ("false", False), (None, may_cut), ("", may_cut),
    ):  # fmt: skip
        answer = client.post("/v1/ranking", json=body | {"truncate": word})
        assert answer.status_code == (200 if cuts else 422), word
    answer = client.post("/v1/ranking", json=body | {"truncate": "START"})
    assert answer.status_code == 422 and "'START', expected NONE or END" in answer.text
