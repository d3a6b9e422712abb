"""packrank serve: models over HTTP."""

import argparse
import os
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from packrank.commands.scorer import asked_for
from packrank.commands.serve_options import keys_of
from packrank.errors import InputError
from packrank.late_interaction import LateInteraction
from packrank.reranker import Reranker

_EXTRA = (
    "packrank serve needs FastAPI, uvicorn, orjson and prometheus-client: "
    "pip install 'packrank[server]'"
)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it; returns the exit status, 1 where requests were lost by that."""
    try:
        from packrank.server.logs import log_to_stderr
        from packrank.server.metrics import Metrics
        from packrank.server.models import Served
        from packrank.server.run import serve
        from packrank.server.settings import Settings
        from packrank.server.sockets import listening, listening_at
        from packrank.server.tracing import exporting
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("packrank"):
            raise
        raise InputError(f"{_EXTRA} ({error.name} is missing)") from None
    from packrank.serving.engine import Engine

    names = _names(args)
    asked = list(_asked(args))
    tls = _tls(args)
    settings = Settings(
        api_keys=keys_of(args),
        max_body_bytes=args.payload_limit,
        max_documents=args.max_client_batch_size,
        timeout_s=args.request_timeout,
        drain_s=args.shutdown_timeout,
        strict_models=args.strict_models,
        auto_truncate=args.auto_truncate,
        return_documents=args.v2_echo_documents,
        cors_origins=tuple(args.cors_origin),
        page=not args.no_page,
    )

    def opened(metrics: Metrics) -> list[Served]:
        served = []
        for name, (folder, door, options) in zip(names, asked, strict=True):
            model = door(folder, **options)
            if isinstance(model, Reranker):
                model.warm_up()
            engine = Engine(
                model, max_queue_tokens=args.max_queue_tokens, cache_bytes=args.cache_bytes,
                watch=metrics,
            )  # fmt: skip
            engine.submit_pairs([("a query", "a document")]).result()
            served.append(Served(name, engine))
        return served

    to, by = args.otlp_endpoint, args.otlp_service_name
    spans = None if to is None else exporting(to, by)
    log_to_stderr(args.log_level)
    sockets = [listening_at(args.uds)] if args.uds else listening(args.host, args.port)
    try:
        models = serve(opened, settings, sockets, spans, **tls)
    finally:
        if args.uds:
            with suppress(OSError):
                os.unlink(args.uds)
    if models.error is not None:
        raise models.error
    status = 1 if models.lost else 0
    if models.is_stuck:  # in a thread that Python would disturb in vain while it ends
        os._exit(status)
    return status


def _tls(args: argparse.Namespace) -> dict[str, str]:
    """The options of TLS, tried."""
    key, certificate = args.ssl_keyfile, args.ssl_certfile
    if key is None and certificate is None:
        return {}
    if certificate is None:
        raise InputError("--ssl-keyfile takes --ssl-certfile beside it")
    for file in (key, certificate):
        if file is not None and not os.path.isfile(file):
            raise InputError(f"{file} is no file")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=lambda: b"")  # nobody is asked for one
    except (OSError, ValueError) as error:
        raise InputError(
            f"{certificate} and {key or 'the key in it'} cannot be used for TLS: "
            f"{getattr(error, 'reason', None) or error}; they take PEM, without a password"
        ) from None
    return {"ssl_certfile": certificate} | ({} if key is None else {"ssl_keyfile": key})


def _names(args: argparse.Namespace) -> list[str]:
    if len(args.served_model_name) > len(args.models):
        raise InputError(
            f"--served-model-name is given {len(args.served_model_name)} times, for "
            f"{len(args.models)} models"
        )
    names = [*args.served_model_name, *args.models[len(args.served_model_name) :]]
    names = [Path(name).name if os.path.isdir(name) else name for name in names]
    if len(set(names)) < len(names):
        raise InputError("two models have one name; give each its own by --served-model-name")
    return names


def _asked(
    args: argparse.Namespace,
) -> Iterator[tuple[Path, type[Reranker] | type[LateInteraction], dict[str, Any]]]:
    """Folder, front door and options of each, checked before anything is loaded."""
    for model in args.models:
        one = argparse.Namespace(**vars(args) | {"model": model})
        folder, door, options = asked_for(one)
        if args.budget_tokens is not None:
            options["budget_tokens"] = args.budget_tokens
        if door is Reranker:
            options.setdefault("activation", "sigmoid")
        yield folder, door, options
