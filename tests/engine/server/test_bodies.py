"""What clients write into bodies: null, texts for numbers, fields that nobody knows."""

from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from packrank import Reranker

DOCUMENTS = ["a bc", "de abc e", "", "e d c b a"]
BODIES: dict[str, dict[str, Any]] = {
    "/v2/rerank": {"model": "m", "query": "ab", "documents": DOCUMENTS},
    "/v1/rerank": {"model": "m", "query": "ab", "documents": DOCUMENTS},
    "/rerank": {"query": "ab", "texts": DOCUMENTS},
    "/v1/ranking": {"query": {"text": "ab"}, "passages": [{"text": one} for one in DOCUMENTS]},
    "/score": {"queries": "ab", "documents": DOCUMENTS},
    "/predict": {"inputs": [["ab", one] for one in DOCUMENTS]},
}


def scores_of(answer: Any) -> Any:
    """Index to score, in whichever dialect it came."""
    if isinstance(answer, list) and isinstance(answer[0], list):
        return {index: row[0]["score"] for index, row in enumerate(answer)}
    rows = answer
    if isinstance(answer, dict):
        rows = next(answer[name] for name in ("results", "rankings", "data") if name in answer)
    names = ("relevance_score", "score", "logit")
    return {row["index"]: next(row[name] for name in names if name in row) for row in rows}


def optional(client: TestClient, path: str) -> list[str]:
    """All fields that a route's schemas have, but those that its body fills."""
    document = client.get("/openapi.json").json()
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    names = [one["$ref"].rpartition("/")[2] for one in schema.get("anyOf", [schema])]
    fields = {
        field for name in names for field in document["components"]["schemas"][name]["properties"]
    }
    assert len(fields) > 8
    return sorted(fields - {"query", "passages", "documents", "queries", "inputs", "texts"})


@pytest.mark.parametrize("path", BODIES)
def test_every_field_that_may_be_left_out_may_be_null(
    client: TestClient, reranker: Reranker, path: str
) -> None:
    body = BODIES[path]
    given = client.post(path, json=body | dict.fromkeys(optional(client, path)))
    assert given.status_code == 200, given.text
    raw = path == "/v1/ranking"
    want = reranker.score(
        [("ab", one) for one in DOCUMENTS], activation="identity" if raw else None
    )
    assert scores_of(given.json()) == dict(enumerate(want.tolist()))


@pytest.mark.parametrize("path", BODIES)
def test_fields_that_nobody_knows_are_left_alone(client: TestClient, path: str) -> None:
    plain = client.post(path, json=BODIES[path]).json()
    odd = {"user": 7, "max_chunks_per_doc": "many", "return_len": "true", "x": {"y": [None]}}
    given = client.post(path, json=BODIES[path] | odd)
    assert given.status_code == 200
    assert scores_of(given.json()) == scores_of(plain)


@pytest.mark.parametrize("has", [True, False])
def test_truth_in_every_spelling(client: TestClient, has: bool) -> None:
    spellings = {
        True: (True, "true", "True", "1", 1, 1.0, "yes", " on "),
        False: (False, "false", "FALSE", "0", 0, 0.0, "no", "off", ""),
    }
    for value in spellings[has]:
        body = BODIES["/v1/rerank"] | {"return_documents": value}
        for path in ("/v1/rerank", "/v2/rerank"):
            rows = client.post(path, json=body).json()["results"]
            assert [("document" in row) for row in rows] == [has] * 4
        rows = client.post("/rerank", json=BODIES["/rerank"] | {"return_text": value}).json()
        assert [("text" in row) for row in rows] == [has] * 4


@pytest.mark.parametrize("odd", ["maybe", 2, -1, 0.5, [], {}])
def test_what_is_no_truth_is_named(client: TestClient, odd: Any) -> None:
    answer = client.post("/v1/rerank", json=BODIES["/v1/rerank"] | {"return_documents": odd})
    assert answer.status_code == 422
    assert "return_documents" in answer.json()["message"]


@pytest.mark.parametrize("name", ["top_n", "top_k"])
@pytest.mark.parametrize(
    ("count", "returned"),
    [(None, 4), (0, 4), (1, 1), (3, 3), ("2", 2), (2.0, 2), (99, 4), (10**30, 4)],
)
def test_how_many_come_back(
    client: TestClient, reranker: Reranker, name: str, count: Any, returned: int
) -> None:
    rows = client.post("/v1/rerank", json=BODIES["/v1/rerank"] | {name: count}).json()["results"]
    want = [(one.index, one.score) for one in reranker.rank("ab", DOCUMENTS)]
    assert [(row["index"], row["relevance_score"]) for row in rows] == want[:returned]


@pytest.mark.parametrize("count", [-1, "-2", "few", 1.5, True, [1], "9" * 5000])
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_numbers_of_results_that_are_none(client: TestClient, path: str, count: Any) -> None:
    answer = client.post(path, json=BODIES[path] | {"top_n": count})
    assert answer.status_code == 422
    assert "top_n" in answer.text


