"""Scores in the order of their pairs: vLLM's score, TEI's predict, and tokens."""

import math
import threading
import time
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from toy_model import Open

from packrank import Reranker
from packrank.server import pair_scores


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    ("left", "right"),
    [("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents"), ("queries", "items")],
)
def test_pairs_of_vllm(
    client: TestClient, reranker: Reranker, path: str, left: str, right: str
) -> None:
    for first, second, pairs in (
        ("a", "b", [("a", "b")]),
        (["a"], ["b"], [("a", "b")]),
        ("a", ["b", "", "c"], [("a", "b"), ("a", ""), ("a", "c")]),
        (["a", "d"], ["b", "c"], [("a", "b"), ("d", "c")]),
        ({"content": [{"type": "text", "text": "a"}]}, [{"text": "b"}], [("a", "b")]),
    ):
        body = {"model": "m", left: first, right: second}
        found = client.post(path, json=body).json()
        want = reranker.score(pairs).tolist()
        assert found["data"] == [
            {"index": index, "object": "score", "score": score} for index, score in enumerate(want)
        ]
        assert found["object"] == "list" and found["model"] == "small"
        assert found["id"].startswith("score-")
        assert abs(found["created"] - time.time()) < 60
        usage = found["usage"]
        assert usage["prompt_tokens"] == usage["total_tokens"] > 0
        assert usage["completion_tokens"] == 0 and usage["prompt_tokens_details"] is None
        raw = client.post(path, json=body | {"use_activation": False}).json()
        logits = reranker.score(pairs, activation="identity").tolist()
        assert [row["score"] for row in raw["data"]] == logits


def test_sagemaker_sends_any_of_them_to_one_route(client: TestClient) -> None:
    for path, body in (
        ("/predict", {"inputs": ["a", "b"]}),
        ("/score", {"text_1": "a", "text_2": ["b", "c"]}),
        ("/score", {"queries": ["a", "b"], "documents": ["b", "c"]}),
        ("/rerank", {"query": "a", "documents": ["b", "c"], "top_n": 1}),
        ("/rerank", {"query": "a", "texts": ["b", "c"]}),
    ):
        want, found = (client.post(one, json=body).json() for one in (path, "/invocations"))
        for answer in (want, found):
            if isinstance(answer, dict):
                answer.pop("id"), answer.pop("created", None)
        assert found == want
    refused = client.post("/invocations", json={"inputs": "a"})
    assert refused.status_code == 422 and refused.json()["error_type"] == "Validation"


def test_tokens_of_a_prompt_as_vllm_has_them(client: TestClient) -> None:
    for special in (True, False):
        body = {"model": "m", "prompt": "ab e", "add_special_tokens": special}
        [tokens] = client.post("/tokenize", json=body | {"inputs": "ab e"}).json()
        found = client.post("/tokenize", json=body).json()
        assert found == {
            "count": len(tokens), "max_model_len": 40, "tokens": [one["id"] for one in tokens],
            "token_strs": None,
        }  # fmt: skip
    named = client.post("/tokenize", json=body | {"return_token_strs": True}).json()
    assert named["token_strs"] == [one["text"] for one in tokens]


@pytest.mark.parametrize("path", ["/predict", "/"])
def test_predict_reads_two_texts_as_one_pair(
    client: TestClient, reranker: Reranker, path: str
) -> None:
    score, other = reranker.score([("a", "b"), ("c", "")]).tolist()
    one = client.post(path, json={"inputs": ["a", "b"]}).json()
    assert one == [{"score": score, "label": "LABEL_0"}]
    for inputs, want in (([["a", "b"]], [score]), ([["a", "b"], ["c", ""]], [score, other])):
        found = client.post(path, json={"inputs": inputs, "raw_scores": None}).json()
        assert found == [[{"score": value, "label": "LABEL_0"}] for value in want]
    raw = client.post(path, json={"inputs": ["a", "b"], "raw_scores": True}).json()
    assert raw[0]["score"] == reranker.score([("a", "b")], activation="identity")[0]


