"""What goes wrong, in the words of each dialect."""

import math
import uuid
from asyncio import CancelledError
from dataclasses import dataclass, field
from typing import Any, Literal

from packrank.errors import (
    DeadlineExceeded,
    EngineClosed,
    InputError,
    Overloaded,
    PackrankError,
    StoreError,
)

Dialect = Literal["object", "tei"]

# Status -> what TEI and vLLM call it.
_NAMES = {
    400: ("Validation", "BadRequestError"),
    401: ("Unauthorized", "AuthenticationError"),
    404: ("Validation", "NotFoundError"),
    405: ("Validation", "MethodNotAllowed"),
    413: ("Validation", "RequestTooLarge"),
    415: ("Validation", "UnsupportedMediaType"),
    422: ("Validation", "UnprocessableEntityError"),
    424: ("Backend", "BackendError"),
    429: ("Overloaded", "RateLimitError"),
    500: ("Backend", "InternalServerError"),
    503: ("Unhealthy", "ServiceUnavailableError"),
    504: ("Overloaded", "TimeoutError"),
}


@dataclass
class Problem(Exception):
    """A request that is not answered as it wished.

    Attributes:
        status: of HTTP.
        message: a sentence.
        param: of the request, that is to blame; None: none alone.
        kind: TEI's name for it, where it is not the usual one of the status.
        retry_after: seconds; None: trying again does not help.
    """

    status: int
    message: str
    param: str | None = None
    kind: str | None = None
    retry_after: float | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self, dialect: Dialect) -> dict[str, Any]:
        """As the clients of a dialect read it.

        Of the object dialect Cohere's clients read "message", Jina's "detail", vLLM's "error".
        """
        tei, kind = _NAMES.get(self.status, ("Backend", "Error"))
        if dialect == "tei":
            return {"error": self.message, "error_type": self.kind or tei}
        return {
            "id": str(uuid.uuid4()),
            "message": self.message,
            "detail": self.message,
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.status,
            },
        }

    @property
    def all_headers(self) -> dict[str, str]:
        """With when to try again, in whole seconds as HTTP has it, and in finer ones."""
        if self.retry_after is None:
            return self.headers
        return self.headers | {
            "retry-after": str(max(1, math.ceil(self.retry_after))),
            "retry-after-ms": str(max(1, math.ceil(1000 * self.retry_after))),
        }


def problem_of(error: BaseException) -> Problem:
    """What an engine's error is to a client; of what was not foreseen nothing is told."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Overloaded):
        return Problem(429, f"the model is overloaded: {error}", retry_after=error.retry_after)
    if isinstance(error, DeadlineExceeded):
        return Problem(504, str(error))
    if isinstance(error, EngineClosed):
        return Problem(503, str(error), retry_after=1.0)
    if isinstance(error, CancelledError):
        return Problem(503, "the server is shutting down", retry_after=1.0)
    if isinstance(error, InputError):
        return Problem(422, str(error))
    if isinstance(error, StoreError):  # which says where it lies
        return Problem(500, "the store of documents cannot be read; the server's log says more")
    if isinstance(error, PackrankError):
        return Problem(500, str(error))
    return Problem(500, "the server met an error that was not foreseen; its log says more")