@pytest.mark.parametrize(
    "document",
    [
        "a bc",
        {"text": "a bc"},
        {"text": "a bc", "id": 7, "content": "other"},
        {"content": "a bc"},
        {"content": [{"type": "text", "text": "a bc"}]},
        {"content": ["a bc"]},
    ],
)
def test_forms_of_a_text(client: TestClient, reranker: Reranker, document: Any) -> None:
    want = reranker.score([("ab", "a bc")]).tolist()
    for documents in (document, [document]):
        body = {"query": {"text": "ab"}, "documents": documents}
        answer = client.post("/v1/rerank", json=body)
        assert [row["relevance_score"] for row in answer.json()["results"]] == want
    score = client.post("/score", json={"text_1": "ab", "text_2": document}).json()
    assert score["data"][0]["score"] == want[0]


def test_parts_of_content_are_lines(client: TestClient, reranker: Reranker) -> None:
    parts = [{"type": "text", "text": "a"}, {"text": "bc"}]
    answer = client.post("/score", json={"queries": "ab", "documents": {"content": parts}})
    want = reranker.score([("ab", "a\nbc")])
    assert answer.json()["data"][0]["score"] == want[0]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (None, "got null"),
        (7, "got a number"),
        (True, "got a truth value"),
        (["a"], "got a list"),
        ({}, 'an object with "text"'),
        ({"text": None}, 'an object with "text"'),
        ({"text": {"text": "a"}}, "got an object"),
        ({"text": 7}, "got a number"),
        ({"content": [{"type": "image_url", "image_url": "x"}]}, "'image_url' is not text"),
        ({"content": [{"type": "text"}]}, "got null"),
        ({"content": [["a"]]}, "got a list"),
    ],
)
def test_documents_that_are_no_text(client: TestClient, document: Any, said: str) -> None:
    answer = client.post("/v1/rerank", json={"query": "ab", "documents": ["a", document]})
    assert answer.status_code == 422
    assert said in answer.json()["message"]
    assert "document at index 1" in answer.json()["message"]
    answer = client.post("/rerank", json={"query": "ab", "texts": ["a", document]})
    assert answer.status_code == 422
    assert said in answer.json()["error"] and "texts.1" in answer.json()["error"]


@pytest.mark.parametrize("depth", [100, 300, 1020])
@pytest.mark.parametrize("opening", ['{"text":', '{"content":[', "["])
def test_nesting_is_no_failure_of_the_server(client: TestClient, depth: int, opening: str) -> None:
    closing = "".join({"{": "}", "[": "]"}[x] for x in reversed(opening) if x in "{[")
    deep = opening * (depth // len(closing)) + '"a"' + closing * (depth // len(closing))
    for path, body in (
        ("/v1/rerank", f'{{"query": "ab", "documents": [{deep}]}}'),
        ("/v1/rerank", f'{{"query": "ab", "documents": [{{"text": "a", "x": {deep}}}]}}'),
        ("/v1/rerank", f'{{"query": "ab", "rank_fields": ["x"], "documents": [{{"x": {deep}}}]}}'),
        ("/predict", f'{{"inputs": {deep}}}'),
        ("/score", f'{{"queries": "ab", "documents": {deep}}}'),
        ("/v1/ranking", f'{{"query": {deep}, "passages": [{{"text": "a"}}]}}'),
        ("/tokenize", f'{{"inputs": {deep}}}'),
    ):
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (200, 400, 422), (path, answer.text)


@pytest.mark.parametrize(
    "name", ["max_tokens_per_doc", "max_tokens_per_query", "truncate_prompt_tokens", "cutoff_layer"]
)
@pytest.mark.parametrize("value", [0, 1, 2, 40, 4096, 10**9, 10**30, -1, -5])
def test_no_number_is_too_much(client: TestClient, name: str, value: int) -> None:
    for path in ("/v1/rerank", "/rerank"):
        answer = client.post(path, json=BODIES[path] | {name: value})
        assert answer.status_code in (200, 422), answer.text
        if name == "max_tokens_per_doc" and value in (0, 40, 4096):
            assert scores_of(answer.json()) == scores_of(
                client.post(path, json=BODIES[path]).json()
            )


def test_lengths_are_the_models_own(client: TestClient, reranker: Reranker) -> None:
    documents = ["a b c d e", "e"]
    answer = client.post(
        "/v1/rerank", json={"query": "a b c", "documents": documents, "max_tokens_per_doc": 2}
    )
    want = reranker.rank("a b c", documents, document_length=2)
    assert scores_of(answer.json()) == {one.index: one.score for one in want}
    for body, options in (
        ({"max_tokens_per_query": 2}, {"query_length": 2}),
        ({"truncate_prompt_tokens": 7}, {"max_length": 7}),
        ({"truncate_prompt_tokens": -1}, {}),
    ):
        pairs = [("a b c", one) for one in documents]
        answer = client.post("/v1/score", json={"queries": "a b c", "documents": documents} | body)
        np.testing.assert_array_equal(
            list(scores_of(answer.json()).values()), reranker.score(pairs, **options)
        )
