"""Logs: a JSON object a line, and no text of a user in any."""

import json
import logging
import sys
import traceback
from datetime import datetime, timezone

LOG = logging.getLogger("packrank.server")
_FACTS = ("request_id", "route", "status", "model", "pairs", "seconds", "client", "reason",
          "address")  # fmt: skip


class Lines(logging.Formatter):
    """Records as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        when = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, object] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            # Of others only the first line: asyncio goes on with what it holds, results too.
            "message": record.getMessage().partition("\n")[0],
        }
        line |= {name: getattr(record, name) for name in _FACTS if hasattr(record, name)}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            # Where it went wrong, but not with what: messages may quote a text.
            frames = traceback.extract_tb(error.__traceback__)
            line["error"] = type(error).__name__
            line["at"] = [f"{one.filename}:{one.lineno} {one.name}" for one in frames[-12:]]
        return json.dumps(line)


def log_to_stderr(level: str = "info") -> None:
    """Write what this server and what it stands on say, and no more."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    for name in ("packrank", "uvicorn.error", "asyncio", "concurrent.futures", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper())
    logging.getLogger("uvicorn.access").disabled = True
