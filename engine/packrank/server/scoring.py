"""From what a client asks to what the engine scores, whatever the dialect."""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packrank.checkpoint.config import Activation
from packrank.errors import PairError, Unfinite
from packrank.late_interaction import LateInteraction
from packrank.scoring.activations import activate
from packrank.server.bodies import Common
from packrank.server.models import Served
from packrank.server.problems import Problem
from packrank.server.settings import Settings
from packrank.serving.request import Answer, Usage

# Waits for an answer, and takes the request out of the queue where its client has gone.
Wait = Callable[[Answer], Awaitable[Any]]


@dataclass(frozen=True)
class Asker:
    """Who asks, and how the answer is waited for.

    Attributes:
        settings: of the server.
        wait: see `Wait`.
        caller: whose turn it takes.
    """

    settings: Settings
    wait: Wait
    caller: Hashable = None


@dataclass(frozen=True)
class Scores:
    """Of pairs, in their order.

    Attributes:
        logits: [N, labels] float32.
        scores: [N, labels] float32: those, or what the activation makes of them.
        usage: what it took.
    """

    logits: NDArray[np.float32]
    scores: NDArray[np.float32]
    usage: Usage

    def best(self, count: int | None) -> list[tuple[int, float]]:
        """(index, score) of the first label, best first, of equal ones the lower index first."""
        order = np.argsort(-self.logits[:, 0].astype(np.float64), kind="stable").tolist()
        return [(index, float(self.scores[index, 0])) for index in order[:count]]


