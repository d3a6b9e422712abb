"""What servers and clients stumble over, a test each; those of numerics by where theirs are."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from source_tree import ROOT

from packrank import Reranker

DOCUMENTS = ["a bc", "de", "a bc", "", ""]
OBJECT = {"model": "m", "query": "a b", "documents": DOCUMENTS}
TEXTS = {"query": "a b", "texts": DOCUMENTS}
LONG = "a b " * 99


def results(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    rows: list[dict[str, Any]] = body if isinstance(body, list) else body["results"]
    return rows


def test_langchain_cohere_sends_null(client: TestClient) -> None:
    rows = results(
        client.post("/v2/rerank", json=OBJECT | {"top_n": 3, "max_tokens_per_doc": None})
    )
    assert len(rows) == 3


def test_ragflow_sends_truth_as_text(client: TestClient) -> None:
    body = OBJECT | {"return_documents": "true", "return_len": "true"}
    assert all("document" in row for row in results(client.post("/v1/rerank", json=body)))


def test_litellm_sends_truncate_false_to_tei(client: TestClient) -> None:
    body = TEXTS | {"truncate": False, "return_text": True, "raw_scores": False}
    assert len(results(client.post("/rerank", json=body))) == 5
    refused = client.post("/rerank", json=body | {"texts": ["a", LONG]})
    assert refused.status_code == 422
    assert "document at index 1" in refused.json()["error"]


def test_litellm_infinity_wants_no_object(client: TestClient) -> None:
    """Its documents are strings, others' objects, and their requests are alike: only without."""
    rows = results(client.post("/rerank", json=OBJECT | {"return_documents": False}))
    assert [row.get("document") for row in rows] == [None] * 5


def test_llama_index_sends_tei_a_bare_key(serve: Any) -> None:
    guarded = serve(api_keys=("secret",))
    assert results(guarded.post("/rerank", json=TEXTS, headers={"Authorization": "secret"}))


def test_dify_reads_the_first_key_of_model_type(client: TestClient) -> None:
    assert next(iter(client.get("/info").json()["model_type"])) == "reranker"


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("asked", [{}, *({"return_documents": one} for one in (None, True, False))])
def test_a_document_is_an_object_or_absent(client: TestClient, path: str, asked: Any) -> None:
    for row in results(client.post(path, json=OBJECT | asked)):
        assert "document" not in row or row["document"] == {"text": DOCUMENTS[row["index"]]}


def test_errors_say_it_where_each_client_looks(client: TestClient) -> None:
    body = client.post("/v1/rerank", json={"query": "a"}).json()
    assert body["message"] == body["detail"] == body["error"]["message"]


def test_teis_errors_are_capitalised_and_batches_too_large_are_422(serve: Any) -> None:
    answer = serve(max_documents=2).post("/rerank", json=TEXTS)
    assert answer.status_code == 422
    assert answer.json() == {
        "error": "batch size 5 > maximum allowed batch size 2",
        "error_type": "Validation",
    }


def test_predict_of_two_texts_is_one_pair(client: TestClient, reranker: Reranker) -> None:
    found = client.post("/predict", json={"inputs": ["a", "b"]}).json()
    assert found == [{"score": reranker.score([("a", "b")])[0], "label": "LABEL_0"}]


def test_a_base_url_with_a_version_pasted_into_cohere(client: TestClient) -> None:
    for path in ("/v1/v2/rerank", "/v1/v1/rerank", "/v2/v2/rerank"):
        assert len(results(client.post(path, json=OBJECT))) == 5


def test_open_webui_needs_every_index(client: TestClient) -> None:
    rows = results(client.post("/v1/rerank", json=OBJECT | {"top_n": 5}))
    assert sorted(row["index"] for row in rows) == [0, 1, 2, 3, 4]


def test_ragflow_rescales_scores_outside_of_0_to_1(toy_client: TestClient) -> None:
    body = {"query": "q", "documents": ["high", "high high", "c c c c", "a"]}
    scores = [row["relevance_score"] for row in results(toy_client.post("/v1/rerank", json=body))]
    assert all(0 <= score <= 1 for score in scores)


def test_scores_that_round_to_one_are_still_in_order(toy_client: TestClient) -> None:
    body = {"query": "q", "texts": ["high", "high high", "high a", "c c"]}
    rows = results(toy_client.post("/rerank", json=body))
    assert [row["index"] for row in rows] == [1, 2, 0, 3]
    assert [row["score"] for row in rows][:3] == [1.0, 1.0, 1.0]


def test_keys_are_wanted_on_routes_without_a_version(serve: Any) -> None:
    guarded = serve(api_keys=("secret",))
    for path in ("/rerank", "/score", "/predict", "/", "/tokenize", "/explain", "/invocations"):
        assert guarded.post(path, json=TEXTS).status_code == 401


def test_documents_that_are_equal_or_empty_score(client: TestClient, reranker: Reranker) -> None:
    want = [(one.index, one.score) for one in reranker.rank("a b", DOCUMENTS)]
    for body in (OBJECT, OBJECT | {"documents": [" ", "\n", ""], "query": ""}):
        rows = results(client.post("/v2/rerank", json=body))
        assert len(rows) == len(body["documents"])
        if body is OBJECT:
            assert [(row["index"], row["relevance_score"]) for row in rows] == want


def test_top_n_of_0_is_all(client: TestClient) -> None:
    assert len(results(client.post("/v1/rerank", json=OBJECT | {"top_n": 0}))) == 5


NUMERICS = {
    "a decoder's template is whole after truncation": (
        *("engine/text/test_prompt.py::test_qwen3_is_cut_at_the_documents_tail",),
        *("engine/text/test_chat_template.py::test_truncation_at_every_length",),
    ),
    "a decoder without its template is refused": (
        "engine/scoring/test_recognition.py::test_by_name",
    ),
    "GELU is the one that the model names": (
        *("kernels/test_linear.py::test_activation", "e2e/test_parity.py::test_logits_of_variants"),
    ),
    "ModernBERT's classifier_pooling counts": ("e2e/test_parity.py::test_logits_of_variants",),
    "XLM-R's positions start behind the padding's": (
        *("e2e/test_parity.py::test_logits",),
        *("e2e/test_parity.py::test_literal_padding_ids_keep_the_padding_position",),
    ),
    "token types are right after truncation": (
        "engine/text/test_layout.py::test_pairs_equal_the_library_at_every_length",
    ),
    "activations keep the order of logits": (
        "engine/scoring/test_activations.py::test_what_an_activation_rounds_to_one_score_is_still_in_order",
    ),
}


@pytest.mark.parametrize("trap", NUMERICS)
def test_traps_of_numerics_have_their_tests(trap: str) -> None:
    for place in NUMERICS[trap]:
        file, name = place.split("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")
