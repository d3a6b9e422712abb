"""What is not answered, in the words of each dialect, with a sentence and when to try again."""

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from toy_model import Open

from packrank import Reranker
from packrank.errors import PackrankError

Serve = Callable[..., TestClient]
OBJECT: dict[str, dict[str, Any]] = {
    "/v2/rerank": {"model": "m", "query": "q", "documents": ["a"]},
    "/v1/rerank": {"query": "q", "documents": ["a"]},
    "/rerank": {"query": "q", "documents": ["a"]},
    "/v1/ranking": {"query": {"text": "q"}, "passages": [{"text": "a"}]},
    "/v1/score": {"text_1": "q", "text_2": "a"},
}
TEI: dict[str, dict[str, Any]] = {
    "/rerank": {"query": "q", "texts": ["a"]},
    "/": {"query": "q", "texts": ["a"]},
    "/invocations": {"query": "q", "texts": ["a"]},
    "/predict": {"inputs": ["q", "a"]},
}
BOTH = [*(("object", *one) for one in OBJECT.items()), *(("tei", *one) for one in TEI.items())]
NAMES = [f"{dialect}:{path}" for dialect, path, _ in BOTH]
each_dialect = pytest.mark.parametrize(("dialect", "path", "body"), BOTH, ids=NAMES)

# Status -> what vLLM and TEI call it.
KINDS = {
    400: ("BadRequestError", "Validation"),
    401: ("AuthenticationError", "Unauthorized"),
    404: ("NotFoundError", "Validation"),
    408: ("Error", "Backend"),
    413: ("RequestTooLarge", "Validation"),
    415: ("UnsupportedMediaType", "Validation"),
    422: ("UnprocessableEntityError", "Validation"),
    424: ("BackendError", "Backend"),
    429: ("RateLimitError", "Overloaded"),
    500: ("InternalServerError", "Backend"),
    503: ("ServiceUnavailableError", "Unhealthy"),
    504: ("TimeoutError", "Overloaded"),
}


