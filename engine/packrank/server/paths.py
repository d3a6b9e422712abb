"""Paths as they arrive where somebody pasted a base URL that ends in what a client adds itself."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

# /v1/v2/rerank: the base URL had a version, and the client put its own after it.
_EARLIER_VERSIONS = re.compile(r"^(?:/v\d)+(?=/v\d/)")
_SLASHES = re.compile(r"//+")


def plain(path: str) -> str:
    """A path without doubled slashes, one at its end, and versions before the last."""
    return _EARLIER_VERSIONS.sub("", _SLASHES.sub("/", path)).rstrip("/") or "/"


class Pasted:
    """Answers such paths at once: after a redirect not every client sends its body again."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http":
            scope = {**scope, "path": plain(scope["path"])}
        await self._app(scope, receive, send)
