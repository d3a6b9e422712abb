"""Spans of requests: whose they are, what they say, and that a collector gets them."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from packrank import InputError
from packrank.server import tracing
from packrank.server.tracing import exporting

Serve = Callable[..., TestClient]
SECRET = "words of nobody's business"
BODY = {"query": "red", "documents": ["blue owl", SECRET]}


@pytest.fixture
def spans() -> tuple[TracerProvider, InMemorySpanExporter]:
    kept, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return provider, kept


def test_a_request_is_a_span_of_its_clients_trace(
    serve: Serve, spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    client = serve(spans=spans[0])
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "mine"}
    answer = client.post("/v1/rerank", json=BODY, headers=headers)
    [span] = spans[1].get_finished_spans()
    assert span.parent is not None and span.context is not None and span.attributes is not None
    assert (span.name, f"{span.context.trace_id:032x}") == ("POST /v1/rerank", trace)
    assert f"{span.parent.span_id:016x}" == parent
    told = {
        name.removeprefix("packrank."): value
        for name, value in span.attributes.items()
        if name.startswith("packrank.")
    }
    taken = [told.pop(f"{what}_seconds") for what in ("tokenize", "queue", "forward")]
    assert all(isinstance(one, float) and one >= 0 for one in taken)
    tokens = answer.json()["usage"]["total_tokens"]
    assert told == {"request_id": "mine", "model": "small", "pairs": 2, "tokens": tokens}


@pytest.mark.parametrize(
    "body", [BODY, {"query": SECRET}, {**BODY, "documents": [SECRET, 5]}, {"query": [SECRET]}]
)
def test_no_text_of_a_user_is_in_any(
    serve: Serve, spans: tuple[TracerProvider, InMemorySpanExporter], body: dict[str, Any]
) -> None:
    serve(spans=spans[0]).post("/rerank", json=body)
    [span] = spans[1].get_finished_spans()
    assert SECRET not in span.to_json()


def test_what_fails_says_so(
    serve: Serve,
    spans: tuple[TracerProvider, InMemorySpanExporter],
) -> None:
    client = serve(spans=spans[0])
    assert client.post("/rerank", json={}).status_code == 422
    assert client.post("/nowhere", json={}).status_code == 404
    attributes = [dict(span.attributes or {}) for span in spans[1].get_finished_spans()]
    assert [one["http.response.status_code"] for one in attributes] == [422, 404]
    assert not any(name.startswith("packrank.") for one in attributes for name in one)


def test_the_environment_turns_nothing_on(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with serve() as client:
        assert client.post("/rerank", json=BODY).status_code == 200
        assert not [one.name for one in threading.enumerate() if "Otel" in one.name]


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    came: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", came
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["", "/", "/v1/traces"])
def test_a_collector_gets_them(
    serve: Serve, collector: tuple[str, list[tuple[str, bytes]]], path: str
) -> None:
    sent = exporting(collector[0] + path, "search")
    assert serve(spans=sent.provider).post("/rerank", json=BODY).status_code == 200
    sent.shutdown()
    [(asked, body)] = collector[1]
    assert asked == "/v1/traces"
    [found] = ExportTraceServiceRequest.FromString(body).resource_spans
    named = {one.key: one.value.string_value for one in found.resource.attributes}
    assert named["service.name"] == "search"
    assert [span.name for one in found.scope_spans for span in one.spans] == ["POST /rerank"]


def test_an_endpoint_is_a_url() -> None:
    with pytest.raises(InputError, match="expected a URL such as http"):
        exporting("127.0.0.1:4318", "packrank")


def test_a_collector_that_is_not_there_costs_no_answer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_LAST_SECONDS", 0.05)
    gone = exporting("http://127.0.0.1:9", "packrank")
    assert serve(spans=gone.provider).post("/rerank", json=BODY).status_code == 200
    gone.shutdown()
