"""OpenAPI: what each route takes and answers."""

from typing import Any

from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import models_json_schema

from packrank.server.about import Explain
from packrank.server.bodies import NimRanking, Predict, Rerank, Score, TeiRerank, Tokenize


class _Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class Echoed(_Answer):
    """A document that comes back, with what else it was sent with."""

    model_config = ConfigDict(extra="allow")
    text: str


class Result(_Answer):
    """A document in its place."""

    index: int
    relevance_score: float
    document: Echoed | None = None
    document_id: str | None = None


class Tokens(_Answer):
    """What a request took."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None


class Ranking(_Answer):
    """What Cohere's, Jina's and vLLM's clients read."""

    id: str
    object: str
    model: str
    results: list[Result]
    usage: Tokens
    meta: dict[str, Any]


class TeiRank(_Answer):
    """A text in its place."""

    index: int
    score: float
    text: str | None = None


class Label(_Answer):
    """A score and its name."""

    score: float
    label: str


class NimRank(_Answer):
    """A passage in its place."""

    index: int
    logit: float


class NimRankings(_Answer):
    """Passages, best first."""

    rankings: list[NimRank]
    usage: Tokens


class ScoreRow(_Answer):
    """The score of a pair."""

    index: int
    object: str
    score: float


class ScoreList(_Answer):
    """Scores of pairs, in their order."""

    id: str
    object: str
    created: int
    model: str
    data: list[ScoreRow]
    usage: Tokens


class TokenRow(_Answer):
    """A token."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TokenIds(_Answer):
    """Tokens of a prompt, as vLLM has them."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class ErrorDetail(_Answer):
    """As vLLM's clients read it."""

    message: str
    type: str
    param: str | None
    code: int


class ObjectError(_Answer):
    """As Cohere's ("message"), Jina's ("detail") and vLLM's ("error") clients read it."""

    id: str
    message: str
    detail: str
    error: ErrorDetail


class TeiError(_Answer):
    """As text-embeddings-inference's clients read it."""

    error: str
    error_type: str


_MODELS: list[type[BaseModel]] = [
    *(Rerank, TeiRerank, NimRanking, Score, Predict, Tokenize, Explain),
    *(Ranking, TeiRank, NimRankings, ScoreList, Label, TokenRow, TokenIds, ObjectError, TeiError),
]
_ERRORS = (400, 401, 404, 408, 413, 415, 422, 424, 429, 500, 503, 504)


def _one(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _any(*schemas: dict[str, Any]) -> dict[str, Any]:
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def _list(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


_REQUESTS: dict[str, dict[str, Any]] = {
    "rerank": _any(_one(Rerank), _one(TeiRerank)),
    "nim": _one(NimRanking),
    "score": _one(Score),
    "predict": _one(Predict),
    "predict or rerank": _any(_one(Predict), _one(TeiRerank)),
    "invoke": _any(_one(Rerank), _one(TeiRerank), _one(NimRanking), _one(Predict), _one(Score)),
    "tokenize": _one(Tokenize),
    "explain": _one(Explain),
}
_PREDICTED = _any(_list(_one(Label)), _list(_list(_one(Label))))
_RESPONSES: dict[str, dict[str, Any]] = {
    "rerank": _any(_one(Ranking), _list(_one(TeiRank))),
    "nim": _one(NimRankings),
    "score": _one(ScoreList),
    "predict": _PREDICTED,
    "predict or rerank": _any(_PREDICTED, _list(_one(TeiRank))),
    "invoke": _any(
        _one(Ranking), _one(NimRankings), _one(ScoreList), _PREDICTED, _list(_one(TeiRank))
    ),
    "tokenize": _any(_list(_list(_one(TokenRow))), _one(TokenIds)),
    "explain": {"type": "object"},
    **{kind: {"type": "object"} for kind in ("info", "models", "live", "version")},
}


def describe(kind: str) -> dict[str, Any]:
    """What a route of a kind takes and answers, as `FastAPI.add_api_route` has it."""
    responses: dict[int | str, dict[str, Any]] = {}
    extra: dict[str, Any] = {}
    if kind in _RESPONSES:
        responses[200] = {
            "description": "What was asked for.",
            "content": {"application/json": {"schema": _RESPONSES[kind]}},
        }
    if kind in ("health", "root"):
        responses[200] = {"description": "Requests are answered."}
    if kind == "metrics":
        content = {"text/plain": {"schema": {"type": "string"}}}
        responses[200] = {"description": "In Prometheus' format.", "content": content}
    error = {"application/json": {"schema": _any(_one(ObjectError), _one(TeiError))}}
    if kind in _REQUESTS:
        extra["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _REQUESTS[kind]}},
        }
        responses |= {code: {"description": "Why not.", "content": error} for code in _ERRORS}
    elif kind in ("health", "root", "info"):
        error = {"application/json": {"schema": _one(TeiError)}}
        responses[503] = {"description": "Not yet, or no more.", "content": error}
    return {"responses": responses, "openapi_extra": extra, "response_class": Response}


def components() -> dict[str, Any]:
    """Schemas by name, to which the routes refer."""
    made = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )[1]
    found: dict[str, Any] = made["$defs"]
    return found
