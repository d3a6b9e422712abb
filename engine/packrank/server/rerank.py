"""Rankings: of Cohere, Jina and vLLM, of text-embeddings-inference, and of NIM."""

import uuid
from typing import Any

from packrank.server.bodies import NimRanking, Rerank, TeiRerank, text_of
from packrank.server.exchange import validated
from packrank.server.models import Models, Served
from packrank.server.problems import Dialect, Problem
from packrank.server.scoring import Asker, ranked, ranked_of_store
from packrank.serving.request import Usage

Answered = tuple[Any, Usage, int, Served]  # body, what it took, characters read, by whom


def dialect_of(given: dict[str, Any], usual: Dialect) -> Dialect:
    """Whose words answer a body: "texts" and "inputs" are TEI's; else the usual of its route."""
    is_tei = given.get("texts") is not None or given.get("inputs") is not None
    return "tei" if is_tei and not _has_documents(given) else usual


def _has_documents(given: dict[str, Any]) -> bool:
    return any(given.get(name) is not None for name in ("documents", "document_ids"))


async def rerank(
    given: dict[str, Any], asker: Asker, models: Models, *, echo: bool, required: bool = False
) -> Answered:
    """Whichever of the two dialects a body is of: "texts" is TEI's, "documents" the others'.

    Args:
        given: the body.
        asker: who asks.
        models: that are served.
        echo: whether documents come back where the body does not say.
        required: whether the name of a model is.
    """
    if dialect_of(given, "object") == "tei":
        return await tei(given, asker, models)
    has_documents = _has_documents(given)
    if has_documents and given.get("texts") is not None:
        raise Problem(422, "invalid request: it has both texts and documents; send one")
    body: Rerank = validated(Rerank, given)
    if required and not body.model and models.strict:
        raise Problem(400, "a model parameter is required for this endpoint.", param="model")
    if not has_documents:
        raise Problem(422, "invalid request: documents is missing", param="documents")
    if body.document_ids is not None and body.documents is not None:
        raise Problem(422, "invalid request: it has both documents and document_ids; send one")
    served = models.named(body.model)
    if body.document_ids is not None:
        if not body.document_ids:
            raise Problem(400, "invalid request: list of document_ids must not be empty")
        found, usage = await ranked_of_store(
            asker, served, body.query, body.document_ids, body, body.count
        )
        rows = [
            {"index": index, "relevance_score": score, "document_id": body.document_ids[index]}
            for index, score in found
        ]
        return _object(served, rows, usage), usage, len(body.query), served
    documents = body.documents or []
    if not documents:
        raise Problem(
            400, "invalid request: list of documents must not be empty", param="documents"
        )
    texts = _texts(documents, body.rank_fields)
    found, usage = await ranked(asker, served, body.query, texts, body, body.count)
    wanted = echo if body.echo is None else body.echo
    rows = []
    for index, score in found:
        row: dict[str, Any] = {"index": index, "relevance_score": score}
        if wanted:
            document = documents[index]
            row["document"] = {"text": texts[index]}
            if isinstance(document, dict):
                row["document"] |= document
                if not isinstance(document.get("text"), str):
                    row["document"]["text"] = texts[index]
        rows.append(row)
    return _object(served, rows, usage), usage, len(body.query) + sum(map(len, texts)), served


async def tei(given: dict[str, Any], asker: Asker, models: Models) -> Answered:
    """A list of indices and scores, as text-embeddings-inference has it."""
    body: TeiRerank = validated(TeiRerank, given)
    if not body.texts:
        raise Problem(400, "`texts` cannot be empty", kind="Empty", param="texts")
    served = models.named(body.model)
    found, usage = await ranked(asker, served, body.query, body.texts, body, body.count)
    rows: list[dict[str, Any]] = [{"index": index, "score": score} for index, score in found]
    if body.echo:
        for row in rows:
            row["text"] = body.texts[row["index"]]
    return rows, usage, len(body.query) + sum(map(len, body.texts)), served


async def nim(given: dict[str, Any], asker: Asker, models: Models) -> Answered:
    """Indices and logits, as NVIDIA NIM has it."""
    body: NimRanking = validated(NimRanking, given)
    if not body.passages:
        raise Problem(422, "invalid request: passages must not be empty", param="passages")
    asked = body.model_copy(update={"raw_scores": True})
    served = models.named(body.model)
    texts = [passage.text for passage in body.passages]
    found, usage = await ranked(asker, served, body.query.text, texts, asked, body.count)
    rankings = [{"index": index, "logit": score} for index, score in found]
    tokens = {"prompt_tokens": usage.tokens, "total_tokens": usage.tokens}
    characters = len(body.query.text) + sum(map(len, texts))
    return {"rankings": rankings, "usage": tokens}, usage, characters, served


def _texts(documents: list[Any], fields: list[str] | None) -> list[str]:
    texts = []
    for place, document in enumerate(documents):
        try:
            texts.append(text_of(document, fields))
        except ValueError as error:
            raise Problem(
                422, f"invalid request: document at index {place}: {error}", param="documents"
            ) from None
    return texts


def _object(served: Served, rows: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
    """What Cohere's, Jina's and vLLM's clients each find their own in."""
    return {
        "id": f"rerank-{uuid.uuid4().hex}",
        "object": "rerank",
        "model": served.name,
        "results": rows,
        "usage": {"prompt_tokens": usage.tokens, "total_tokens": usage.tokens},
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": usage.tokens, "output_tokens": 0},
        },
    }
