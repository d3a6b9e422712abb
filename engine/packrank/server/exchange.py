"""A request's body read, its answer written, and its client watched meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import orjson
from fastapi import Request
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from packrank.server.bodies import Body
from packrank.server.problems import Dialect, Problem
from packrank.serving.request import Answer, Usage

BODY_SECONDS = 60.0  # that a client may take to send what it announced
_REST_SECONDS, _REST = 5.0, 4  # the same of what is refused, and how many times what may come
# Where a body is not read to its end, nothing after it could be understood.
_CLOSE = {"connection": "close"}


async def read_json(request: Request, most_bytes: int) -> dict[str, Any]:
    """The object in a request's body.

    Raises:
        Problem: it is too large, comes too slowly, or is none.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise Problem(415, f"the body is {kind}, expected application/json")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Problem(415, f"the body is encoded as {encoding}, expected it plain")
    announced = request.headers.get("content-length", "")
    body, coming = None, request.stream()
    try:
        if not announced.isdigit() or int(announced) <= most_bytes:
            body = await asyncio.wait_for(_whole(coming, most_bytes), BODY_SECONDS)
        if body is None:
            await _pass_over(request, coming, most_bytes)
            raise Problem(413, f"the body has more than {most_bytes} bytes", headers=_CLOSE)
    except asyncio.TimeoutError:
        said = f"the body did not come within {BODY_SECONDS:g} s"
        raise Problem(408, said, headers=_CLOSE) from None
    except ClientDisconnect:
        raise Problem(499, "the client has gone") from None
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise Problem(422, "the body is no JSON object")
    return found


async def _whole(coming: AsyncIterator[bytes], most_bytes: int) -> bytes | None:
    """All of a body; None: it has more than so many bytes."""
    parts, size = [], 0
    async for part in coming:
        size += len(part)
        if size > most_bytes:
            return None
        parts.append(part)
    return b"".join(parts)


async def _pass_over(request: Request, coming: AsyncIterator[bytes], most_bytes: int) -> None:
    """Read what is refused, within bounds: who is sending would not read the answer before."""

    async def rest() -> None:
        size = 0
        async for part in coming:
            size += len(part)
            if size > _REST * most_bytes:
                return

    if request.headers.get("expect", "").lower() != "100-continue":
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(rest(), min(BODY_SECONDS, _REST_SECONDS))


# In place of pydantic's own words, which name classes.
_SAID = {
    "missing": "is missing",
    "model_type": 'expected an object with "text"',
    "model_attributes_type": 'expected an object with "text"',
    "string_type": "expected a text",
    "list_type": "expected a list",
}


def validated(kind: type[Body], given: dict[str, Any]) -> Any:
    """A body of a kind.

    Raises:
        Problem: it lacks something, or has what cannot be read; the sentence names it.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        said = _SAID.get(first["type"], said[:1].lower() + said[1:])
        more = error.error_count() - 1
        also = f" (and {more} more)" if more else ""
        raise Problem(422, f"invalid request: {place}: {said}{also}", param=place) from None


async def wait_for(request: Request, answer: Answer) -> Any:
    """What an engine answers; a client that goes away takes its request out of the queue.

    Raises:
        Problem: the client has gone.
    """
    waiting = asyncio.wrap_future(answer)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        raise Problem(499, "the client has gone")
    finally:
        gone.cancel()
        if not waiting.done():
            waiting.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON.

    Raises:
        Problem: it holds what came, and that was nested too deeply to be sent back.
    """
    try:
        content = orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise Problem(422, f"a document cannot be sent back: {error}") from None
    return Response(content, status, dict(headers or {}), media_type="application/json")


def refusal(problem: Problem, dialect: Dialect) -> Response:
    """A problem, to a client of a dialect."""
    return reply(problem.body(dialect), problem.status, problem.all_headers)


def timing_headers(usage: Usage, characters: int, device: str) -> dict[str, str]:
    """TEI's, in whole milliseconds."""

    def ms(seconds: float) -> str:
        return str(round(1000 * seconds))

    total = usage.tokenize_s + usage.queue_s + usage.forward_s
    return {
        "x-compute-type": "cpu" if device == "cpu" else f"gpu+{device}",
        "x-compute-time": ms(total),
        "x-compute-characters": str(characters),
        "x-compute-tokens": str(usage.tokens),
        "x-total-time": ms(total),
        "x-tokenization-time": ms(usage.tokenize_s),
        "x-queue-time": ms(usage.queue_s),
        "x-inference-time": ms(usage.forward_s),
    }
