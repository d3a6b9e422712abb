"""The application: which route is whose, around what all requests have in common."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from opentelemetry.trace import TracerProvider
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match, Route

from packrank import __version__
from packrank.server import about, pair_scores, rerank, tracing
from packrank.server.access import check_key
from packrank.server.bodies import SIDES
from packrank.server.exchange import read_json, refusal, reply, timing_headers, wait_for
from packrank.server.logs import LOG
from packrank.server.metrics import Metrics
from packrank.server.models import Models
from packrank.server.page import page
from packrank.server.paths import Pasted
from packrank.server.problems import Dialect, Problem, problem_of
from packrank.server.rerank import Answered
from packrank.server.schema import components, describe
from packrank.server.scoring import Asker
from packrank.server.settings import Settings

Handler = Callable[[dict[str, Any], Asker, Models], Awaitable[Answered]]


def create_app(
    models: Models,
    settings: Settings,
    metrics: Metrics | None = None,
    spans: TracerProvider | None = None,
) -> FastAPI:
    """The application over models that are served, or will be once they are opened.

    Args:
        models: growing ready meanwhile.
        settings: of the server.
        metrics: that engines tell theirs; None: of requests alone.
        spans: where a request's go; None: to the process's own, if it has any.
    """
    metrics = metrics or Metrics()
    app = FastAPIOffline(  # whose page of documentation loads nothing from elsewhere
        docs_url="/docs",
        redoc_url=None,
        static_url="/docs/static",
        title="Packrank",
        version=__version__,
        description="Rerankers behind the routes of Cohere, Jina, vLLM, text-embeddings-inference "
        "and NVIDIA NIM.",
        redirect_slashes=False,
        telemetry=tracing.telemetry(spans),
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"], allow_headers=["*"],
        )  # fmt: skip
    app.add_middleware(Pasted)

    async def answer(request: Request, handler: Handler, dialect: Dialect) -> Response:
        begun = time.perf_counter()
        given_id = request.headers.get("x-request-id", "")[:200]
        id = given_id if given_id.isascii() and given_id.isprintable() else ""
        id = id or uuid.uuid4().hex
        status, pairs, model = 500, 0, ""
        given: dict[str, Any] = {}
        try:
            caller = check_key(request.headers, settings.api_keys)
            given = await read_json(request, settings.max_body_bytes)
            dialect = rerank.dialect_of(given, dialect)
            if given.get("model") is None and "model" in request.path_params:
                given["model"] = request.path_params["model"]
            asker = Asker(settings, partial(wait_for, request), caller)
            with models.answering():
                body, usage, characters, served = await handler(given, asker, models)
            model, pairs = served.name, usage.pairs
            tracing.note(id, model, usage)
            response = reply(body, 200, timing_headers(usage, characters, served.device))
            status = 200
        except (Exception, asyncio.CancelledError) as error:  # cancelled: it has to end
            problem = problem_of(error)
            status = problem.status
            if status == 500:
                LOG.exception("a request failed", extra={"request_id": id})
            response = refusal(problem, dialect)
            pairs = _size(given)
            with suppress(Problem):  # a name that is not served
                model = models.name_of(given.get("model"))
        response.headers["x-request-id"] = id
        seconds = time.perf_counter() - begun
        route = request.scope["route"].path
        metrics.request(route, dialect, status, seconds)
        LOG.log(
            logging.WARNING if status >= 500 else logging.INFO, "request",
            extra={"request_id": id, "route": route, "status": status, "model": model,
                   "pairs": pairs, "seconds": round(seconds, 6)},
        )  # fmt: skip
        return response

    def scoring(path: str, handler: Handler, dialect: Dialect, kind: str) -> None:
        async def route(request: Request) -> Response:
            return await answer(request, handler, dialect)

        route.__doc__ = (handler.__doc__ or "").partition("\n\n")[0]
        name = (path.strip("/") or "root").replace("/", "_")
        app.add_api_route(
            path, route, methods=["POST"], name=name, operation_id=name,
            include_in_schema="{" not in path, **describe(kind),
        )  # fmt: skip

    echoing = partial(rerank.rerank, echo=True)
    plain = partial(rerank.rerank, echo=settings.return_documents, required=True)
    for partially in (echoing, plain):
        partially.__doc__ = rerank.rerank.__doc__
    for path in ("/rerank", "/v1/rerank", "/reranking"):
        scoring(path, echoing, "object", "rerank")
    scoring("/invocations", _invoke, "object", "invoke")
    scoring("/v2/rerank", plain, "object", "rerank")
    for path in ("/v1/ranking", "/v1/retrieval/{model:path}/reranking"):
        scoring(path, rerank.nim, "object", "nim")
    for path in ("/score", "/v1/score"):
        scoring(path, pair_scores.score, "object", "score")
    scoring("/predict", pair_scores.predict, "tei", "predict")
    scoring("/", _predict_or_rerank, "tei", "predict or rerank")
    scoring("/tokenize", pair_scores.tokenize, "tei", "tokenize")
    scoring("/explain", about.explain, "object", "explain")
    _about(app, models, settings, metrics)
    metrics.watch(models)
    _document(app, settings)
    return app


def _size(given: dict[str, Any]) -> int:
    """Of a body that was not answered, how many documents it has, as far as that is to be seen."""
    lists = (given.get(name) for name in ("documents", "texts", "passages", "inputs"))
    return next((len(one) for one in lists if isinstance(one, list)), 0)


def _document(app: FastAPI, settings: Settings) -> None:
    """Put the schemas that routes refer to into OpenAPI, and whether they want a key."""
    made = app.openapi

    def whole() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            document.setdefault("components", {}).setdefault("schemas", {}).update(components())
            if settings.api_keys:
                key = {"type": "http", "scheme": "bearer"}
                document["components"]["securitySchemes"] = {"key": key}
                document["security"] = [{"key": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = whole  # type: ignore[method-assign]


async def _invoke(given: dict[str, Any], asker: Asker, models: Models) -> Answered:
    """What SageMaker sends: whichever of the other bodies it is, told apart by keys."""
    if given.get("passages") is not None:
        return await rerank.nim(given, asker, models)
    if given.get("inputs") is not None:
        return await pair_scores.predict(given, asker, models)
    if given.get("query") is None and any(given.get(name) is not None for name in SIDES):
        return await pair_scores.score(given, asker, models)
    return await rerank.rerank(given, asker, models, echo=True)


async def _predict_or_rerank(given: dict[str, Any], asker: Asker, models: Models) -> Answered:
    """What text-embeddings-inference has at /: predict, or rerank where there are texts."""
    handler = pair_scores.predict if given.get("texts") is None else rerank.tei
    return await handler(given, asker, models)


def _about(app: FastAPI, models: Models, settings: Settings, metrics: Metrics) -> None:
    """Everything that scores nothing."""

    def healthy() -> Response:
        try:
            models.check_healthy()
        except Problem as problem:
            return refusal(problem, "tei")
        return Response(status_code=200)

    def told(path: str, handler: Callable[..., Awaitable[Response]], kind: str) -> None:
        app.add_api_route(path, handler, methods=["GET"], **describe(kind))
        app.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)

    async def health() -> Response:
        """Whether requests are answered: 200; 503 while models load or end, or if one failed."""
        return healthy()

    async def alive() -> Response:
        """Whether the process is of use: 503 once only another one could answer."""
        return healthy() if models.is_lost else Response(status_code=200)

    for path in ("/health", "/health/ready", "/ping", "/v1/health/ready"):
        told(path, health, "health")
    for path in ("/health/live", "/v1/health/live"):
        told(path, alive, "health")

    async def root(request: Request) -> Response:
        """A page for browsers, and for others whether requests are answered."""
        if settings.page and "text/html" in request.headers.get("accept", ""):
            return page()
        return healthy()

    told("/", root, "root")

    async def info() -> Response:
        """What text-embeddings-inference says of its model."""
        try:
            return reply(about.info(models, settings))
        except Problem as problem:
            return refusal(problem, "tei")

    async def listed() -> Response:
        """The models that are served."""
        return reply(models.as_list())

    async def live() -> Response:
        """What the engines do now."""
        return reply(about.live(models))

    async def version() -> Response:
        """Of Packrank."""
        return reply({"version": __version__})

    async def exposed() -> Response:
        """For Prometheus."""
        return Response(metrics.exposed(), media_type=metrics.media_type)

    told("/info", info, "info")
    told("/v1/models", listed, "models")
    told("/live", live, "live")
    told("/version", version, "version")
    told("/metrics", exposed, "metrics")

    async def openapi() -> Response:
        """The same as /openapi.json, where text-embeddings-inference has it."""
        return reply(app.openapi())

    app.add_api_route("/api-doc/openapi.json", openapi, methods=["GET"], include_in_schema=False)

    async def no_route(request: Request, error: Exception) -> Response:
        """What no route answers: 404, or 405 where there is one of another method."""
        assert isinstance(error, HTTPException)
        asked = f"{request.method} {request.url.path}"
        said = f"{asked}: {error.detail.lower()}; /docs lists the routes"
        here = [one for one in _routes(app) if one.matches(request.scope)[0] != Match.NONE]
        methods = {method for one in here for method in one.methods or ()}
        if error.status_code == 405:  # without a route it is one of the files that /docs loads
            methods = methods or {"GET", "HEAD"}
        headers = {"allow": ", ".join(sorted(methods))} if methods else {}
        return refusal(Problem(error.status_code, said, headers=headers), "object")

    app.add_exception_handler(HTTPException, no_route)
    _add_head(app)


def _routes(app: FastAPI) -> list[Route]:
    return [one for one in app.routes if isinstance(one, Route)]


def _add_head(app: FastAPI) -> None:
    """Let HEAD be answered as GET is where OpenAPI has nothing to say of it."""
    for one in _routes(app):
        if one.methods is not None and "GET" in one.methods and not one.include_in_schema:
            one.methods.add("HEAD")
