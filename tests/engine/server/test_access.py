"""Keys: however clients send them, on every route that scores or reads texts."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

Serve = Callable[..., TestClient]
KEYS = ("first-key", "second key", "schlüssel")
BODY = {"query": "a", "documents": ["b"]}
OPEN = {
    *("/", "/health", "/health/ready", "/health/live", "/v1/health/ready", "/v1/health/live"),
    *("/ping", "/info", "/v1/models", "/live", "/version", "/metrics", "/api-doc/openapi.json"),
    *("/docs", "/docs/oauth2-redirect"),
}


@pytest.fixture
def guarded(serve: Serve) -> TestClient:
    return serve(api_keys=KEYS)


def routes(client: TestClient) -> list[APIRoute]:
    app: Any = client.app
    return [route for route in app.routes if isinstance(route, APIRoute)]


@pytest.mark.parametrize("key", [key.encode() for key in KEYS])
@pytest.mark.parametrize(
    ("header", "form"),
    [
        ("Authorization", b"Bearer %s"),
        ("authorization", b"bearer %s"),
        ("Authorization", b"BEARER   %s "),
        ("Authorization", b"%s"),
        ("X-API-Key", b"%s"),
        ("api-key", b"%s"),
    ],
)
def test_every_way_of_sending_a_key(
    guarded: TestClient, header: str, form: bytes, key: bytes
) -> None:
    answer = guarded.post("/v2/rerank", json=BODY, headers={header: form % key})
    assert answer.status_code == 200
    answer = guarded.post("/v2/rerank", json=BODY, headers={header: form % (key + b"x")})
    assert (answer.status_code, answer.json()["message"]) == (401, "invalid api token")


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "no api key supplied"),
        ({"authorization": ""}, "no api key supplied"),
        ({"authorization": "Bearer"}, "no api key supplied"),
        ({"authorization": "Bearer "}, "no api key supplied"),
        ({"authorization": "Bearer None"}, "invalid api token"),
        ({"authorization": "Bearer first-key second-key"}, "invalid api token"),
        ({"authorization": "Basic first-key"}, "invalid api token"),
        ({"authorization": "first"}, "invalid api token"),
        ({"x-api-key": "FIRST-KEY"}, "invalid api token"),
        ({"cookie": "api-key=first-key"}, "no api key supplied"),
    ],
)
def test_what_opens_nothing(guarded: TestClient, headers: dict[str, str], said: str) -> None:
    answer = guarded.post("/v1/rerank?api_key=first-key", json=BODY, headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (401, said)


def test_a_key_counts_beside_a_proxys_own(guarded: TestClient) -> None:
    headers = {"authorization": "Basic dXNlcjpwYXNz", "x-api-key": "first-key"}
    assert guarded.post("/rerank", json=BODY, headers=headers).status_code == 200


def test_every_route_but_those_that_say_nothing_of_texts_wants_a_key(guarded: TestClient) -> None:
    """Also by its other spellings; and nothing of the body is read before."""
    for route in routes(guarded):
        for method in route.methods or ():
            for path in (route.path, f"{route.path}/", f"/{route.path}", f"/v1/v1{route.path}"):
                answer = guarded.request(method, f"http://testserver{path}", content=b"{")
                is_open = method in ("GET", "HEAD") and route.path in OPEN
                if answer.status_code == 404:
                    assert path.startswith("/v1/v1")
                else:
                    assert (answer.status_code == 401) == (not is_open), (method, path)
    scoring = {route.path for route in routes(guarded) if "POST" in (route.methods or ())}
    assert scoring >= {
        *("/", "/rerank", "/v1/rerank", "/v2/rerank", "/reranking", "/invocations", "/v1/ranking"),
        *("/score", "/v1/score", "/predict", "/tokenize", "/explain"),
    }


def test_what_asks_with_another_method_gets_nothing(guarded: TestClient) -> None:
    for method in ("PUT", "PATCH", "DELETE", "GET", "OPTIONS"):
        assert guarded.request(method, "/v1/rerank").status_code == 405


def test_without_keys_any_is_taken(client: TestClient) -> None:
    for given in ("Bearer ", "Bearer None", "anything", "Bearer \xff"):
        headers = {"authorization": given.encode("latin-1")}
        assert client.post("/rerank", json=BODY, headers=headers).status_code == 200
