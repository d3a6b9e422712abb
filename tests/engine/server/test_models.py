"""Which models are served, and whether they answer: probes, and the log of what is refused."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from toy_model import Open, ToyModel

from packrank.serving.pump import Pump

Serve = Callable[..., TestClient]


@pytest.mark.parametrize("ends", [False, True])
def test_503_of_probes_where_an_engine_has_failed(
    serve: Serve, toy: Open, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """Else nobody would ever end a server whose device is lost."""
    logits, is_lost = ToyModel.logits, [True]

    def lost(model: ToyModel, pack: Any) -> Any:
        if is_lost[0]:
            raise RuntimeError("CUDA error: secret")
        return logits(model, pack)

    monkeypatch.setattr(ToyModel, "logits", lost)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    client = serve({"sound": toy(), "lost": toy()})
    body = {"query": "q", "documents": ["a"], "model": "lost"}
    if ends:
        monkeypatch.setattr(Pump, "_start", lambda *_: 1 / 0)
    answers = [client.post("/rerank", json=body).status_code for _ in range(1 if ends else 5)]
    assert set(answers) == {503 if ends else 500}
    for probe in ("/health", "/v1/health/ready", "/", "/health/live", "/v1/health/live"):
        answer = client.get(probe)
        assert (answer.status_code, answer.json()["error_type"]) == (503, "Unhealthy")
        assert answer.json()["error"].startswith("the model 'lost' cannot answer: ")
        assert answer.headers["retry-after"] and "secret" not in answer.text
    is_lost[0] = False
    assert client.post("/rerank", json=body).status_code == (503 if ends else 200)
    for probe in ("/health", "/health/live"):
        assert client.get(probe).status_code == (503 if ends else 200)


@pytest.mark.parametrize(
    ("state", "names"),
    [("warming", ["", ""]), ("draining", ["small", "other"]), ("failed", ["small", "other"])],
)
def test_what_is_refused_is_logged_with_its_model(
    serve: Serve, toy: Open, monkeypatch: pytest.MonkeyPatch, state: str, names: list[str]
) -> None:
    logged: list[Any] = []
    monkeypatch.setattr(
        logging.getLogger("packrank.server"), "log", lambda *_, extra: logged.append(extra)
    )
    client = serve({"small": toy(), "other": toy()})
    models: Any = client.models  # type: ignore[attr-defined]
    models.state, models.served = state, models.served if names[0] else []
    for given in ("placeholder", "other"):
        body = {"query": "q", "documents": ["a"] * 3, "model": given}
        assert client.post("/rerank", json=body).status_code == 503
    assert [one["model"] for one in logged] == names
    assert {(one["status"], one["pairs"]) for one in logged} == {(503, 3)}