def test_predict_names_all_labels_best_first(serve: Any, toy: Open) -> None:
    client = serve(toy({"num_labels": 3, "labels": ("no", "maybe", "yes")}))
    rows = client.post("/predict", json={"inputs": [["q", "a"], ["q", "c"]]}).json()
    logits = {"a": np.array([1.0, 2.0, 3.0]), "c": np.array([-3.0, -6.0, -9.0])}
    for row, order, word in zip(
        rows, (["yes", "maybe", "no"], ["no", "maybe", "yes"]), "ac", strict=True
    ):
        assert [one["label"] for one in row] == order
        shares = np.exp(logits[word]) / np.exp(logits[word]).sum()
        found = [one["score"] for one in row]
        np.testing.assert_allclose(found, sorted(shares, reverse=True), rtol=1e-6)
    raw = client.post("/predict", json={"inputs": ["q", "a"], "raw_scores": True}).json()
    assert [(one["label"], one["score"]) for one in raw] == [
        ("yes", 3.0),
        ("maybe", 2.0),
        ("no", 1.0),
    ]
    labels = client.get("/info").json()["model_type"]["reranker"]
    assert labels["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
    assert labels["label2id"] == {"no": 0, "maybe": 1, "yes": 2}


def test_predict_of_one_label_is_a_sigmoid(toy_client: TestClient) -> None:
    [row] = toy_client.post("/predict", json={"inputs": ["q", "b"]}).json()
    assert row["score"] == pytest.approx(1 / (1 + math.exp(-2)), rel=1e-6)


@pytest.mark.parametrize("layer", [None, 0, 1])
def test_pairs_have_no_early_exits(client: TestClient, layer: int | None) -> None:
    for path, body in (
        ("/score", {"text_1": "a", "text_2": "b"}),
        ("/predict", {"inputs": ["a", "b"]}),
    ):
        answer = client.post(path, json=body | {"exit": "calibrated", "cutoff_layer": layer})
        assert answer.status_code == 422
        assert "in a ranking alone" in answer.text


def test_tokens_and_the_characters_they_stand_for(client: TestClient) -> None:
    [found] = client.post("/tokenize", json={"inputs": "ab e"}).json()
    assert found == [
        {"id": 2, "text": "[CLS]", "special": True, "start": None, "stop": None},
        {"id": 5, "text": "a", "special": False, "start": 0, "stop": 1},
        {"id": 11, "text": "b", "special": False, "start": 1, "stop": 2},
        {"id": 9, "text": "e", "special": False, "start": 3, "stop": 4},
        {"id": 3, "text": "[SEP]", "special": True, "start": None, "stop": None},
    ]
    for special in (False, "false", 0):
        bare = client.post(
            "/tokenize", json={"inputs": ["ab e", ""], "add_special_tokens": special}
        )
        assert bare.json() == [found[1:-1], []]
    long = client.post("/tokenize", json={"inputs": ["a " * 99]}).json()
    assert len(long[0]) == 101  # nothing is cut
    assert client.post("/tokenize", json={"inputs": []}).json() == []


def test_tokens_wait_in_the_engines_queue_under_all_of_its_limits(
    serve: Any, toy: Open, held: Any
) -> None:
    client = serve(toy(), queue=8, timeout_s=0.3, max_document_characters=100)
    engine = client.models.served[0].engine
    body = {"inputs": ["a b"] * 3}
    before = engine.totals.requests
    assert client.post("/tokenize", json=body).status_code == 200
    assert engine.totals.requests == before + 1
    several = client.post("/tokenize", json={"inputs": ["a" * 60] * 2})
    assert several.status_code == 422
    assert "120 characters, more than 100 together" in several.json()["error"]
    waiting = [engine.submit("q", ["a b"] * 4) for _ in range(3)]
    assert held.begun.wait(10)
    refused = client.post("/tokenize", json=body)
    assert refused.status_code == 429 and refused.headers["retry-after"]
    held.go.set()
    assert all(one.result(10) for one in waiting)


def test_tokens_are_made_where_no_process_waits_for_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    rows = pair_scores._rows

    def watched(*given: Any) -> Any:
        threads.append(threading.current_thread())
        return rows(*given)

    monkeypatch.setattr(pair_scores, "_rows", watched)
    many = ["ab e " * 5000, '\u00e4\u2028"\\ \x00']  # more than are objects at once
    found = client.post("/tokenize", json={"inputs": many}).json()
    assert [len(one) for one in found] == [15_002, len(found[1])]
    assert "".join(one["text"] for one in found[0][1:4]) == "abe"
    assert [one.daemon for one in threads] == [True, True]