def _finite(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """JSON has no -inf, which is what late interaction gives a document without vectors."""
    return np.maximum(scores, np.finfo(np.float32).min)


async def ranked(
    asker: Asker, served: Served, query: str, texts: Sequence[str], asked: Common, count: int | None
) -> tuple[list[tuple[int, float]], Usage]:
    """(index, score) best first, and what it took.

    Args:
        asker: who asks.
        served: by which model.
        query: any text.
        texts: N documents.
        asked: how.
        count: how many come back; None: all.
    """
    if len(served.labels) != 1:
        raise Problem(
            424, f"model is not a re-ranker model: it has {len(served.labels)} labels",
            kind="Backend",
        )  # fmt: skip
    if asked.exit is None:
        pairs = [(query, text) for text in texts]
        found = await scored(asker, served, pairs, asked)
        return found.best(count), found.usage
    if served.is_late:
        _check_late(served, asked)
    if asked.exit != "calibrated":
        raise Problem(422, f"exit is {asked.exit!r}, expected 'calibrated'", param="exit")
    if asked.raw:
        raise Problem(422, "with exit there are no raw scores", param="raw_scores")
    check_texts(asker.settings, [query], texts)
    options = _options(served, asked, asker.settings)
    if options.pop("truncation", None) is not None:
        raise Problem(422, "with exit pairs are always cut", param="truncate")
    answer = served.engine.submit(
        query, list(texts), count or len(texts), exit="calibrated", priority=asked.priority or 0,
        timeout=asker.settings.timeout_s, caller=asker.caller, **options,
    )  # fmt: skip
    ranking = await answered(asker, answer)
    return [(one.index, one.score) for one in ranking], answer.usage


async def ranked_of_store(
    asker: Asker, served: Served, query: str, ids: Sequence[str], asked: Common, count: int | None
) -> tuple[list[tuple[int, float]], Usage]:
    """The same of documents of the model's store, by their ids."""
    model = served.engine.model
    if not isinstance(model, LateInteraction) or model.store is None:
        raise Problem(422, "the model has no store of documents; send documents",
                      param="document_ids")  # fmt: skip
    _check_late(served, asked)
    check_texts(asker.settings, [query], ids)
    places = {id: place for place, id in enumerate(ids)}
    if len(places) != len(ids):
        raise Problem(422, "document_ids has an id twice", param="document_ids")
    answer = served.engine.submit(
        query, None, count, candidates=list(ids), priority=asked.priority or 0,
        timeout=asker.settings.timeout_s, caller=asker.caller,
    )  # fmt: skip
    found = await answered(asker, answer)
    scores = _finite(np.array([one.score for one in found], dtype=np.float32)).tolist()
    return [(places[one.id], score) for one, score in zip(found, scores, strict=True)], answer.usage


async def scored(
    asker: Asker, served: Served, pairs: Sequence[tuple[str, str]], asked: Common
) -> Scores:
    """Scores of pairs; a pair that has none fails all of the request."""
    if asked.exit is not None:
        raise Problem(422, "candidates exit early in a ranking alone, not pairs", param="exit")
    queries = dict.fromkeys(query for query, _ in pairs)
    check_texts(asker.settings, list(queries), [text for _, text in pairs])
    options = _options(served, asked, asker.settings)
    if not served.is_late:
        options["activation"] = "identity"
    answer = served.engine.submit_pairs(
        pairs, priority=asked.priority or 0, timeout=asker.settings.timeout_s, caller=asker.caller,
        **options,
    )  # fmt: skip
    found = await answered(asker, answer)
    logits = _finite(found.reshape(len(pairs), -1))
    if asked.raw or served.is_late:
        return Scores(logits, logits, answer.usage)
    kind: Activation = "sigmoid" if logits.shape[1] == 1 else "softmax"
    return Scores(logits, activate(logits, kind), answer.usage)


async def answered(asker: Asker, answer: Answer) -> Any:
    """What the engine found.

    Raises:
        Problem: a pair has no score, or the client has gone.
    """
    try:
        return await asker.wait(answer)
    except PairError as error:
        raise Problem(
            424 if isinstance(error.reason, Unfinite) else 422,
            f"Input validation error: document at index {error.index}: {error.reason}",
        ) from None


def _options(served: Served, asked: Common, settings: Settings) -> dict[str, Any]:
    """What the engine's model takes, of what a client asks."""
    side = (asked.truncation_direction or asked.truncation_side or "right").lower()
    if side not in ("left", "right"):
        raise Problem(
            422, f"truncation_direction is {side!r}, expected left or right",
            param="truncation_direction",
        )  # fmt: skip
    options: dict[str, Any] = {} if _may_cut(asked, settings) else {"truncation": "off"}
    model = served.engine.model
    if isinstance(model, LateInteraction):
        _check_late(served, asked)
        return options
    # In windows a document is read beyond what the model takes at once.
    in_windows = (asked.long_documents or model.long_documents) == "windows"
    for name, most, limit in (
        ("max_length", asked.truncate_prompt_tokens, served.max_length),
        ("document_length", asked.max_tokens_per_doc, None if in_windows else served.max_length),
        ("query_length", asked.max_tokens_per_query, served.max_length),
    ):
        if most is not None and most > 0:
            options[name] = min(most, limit or most)
    if asked.cutoff_layer:
        options["cutoff_layers" if asked.exit is None else "cutoff_layer"] = asked.cutoff_layer
    if asked.long_documents is not None:
        options["long_documents"] = asked.long_documents
    if asked.told is not None:
        options["instruction"] = asked.told
    return options


def _may_cut(asked: Common, settings: Settings) -> bool:
    side = asked.truncation_direction or asked.truncation_side
    if side is not None and side.lower() == "left":  # pairs are cut at their end, or not at all
        return False
    if asked.truncate_prompt_tokens is not None:
        return True
    return settings.auto_truncate if asked.truncate is None else asked.truncate


def _check_late(served: Served, asked: Common) -> None:
    """Refuse what late interaction cannot do as it is asked to."""
    model = served.engine.model
    assert isinstance(model, LateInteraction)
    unknown = {
        "exit": asked.exit,
        "cutoff_layer": asked.cutoff_layer,
        "instruction": asked.told,
        "long_documents": asked.long_documents,
    }
    for param, wanted in unknown.items():
        if wanted:
            raise Problem(422, f"late interaction has no {param}", param=param)
    lengths = (
        ("max_tokens_per_doc", asked.max_tokens_per_doc, model.settings.document.max_length),
        ("max_tokens_per_query", asked.max_tokens_per_query, model.settings.query.max_length),
    )
    for param, most, length in lengths:
        if most and most < length:
            raise Problem(422, f"{param} is {most}, and the model reads {length}", param=param)


def check_texts(settings: Settings, queries: Sequence[str], texts: Sequence[str]) -> None:
    """Refuse more documents, or longer texts, than the operator allows.

    Raises:
        Problem: it says which.
    """
    if len(texts) > settings.max_documents:
        raise Problem(
            422,
            f"batch size {len(texts)} > maximum allowed batch size {settings.max_documents}",
        )
    most = settings.max_document_characters
    for place, text in enumerate(texts):
        if len(text) > most:
            raise Problem(
                422, f"document at index {place} has {len(text)} characters, more than {most}"
            )
    for query in queries:
        if len(query) > most:
            raise Problem(422, f"the query has {len(query)} characters, more than {most}")
