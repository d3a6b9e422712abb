"""Pairs in their order: vLLM's score, text-embeddings-inference's predict and tokenize."""

import time
import uuid
from dataclasses import replace
from itertools import islice
from typing import Any

import orjson
import tokenizers

from packrank.server.bodies import Predict, Score, Tokenize, pairs_of, sides
from packrank.server.exchange import validated
from packrank.server.models import Models
from packrank.server.problems import Problem
from packrank.server.rerank import Answered
from packrank.server.scoring import Asker, answered, check_texts, scored

_ROWS_AT_ONCE = 4096  # tokens that are objects before they are JSON


async def score(given: dict[str, Any], asker: Asker, models: Models) -> Answered:
    """One score a pair, as vLLM has it."""
    body: Score = validated(Score, given)
    try:
        queries, documents = sides(body)
    except ValueError as error:
        raise Problem(400, str(error)) from None
    if not documents:
        raise Problem(400, "there is nothing to score")
    served = models.named(body.model)
    if len(served.labels) != 1:
        raise Problem(422, f"the model has {len(served.labels)} labels; ask /predict")
    pairs = list(zip(queries, documents, strict=True))
    found = await scored(asker, served, pairs, body)
    data = [
        {"index": index, "object": "score", "score": value}
        for index, value in enumerate(found.scores[:, 0].tolist())
    ]
    usage = {
        "prompt_tokens": found.usage.tokens,
        "total_tokens": found.usage.tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }
    answer = {
        "id": f"score-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": served.name,
        "data": data,
        "usage": usage,
    }
    return answer, found.usage, sum(len(q) + len(d) for q, d in pairs), served


async def predict(given: dict[str, Any], asker: Asker, models: Models) -> Answered:
    """Scores of all labels by their names, best first, as text-embeddings-inference has it."""
    body: Predict = validated(Predict, given)
    try:
        inputs, is_one = pairs_of(body.inputs)
    except ValueError as error:
        raise Problem(422, str(error), param="inputs") from None
    pairs = [(query, document) for query, document in inputs if document is not None]
    if len(pairs) != len(inputs):
        raise Problem(
            422, 'the model reads pairs: give each input as ["query", "text"]', param="inputs"
        )
    served = models.named(body.model)
    found = await scored(asker, served, pairs, body)
    rows = []
    for values in found.scores.tolist():
        named = [
            {"score": value, "label": label}
            for value, label in zip(values, served.labels, strict=True)
        ]
        rows.append(sorted(named, key=lambda one: -one["score"]))
    characters = sum(len(query) + len(document) for query, document in pairs)
    return rows[0] if is_one else rows, found.usage, characters, served


async def tokenize(given: dict[str, Any], asker: Asker, models: Models) -> Answered:
    """Tokens of texts: of "inputs" with their characters, as TEI has it; or of vLLM's "prompt"."""
    body: Tokenize = validated(Tokenize, given)
    inputs = body.prompt if body.inputs is None else body.inputs
    if inputs is None:
        raise Problem(422, "invalid request: inputs: is missing", param="inputs")
    served = models.named(body.model)
    texts = [inputs] if isinstance(inputs, str) else inputs
    check_texts(asker.settings, [], texts)
    characters, most = sum(map(len, texts)), asker.settings.max_document_characters
    if characters > most:
        raise Problem(422, f"the texts have {characters} characters, more than {most} together")
    special = body.add_special_tokens is not False
    of_tei, named = body.inputs is not None, bool(body.return_token_strs)

    def made(text: str) -> tuple[int, Any]:
        tokens = served.tokenizer.encode(text, add_special_tokens=special)
        return len(tokens), _rows(tokens, text) if of_tei else _ids(tokens, text, named)

    answer = served.engine.submit_reading(
        texts, made, timeout=asker.settings.timeout_s, caller=asker.caller
    )
    found = await answered(asker, answer)
    usage = replace(answer.usage, tokens=sum(count for count, _ in found))
    if of_tei:
        return [rows for _, rows in found], usage, characters, served
    [(count, told)] = found
    return {"count": count, "max_model_len": served.max_length} | told, usage, characters, served


def _rows(tokens: tokenizers.Encoding, text: str) -> orjson.Fragment:
    """What TEI has of each token, as JSON: as objects they would take several times as much."""
    parts = zip(tokens.ids, tokens.tokens, tokens.special_tokens_mask, tokens.offsets, strict=True)
    rows = (
        {"id": id, "text": token, "special": True, "start": None, "stop": None}
        if is_special
        else {"id": id, "text": text[start:stop], "special": False, "start": start, "stop": stop}
        for id, token, is_special, (start, stop) in parts
    )
    written = []
    while some := list(islice(rows, _ROWS_AT_ONCE)):
        written.append(orjson.dumps(some)[1:-1])
    return orjson.Fragment(b"[" + b",".join(written) + b"]")


def _ids(tokens: tokenizers.Encoding, text: str, named: bool) -> dict[str, Any]:
    """What vLLM has of all of them."""
    if not named:
        return {"tokens": tokens.ids, "token_strs": None}
    names = [
        token if is_special else text[start:stop]
        for token, is_special, (start, stop) in zip(
            tokens.tokens, tokens.special_tokens_mask, tokens.offsets, strict=True
        )
    ]
    return {"tokens": tokens.ids, "token_strs": names}
