"""A server over a small reranker, asked without a network."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from toy_model import Open, ToyModel

from packrank import Engine, Reranker
from packrank.server.app import create_app
from packrank.server.metrics import Metrics
from packrank.server.models import Models, Served
from packrank.server.settings import Settings

Serve = Callable[..., TestClient]


@pytest.fixture(scope="session")
def reranker(small_bert: Path) -> Reranker:
    return Reranker(small_bert, activation="sigmoid")


@contextmanager
def served() -> Iterator[Serve]:
    """serve(model, **settings): a client of a server of one model, or of several by name."""
    engines: list[Engine] = []

    def start(
        model: Any, *, queue: int | None = None, spans: Any = None, **settings: Any
    ) -> TestClient:
        metrics, models = Metrics(), Models()
        for name, one in (model if isinstance(model, dict) else {"small": model}).items():
            engine = Engine(one, max_queue_tokens=queue, watch=metrics)
            engines.append(engine)
            models.served.append(Served(name, engine))
        chosen = replace(Settings(), **settings)
        models.state, models.strict = "ready", chosen.strict_models
        app = create_app(models, chosen, metrics, spans)
        client = TestClient(app, raise_server_exceptions=False, follow_redirects=False)
        client.models = models  # type: ignore[attr-defined]
        return client

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture
def serve(reranker: Reranker) -> Iterator[Serve]:
    """The same; of the small reranker, where no model is given."""
    with served() as start:
        yield lambda model=None, **settings: start(model or reranker, **settings)


@pytest.fixture(scope="module")  # no longer: tests elsewhere look at which threads there are
def shared_client(reranker: Reranker) -> Iterator[TestClient]:
    with served() as start:
        yield start(reranker)


@pytest.fixture
def client(shared_client: TestClient) -> TestClient:
    """Of a server of the small reranker, which is ready whatever the last test did to it."""
    shared_client.models.state = "ready"  # type: ignore[attr-defined]
    return shared_client


@pytest.fixture
def toy_client(serve: Serve, toy: Open) -> TestClient:
    """Of a server of a model whose logits are sums of its words' values."""
    return serve(toy(activation="sigmoid"))


class Held:
    """Where packs of toy models wait: `begun` is set by the first, and `go` lets them all run."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    gate = Held()
    logits = ToyModel.logits

    def waiting(model: ToyModel, pack: Any) -> Any:
        gate.begun.set()
        assert gate.go.wait(10)
        return logits(model, pack)

    monkeypatch.setattr(ToyModel, "logits", waiting)
    yield gate
    gate.go.set()
