"""A server by HTTP as a target: what it answers, what it refuses, and connections that it ends."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from packrank.bench.load.http import HttpTarget, Refused
from packrank.errors import InputError


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server: Any = self.server
        given = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server.asked.append((self.path, self.client_address[1]))
        body = json.dumps(given["documents"]).encode()
        if given["query"] == "dies at once":
            self.close_connection = True
            return
        self.send_response(429 if given["query"] == "too much" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:1] if given["query"] == "dies in its answer" else body)
        self.close_connection = given["query"] in (
            "last",
            "dies in its answer",
        )  # and the answer does not say so

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_it_gives_what_the_server_answers_over_a_connection_that_is_kept(server: Any) -> None:
    with HttpTarget(f"http://127.0.0.1:{server.server_port}/v1/rerank?a=b", 1) as target:
        for _ in range(3):
            status, body = target.submit("query", ["a", "b"]).result(10)
            assert (status, json.loads(body)) == (200, ["a", "b"])
    assert {path for path, _ in server.asked} == {"/v1/rerank?a=b"}
    assert len({port for _, port in server.asked}) == 1


def test_a_connection_that_the_server_has_ended_meanwhile_is_made_again(server: Any) -> None:
    with HttpTarget(f"http://127.0.0.1:{server.server_port}/rerank", 1) as target:
        for _ in range(4):
            assert target.submit("last", ["a"]).result(10)[0] == 200
    assert len({port for _, port in server.asked}) == 4


def test_a_status_that_is_no_answer_is_a_failure(server: Any) -> None:
    with HttpTarget(f"http://127.0.0.1:{server.server_port}/rerank", 1) as target:
        failed = target.submit("too much", ["a"]).exception(10)
        assert isinstance(failed, Refused) and failed.status == 429
        assert target.submit("query", ["a"]).result(10)[0] == 200
    assert len({port for _, port in server.asked}) == 1


@pytest.mark.parametrize("begins", [False, True])
def test_a_server_that_ends_is_asked_twice_only_where_it_had_not_begun(
    server: Any, begins: bool
) -> None:
    """And only over a connection that was used before."""
    with HttpTarget(f"http://127.0.0.1:{server.server_port}/rerank", 1) as target:
        assert isinstance(target.submit("dies at once", ["a"]).exception(10), ConnectionError)
        assert len(server.asked) == 1
        assert target.submit("query", ["a"]).result(10)[0] == 200
        query = "dies in its answer" if begins else "dies at once"
        assert target.submit(query, ["a"]).exception(10) is not None
        assert len(server.asked) == (3 if begins else 4)


@pytest.mark.parametrize("url", ["127.0.0.1:80", "https://localhost/rerank", "http:///rerank", ""])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InputError, match="no address such as"):
        HttpTarget(url)
