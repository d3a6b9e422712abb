"""URLs as they are pasted: answered at once, since a redirect loses bodies."""

import pytest
from fastapi.testclient import TestClient

from packrank.server.paths import plain

BODY = {"model": "m", "query": "a", "documents": ["b"]}


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("/rerank", "/rerank"),
        ("/rerank/", "/rerank"),
        ("//rerank", "/rerank"),
        ("/v1//rerank//", "/v1/rerank"),
        ("/v1/v1/rerank", "/v1/rerank"),
        ("/v1/v2/rerank", "/v2/rerank"),
        ("/v2/v2/rerank/", "/v2/rerank"),
        ("/v1/v1/v2/rerank", "/v2/rerank"),
        ("/v1/v1", "/v1/v1"),
        ("/v1/rerank/v2/rerank", "/v1/rerank/v2/rerank"),
        ("/", "/"),
        ("//", "/"),
        ("", "/"),
    ],
)
def test_plain(path: str, want: str) -> None:
    assert plain(path) == want == plain(want)


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/", "/v2"])
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/v1/score", "/v1/rerank/"])
def test_a_base_url_may_end_in_a_version(client: TestClient, base: str, path: str) -> None:
    body = BODY if "rerank" in path else {"text_1": "a", "text_2": "b"}
    answer = client.post(f"http://testserver{base}{path}", json=body)
    assert answer.status_code == 200
    assert answer.history == []


def test_others_too(client: TestClient) -> None:
    for path in ("/health/", "/v1/models/", "/v1/v1/models", "/info/", "//metrics", "/docs/"):
        assert client.get(f"http://testserver{path}").status_code == 200
