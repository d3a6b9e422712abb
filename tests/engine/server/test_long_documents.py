"""Long documents over HTTP: cut or read in windows, as the server is set up or a request says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from packrank import Reranker

Serve = Callable[..., TestClient]
DOCUMENTS = ["a bc", "", "e d c b a " * 12, "ab cb " * 30, "de abc e " * 40]
LONG = [2, 3, 4]


@pytest.fixture(scope="module")
def windowed(small_bert: Path) -> Reranker:
    return Reranker(small_bert, activation="sigmoid", long_documents="windows")


def scores(found: Any) -> dict[int, float]:
    return {one["index"]: one["relevance_score"] for one in found.json()["results"]}


def test_a_request_says_or_the_model(serve: Serve, reranker: Reranker, windowed: Reranker) -> None:
    body = {"query": "a b", "documents": DOCUMENTS}
    cut, read = (
        {one.index: one.score for one in model.rank("a b", DOCUMENTS)}
        for model in (reranker, windowed)
    )
    assert [index for index in cut if cut[index] != read[index]] and cut[0] == read[0]
    plain, other = serve(reranker), serve(windowed)
    for client, usual in ((plain, cut), (other, read)):
        assert scores(client.post("/rerank", json=body)) == usual
        for how, want in (("truncate", cut), ("windows", read)):
            asked = body | {"long_documents": how}
            assert scores(client.post("/v2/rerank", json=asked)) == want
    tokens = [
        client.post("/rerank", json=body).json()["usage"]["prompt_tokens"]
        for client in (plain, other)
    ]
    assert tokens[1] > tokens[0] + 100
    pairs = {"queries": "a b", "documents": DOCUMENTS, "long_documents": "windows"}
    found = plain.post("/score", json=pairs).json()["data"]
    assert [one["score"] for one in found] == [read[n] for n in range(len(DOCUMENTS))]


def test_in_windows_nothing_is_too_long(serve: Serve, windowed: Reranker) -> None:
    """Where nothing may be cut, the query alone is refused."""
    client, whole = serve(windowed), windowed.rank("a b", DOCUMENTS)
    for body in ({"truncate": False}, {"truncation_direction": "left"}):
        asked = body | {"query": "a b", "documents": DOCUMENTS}
        want = {one.index: one.score for one in whole}
        assert scores(client.post("/rerank", json=asked)) == want
        refused = client.post("/rerank", json=asked | {"query": "a b " * 30})
        assert refused.status_code == 422 and "the query" in refused.text
        refused = client.post("/rerank", json=asked | {"long_documents": "truncate"})
        assert refused.status_code == 422 and "index 2" in refused.text


def test_tokens_of_a_document_may_be_more_than_the_model_takes(
    serve: Serve, windowed: Reranker
) -> None:
    client = serve(windowed)
    asked = {"query": "a b", "documents": DOCUMENTS}
    for most in (10, 60, 500):
        found = scores(client.post("/rerank", json=asked | {"max_tokens_per_doc": most}))
        want = windowed.rank("a b", DOCUMENTS, document_length=most)
        assert found == {one.index: one.score for one in want}
    assert found == {one.index: one.score for one in windowed.rank("a b", DOCUMENTS)}


def test_another_word_is_refused(serve: Serve) -> None:
    body = {"query": "a", "documents": ["b"], "long_documents": "max"}
    refused = serve().post("/rerank", json=body)
    assert refused.status_code == 422
    assert "long_documents is 'max', expected one of 'truncate', 'windows'" in refused.text
