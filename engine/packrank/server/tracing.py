"""Spans of OpenTelemetry: FastAPI begins and ends a request's, and what it took is noted here."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

from packrank.errors import InputError
from packrank.serving.request import Usage

_LAST_SECONDS = 1.0


def telemetry(provider: trace.TracerProvider | None) -> TelemetryConfig:
    """What FastAPI traces, by a provider, or None for the process's own: requests with a body.

    Nothing that could quote a text of a body, and nothing that an environment variable turns on.
    """
    return {
        "exclude": lambda scope: scope.get("method") in ("GET", "HEAD"),  # probes, mostly
        "tracer_provider": provider,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
    }


def note(id: str, model: str, usage: Usage) -> None:
    """Say of the span of the request that is answered what it took, if there is one."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    span.set_attributes(
        {
            "packrank.request_id": id,
            "packrank.model": model,
            "packrank.pairs": usage.pairs,
            "packrank.tokens": usage.tokens,
            "packrank.tokenize_seconds": usage.tokenize_s,
            "packrank.queue_seconds": usage.queue_s,
            "packrank.forward_seconds": usage.forward_s,
        }
    )


@dataclass(frozen=True)
class Spans:
    """Where spans go.

    Attributes:
        provider: of OpenTelemetry, which makes them.
        shutdown: sends the last of them, if that does not take long.
    """

    provider: trace.TracerProvider
    shutdown: Callable[[], None]


def exporting(endpoint: str, service: str) -> Spans:
    """Spans that go to a collector, by OTLP over HTTP.

    Args:
        endpoint: of the collector, such as http://127.0.0.1:4318.
        service: whose spans they are.

    Raises:
        InputError: the endpoint is no URL, or OpenTelemetry's SDK is missing.
    """
    if not endpoint.startswith(("http://", "https://")):
        raise InputError(
            f"--otlp-endpoint is {endpoint!r}, expected a URL such as http://127.0.0.1:4318"
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise InputError(
            "--otlp-endpoint needs OpenTelemetry's SDK: pip install 'packrank[server,otlp]' "
            f"({error.name} is missing)"
        ) from None
    base = endpoint.rstrip("/")
    url = base if base.endswith("/v1/traces") else f"{base}/v1/traces"
    provider = TracerProvider(
        resource=Resource.create({"service.name": service}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))

    def shutdown() -> None:  # a collector that is gone would hold up the end of the server
        thread = Thread(target=provider.shutdown, name="packrank spans", daemon=True)
        thread.start()
        thread.join(_LAST_SECONDS)

    return Spans(provider, shutdown)