def check(answer: Any, status: int, dialect: str, said: str, kind: str | None = None) -> None:
    """The body is what every client of the dialect reads."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    if dialect == "tei":
        assert body == {"error": body["error"], "error_type": kind or KINDS[status][1]}
        assert said in body["error"]
    else:
        assert set(body) == {"id", "message", "detail", "error"}
        uuid.UUID(body["id"])
        error = body["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert body["message"] == body["detail"] == error["message"]
        assert said in body["message"]
        assert (error["type"], error["code"]) == (KINDS[status][0], status)
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
        assert (
            1 <= int(answer.headers["retry-after-ms"]) <= 1000 * int(answer.headers["retry-after"])
        )
    else:
        assert "retry-after" not in answer.headers


@each_dialect
def test_401(serve: Serve, dialect: str, path: str, body: dict[str, Any]) -> None:
    answer = serve(api_keys=("secret",)).post(path, json=body)
    # Who has no key is read nothing of, so the route alone says what its clients read.
    usual = "tei" if path in ("/", "/predict") else "object"
    check(answer, 401, usual, "no api key supplied")
    assert answer.headers["www-authenticate"] == "Bearer"


@each_dialect
def test_404_of_a_model_that_is_not_served(
    serve: Serve, dialect: str, path: str, body: dict[str, Any]
) -> None:
    strict = serve(strict_models=True)
    answer = strict.post(path, json=body | {"model": "other"})
    check(answer, 404, dialect, "model 'other' not found")
    assert strict.post(path, json=body | {"model": "small"}).status_code == 200
    if path != "/v2/rerank":
        assert strict.post(path, json=body | {"model": None}).status_code == 200


def test_the_model_of_a_path_is_the_model(serve: Serve) -> None:
    """As NIM has it; what the body names comes first."""
    strict = serve(strict_models=True)
    body = {"query": {"text": "a"}, "passages": [{"text": "b"}]}
    at = "/v1/retrieval/{}/reranking"
    assert strict.post(at.format("small"), json=body).status_code == 200
    assert strict.post(at.format("some/other"), json=body).status_code == 404
    assert strict.post(at.format("other"), json=body | {"model": "small"}).status_code == 200


def test_what_is_no_text_is_said_in_words(client: TestClient) -> None:
    for body, said in (
        ({"query": "q", "passages": [{"text": "a"}]}, 'query: expected an object with "text"'),
        ({"query": {"text": "q"}, "passages": ["a"]}, 'passages.0: expected an object with "text"'),
        ({"query": {"text": 1}, "passages": [{"text": "a"}]}, "query.text: expected a text"),
    ):
        answer = client.post("/v1/ranking", json=body)
        assert answer.status_code == 422
        assert said in answer.text.replace('\\"', '"')


def test_get_is_head(client: TestClient) -> None:
    for path in ("/info", "/metrics", "/v1/models", "/live", "/version", "/health", "/"):
        answer = client.head(path)
        assert answer.status_code == 200, path
        assert not answer.content


def test_400_of_no_model_where_cohere_requires_one(serve: Serve, client: TestClient) -> None:
    body = {"query": "q", "documents": ["a"]}
    answer = serve(strict_models=True).post("/v2/rerank", json=body)
    check(answer, 400, "object", "a model parameter is required for this endpoint.")
    assert client.post("/v2/rerank", json=body).status_code == 200


@pytest.mark.parametrize(("path", "dialect"), [("/v1/rerank", "object"), ("/predict", "tei")])
def test_400_of_what_is_no_json(client: TestClient, path: str, dialect: str) -> None:
    headers = {"content-type": "application/json"}
    for content in (b"", b"{", b'{"query": "\xff"}', b'{"query": "\\ud800"}', b'{"a": NaN}'):
        check(client.post(path, content=content, headers=headers), 400, dialect, "is no JSON")
    for content in (b"[]", b"null", b'"text"'):
        check(client.post(path, content=content, headers=headers), 422, dialect, "no JSON object")


def test_400_of_nothing_to_rank(client: TestClient) -> None:
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        answer = client.post(path, json={"model": "m", "query": "q", "documents": []})
        check(answer, 400, "object", "invalid request: list of documents must not be empty")
    answer = client.post("/rerank", json={"query": "q", "texts": []})
    check(answer, 400, "tei", "`texts` cannot be empty", kind="Empty")
    check(client.post("/score", json={"text_1": "q", "text_2": []}), 400, "object", "nothing")


@each_dialect
def test_413(serve: Serve, dialect: str, path: str, body: dict[str, Any]) -> None:
    usual = "tei" if path in ("/", "/predict") else "object"
    small = serve(max_body_bytes=15)
    check(small.post(path, json=body), 413, usual, "more than 15 bytes")

    def in_parts() -> Any:
        yield b'{"query": "q",'
        yield b" " * 30

    answer = small.post(path, content=in_parts(), headers={"content-type": "application/json"})
    check(answer, 413, usual, "more than 15 bytes")


@each_dialect
def test_415(client: TestClient, dialect: str, path: str, body: dict[str, Any]) -> None:
    usual = "tei" if path in ("/", "/predict") else "object"
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = client.post(path, content=b"{}", headers={"content-type": kind})
        check(answer, 415, usual, f"the body is {kind}, expected application/json")
    answer = client.post(path, content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    check(answer, 415, usual, "the body is encoded as gzip")


def test_content_types_that_are_json(client: TestClient) -> None:
    for kind in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/ld+json", ""):
        answer = client.post(
            "/rerank", content=b'{"query": "q", "texts": ["a"]}', headers={"content-type": kind}
        )
        assert answer.status_code == 200


@each_dialect
def test_422_names_what_is_wrong(
    client: TestClient, dialect: str, path: str, body: dict[str, Any]
) -> None:
    answer = client.post(path, json=body | {"priority": "soon"})
    check(answer, 422, dialect, "priority")
    if dialect == "object":
        assert answer.json()["error"]["param"] == "priority"
    for odd in (-1, 1000):
        check(client.post(path, json=body | {"priority": odd}), 422, dialect, "priority")


@pytest.mark.parametrize(
    ("path", "body", "dialect", "said"),
    [
        ("/v1/rerank", {}, "object", "query: is missing"),
        ("/v1/rerank", {"query": "q"}, "object", "documents is missing"),
        ("/v1/rerank", {"query": None, "documents": ["a"]}, "object", "query: expected a text"),
        ("/v1/rerank", {"query": ["q"], "documents": ["a"]}, "object", "got a list"),
        ("/v1/rerank", {"query": "q", "documents": 7}, "object", "documents"),
        ("/v1/rerank", {"query": "q", "texts": ["a"], "documents": ["a"]}, "object", "send one"),
        ("/rerank", {"texts": ["a"]}, "tei", "query: is missing"),
        ("/rerank", {"query": "q", "texts": "a"}, "tei", "texts"),
        ("/", {"query": "q"}, "tei", "inputs"),
        ("/predict", {}, "tei", "inputs: is missing"),
        ("/predict", {"inputs": "alone"}, "tei", 'as ["query", "text"]'),
        ("/predict", {"inputs": ["a", "b", "c"]}, "tei", "`inputs` must be"),
        ("/predict", {"inputs": [["a", "b"], []]}, "tei", "`inputs` must be"),
        ("/predict", {"inputs": []}, "tei", "`inputs` must be"),
        ("/v1/ranking", {"query": {"text": "q"}, "passages": []}, "object", "must not be empty"),
        ("/v1/ranking", {"query": {}, "passages": [{"text": "a"}]}, "object", "query"),
        ("/tokenize", {}, "tei", "inputs"),
        ("/explain", {"query": "q", "document": "d"}, "object", "only late interaction"),
    ],
)
def test_422_says_it_in_a_sentence(
    client: TestClient, path: str, body: Any, dialect: str, said: str
) -> None:
    check(client.post(path, json=body), 422, dialect, said)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "expected queries and documents"),
        ({"queries": "q"}, "expected queries and documents"),
        ({"text_1": ["a", "b"], "text_2": ["c"]}, "text_1 has 2 and text_2 1"),
        ({"data_1": [7], "data_2": ["c"]}, "got a number"),
    ],
)
def test_400_of_sides_that_do_not_match(client: TestClient, body: Any, said: str) -> None:
    check(client.post("/score", json=body), 400, "object", said)


@each_dialect
def test_424_of_scores_that_are_not_finite(
    toy_client: TestClient, dialect: str, path: str, body: dict[str, Any]
) -> None:
    def broken(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: broken(one) for name, one in value.items()}
        return [broken(x) for x in value] if isinstance(value, list) else value.replace("a", "nan")

    answer = toy_client.post(path, json=broken(body))
    check(answer, 424, dialect, "document at index 0: the model's logits for it are not finite")


def test_424_of_a_model_that_ranks_nothing(serve: Serve, toy: Open) -> None:
    labels = serve(toy({"num_labels": 3}))
    check(labels.post("/rerank", json=TEI["/rerank"]), 424, "tei", "model is not a re-ranker model")
    check(labels.post("/v1/rerank", json=OBJECT["/rerank"]), 424, "object", "not a re-ranker")
    check(labels.post("/score", json=OBJECT["/v1/score"]), 422, "object", "3 labels; ask /predict")


@each_dialect
def test_429_when_the_queue_is_full(
    serve: Serve, toy: Open, held: Any, dialect: str, path: str, body: dict[str, Any]
) -> None:
    client = serve(toy(activation="sigmoid"), queue=8)
    engine = client.models.served[0].engine  # type: ignore[attr-defined]
    waiting = [engine.submit("q", ["a b"] * 4) for _ in range(3)]
    check(client.post(path, json=body), 429, dialect, "model is overloaded")
    held.go.set()
    assert [len(one.result(10)) for one in waiting] == [4] * 3
    assert client.post(path, json=body).status_code == 200


@each_dialect
def test_500_tells_nothing(
    client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    dialect: str,
    path: str,
    body: dict[str, Any],
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the text was: secret")

    monkeypatch.setattr("packrank.serving.engine.Engine.submit_pairs", fails)
    answer = client.post(path, json=body)
    check(answer, 500, dialect, "was not foreseen")
    assert "secret" not in answer.text


def test_500_of_what_the_engine_says_itself(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise PackrankError("the device is gone")

    monkeypatch.setattr("packrank.serving.engine.Engine.submit_pairs", fails)
    check(client.post("/rerank", json=TEI["/rerank"]), 500, "tei", "the device is gone")


@each_dialect
@pytest.mark.parametrize("state", ["warming", "draining", "failed"])
def test_503_before_and_after(
    serve: Serve, dialect: str, path: str, body: dict[str, Any], state: str
) -> None:
    client = serve()
    models = client.models  # type: ignore[attr-defined]
    models.state, models.why = state, "no weights"
    said = {"warming": "is being loaded", "draining": "shutting down", "failed": "no weights"}[
        state
    ]
    check(client.post(path, json=body), 503, dialect, said)
    for probe in ("/health", "/health/ready", "/v1/health/ready", "/ping", "/"):
        check(client.get(probe), 503, "tei", said)
    for probe in ("/health/live", "/v1/health/live"):
        assert client.get(probe).status_code == (503 if state == "failed" else 200)
    models.state = "ready"
    assert client.post(path, json=body).status_code == 200


def test_503_of_an_engine_that_was_closed(serve: Serve, reranker: Reranker) -> None:
    client = serve()
    client.models.served[0].engine.close()  # type: ignore[attr-defined]
    check(client.post("/rerank", json=TEI["/rerank"]), 503, "tei", "takes no more requests")


@each_dialect
def test_504(
    serve: Serve, toy: Open, held: Any, dialect: str, path: str, body: dict[str, Any]
) -> None:
    client = serve(toy(activation="sigmoid"), timeout_s=0.01)
    engine = client.models.served[0].engine  # type: ignore[attr-defined]
    first = engine.submit("q", ["a"])
    assert held.begun.wait(10)
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(client.post, path, json=body)
        time.sleep(0.05)  # more than the time it has
        held.go.set()
        check(second.result(30), 504, dialect, "no answer within")
    assert first.result(10)


@pytest.mark.parametrize("count", [2, 3])
@each_dialect
def test_422_of_more_documents_than_are_allowed(
    serve: Serve, dialect: str, path: str, body: dict[str, Any], count: int
) -> None:
    client = serve(max_documents=2, max_document_characters=3)
    several = {
        name: value * count if name in ("documents", "texts", "passages") else value
        for name, value in body.items()
    }
    if "text_2" in body:
        several["text_2"] = ["a"] * count
    if "inputs" in body:
        several["inputs"] = [["q", "a"]] * count
    answer = client.post(path, json=several)
    if count == 2:
        assert answer.status_code == 200
    else:
        check(answer, 422, dialect, "batch size 3 > maximum allowed batch size 2")


def test_422_of_a_text_that_is_longer_than_allowed(serve: Serve) -> None:
    client = serve(max_document_characters=3)
    body = {"query": "q", "documents": ["abc", "abcd"]}
    check(client.post("/v1/rerank", json=body), 422, "object", "index 1 has 4 characters")
    body = {"query": "abcd", "texts": ["a"]}
    check(client.post("/rerank", json=body), 422, "tei", "query has 4 characters")
    body = {"text_1": ["a", "abcd"], "text_2": ["a", "b"]}
    check(client.post("/score", json=body), 422, "object", "query has 4 characters")
    check(client.post("/tokenize", json={"inputs": "abcd"}), 422, "tei", "4 characters")
