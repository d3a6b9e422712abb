"""A server somewhere as what a workload is run on: queries by HTTP, over connections kept open."""

import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPResponse
from threading import local
from urllib.parse import urlsplit

from packrank.closing import Closing
from packrank.errors import InputError


class HttpTarget(Closing):
    """A rerank route, asked by threads; a `Target`. Close it, or use it as a context manager.

    Args:
        url: such as http://127.0.0.1:8000/rerank.
        connections: requests that are on their way at a time; others wait here for one.
        timeout_s: of each.

    Raises:
        InputError: it is no http:// address.
    """

    def __init__(self, url: str, connections: int = 64, timeout_s: float = 60.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise InputError(f"{url!r} is no address such as http://127.0.0.1:8000/rerank")
        self._place = parts.hostname, parts.port or 80
        self._path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        self._timeout_s = timeout_s
        self._own = local()
        self._connections: set[HTTPConnection] = set()
        self._threads = ThreadPoolExecutor(connections, "packrank http")

    def submit(self, query: str, documents: Sequence[str]) -> "Future[tuple[int, bytes]]":
        """Send a query: its status and body, or what went wrong. A status but 200 is a failure."""
        body = json.dumps({"query": query, "documents": list(documents),
                           "return_documents": False}).encode()  # fmt: skip
        return self._threads.submit(self._ask, body)

    def close(self) -> None:
        """Wait for what is on its way, and end threads and connections."""
        self._threads.shutdown(cancel_futures=True)
        while self._connections:
            self._connections.pop().close()

    def _ask(self, body: bytes) -> tuple[int, bytes]:
        kept: HTTPConnection | None = getattr(self._own, "connection", None)
        connection = kept or self._open()
        try:
            try:
                answer = self._send(connection, body)
            except ConnectionError:  # before any answer: a server ends what is not used for long
                if kept is None:
                    raise
                self._end(connection)
                connection = self._open()
                answer = self._send(connection, body)
            found = answer.status, answer.read()
        except (OSError, HTTPException):
            self._end(connection)
            raise
        if found[0] != 200:
            raise Refused(*found)
        return found

    def _send(self, connection: HTTPConnection, body: bytes) -> HTTPResponse:
        """What a server begins to answer."""
        connection.request("POST", self._path, body, {"content-type": "application/json"})
        return connection.getresponse()

    def _open(self) -> HTTPConnection:
        made = self._own.connection = HTTPConnection(*self._place, timeout=self._timeout_s)
        self._connections.add(made)
        return made

    def _end(self, connection: HTTPConnection) -> None:
        connection.close()
        self._connections.discard(connection)
        self._own.connection = None


class Refused(Exception):
    """An answer that is none.

    Attributes:
        status: of HTTP.
        body: as it came.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status, self.body = status, body
