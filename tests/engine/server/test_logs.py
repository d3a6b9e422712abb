"""Lines of the log: JSON, one a record, and nothing of what was scored."""

import asyncio
import json
import logging
import sys
from typing import Any

from packrank.server.logs import Lines

SECRET = "words of nobody's business"


def line(message: str, *arguments: object, **extra: Any) -> dict[str, Any]:
    record = logging.LogRecord(
        "packrank.server", logging.ERROR, "file", 7, message, arguments, sys.exc_info()
    )
    vars(record).update(extra)
    text = Lines().format(record)
    assert len(text.splitlines()) == 1 and text.isascii()
    found: dict[str, Any] = json.loads(text)
    return found


def test_an_error_is_told_by_its_kind_and_its_place() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        found = line("a request failed", request_id='a"\n\x85\u2028', text=SECRET)
    assert found["error"] == "ValueError" and found["level"] == "error"
    assert "test_logs.py" in found["at"][-1] and SECRET not in json.dumps(found)
    assert found["request_id"] == 'a"\n\x85\u2028' and "text" not in found


def test_what_asyncio_holds_is_not_told() -> None:
    """Its lines go on with the task, and that with the error, and that with a text."""

    async def fail() -> None:
        raise ValueError(SECRET)

    async def unheeded() -> asyncio.Task[None]:
        task = asyncio.ensure_future(fail())
        await asyncio.wait((task,))
        return task

    task = asyncio.run(unheeded())
    message = f"Task exception was never retrieved\nfuture: {task!r}"
    assert SECRET in message and isinstance(task.exception(), ValueError)
    assert line(message)["message"] == "Task exception was never retrieved"
