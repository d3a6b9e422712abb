"""What a server says of itself: health, models, load."""

from typing import Any

from packrank import __version__
from packrank.late_interaction import LateInteraction
from packrank.server.bodies import Body
from packrank.server.exchange import validated
from packrank.server.models import Models, Served
from packrank.server.problems import Problem
from packrank.server.rerank import Answered
from packrank.server.scoring import Asker, answered, check_texts
from packrank.server.settings import Settings


class Explain(Body):
    """Which token of a document each token of a query matched.

    Attributes:
        query: a text; likewise document.
        document: that was ranked.
        model: a name of a model that is served.
    """

    query: str
    document: str
    model: str | None = None


def info(models: Models, settings: Settings) -> dict[str, Any]:
    """As text-embeddings-inference describes itself."""
    served = models.named(None)
    engine = served.engine
    return {
        "model_id": served.name,
        "model_sha": None,
        "model_dtype": served.dtype,
        "served_model_name": served.name,
        "model_type": {
            "reranker": {
                "id2label": {str(place): label for place, label in enumerate(served.labels)},
                "label2id": {label: place for place, label in enumerate(served.labels)},
            }
        },
        "max_concurrent_requests": engine.max_queue_tokens // max(1, min(served.max_length, 512)),
        "max_input_length": served.max_length,
        "max_batch_tokens": engine.budget_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_documents,
        "auto_truncate": settings.auto_truncate,
        "tokenization_workers": 1,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }


def live(models: Models) -> dict[str, Any]:
    """What the engines do now, for the page."""
    return {
        "state": models.state,
        "version": __version__,
        "models": [_live(served) for served in models.served],
    }


def _live(served: Served) -> dict[str, Any]:
    engine, totals = served.engine, served.engine.totals
    model = engine.model
    return {
        "name": served.name,
        "kind": "late interaction" if served.is_late else "reranker",
        "device": served.device,
        "dtype": served.dtype,
        "max_length": served.max_length,
        "layers": None if isinstance(model, LateInteraction) else list(model.exit_layers),
        "calibrated": served.calibrated,
        "documents": len(model.store) if isinstance(model, LateInteraction) and model.store else 0,
        "queue_requests": engine.queue_requests,
        "queue_tokens": engine.queue_tokens,
        "max_queue_tokens": engine.max_queue_tokens,
        "requests": totals.requests,
        "failed": totals.failed,
        "pairs": totals.pairs,
        "tokens": totals.tokens,
        "packs": totals.packs,
        "fill": totals.fill,
        "forward_s": totals.forward_s,
        "tokenize_s": totals.tokenize_s,
        "cache_hits": engine.cache.hits,
        "cache_misses": engine.cache.misses,
    }


async def explain(given: dict[str, Any], asker: Asker, models: Models) -> Answered:
    """Which token of a document each token of a query matched; of late interaction alone."""
    body: Explain = validated(Explain, given)
    served = models.named(body.model)
    model = served.engine.model
    if not isinstance(model, LateInteraction):
        raise Problem(422, "only late interaction scores by tokens, and so has any to show")
    check_texts(asker.settings, [body.query], [body.document])
    answer = served.engine.submit_explain(
        body.query, body.document, timeout=asker.settings.timeout_s, caller=asker.caller
    )
    found = await answered(asker, answer)
    return found.to_dict(), answer.usage, len(body.query) + len(body.document), served
