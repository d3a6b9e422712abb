"""The server as a process: models opened while it answers already, signals, an orderly end."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from packrank.server.app import create_app
from packrank.server.connections import IDLE_SECONDS, Connections
from packrank.server.logs import LOG
from packrank.server.metrics import Metrics
from packrank.server.models import Models, Served
from packrank.server.settings import Settings
from packrank.server.sockets import address_of
from packrank.server.tracing import Spans

Open = Callable[[Metrics], list[Served]]
_SENDING_SECONDS = 5.0  # that answers which are there may take until their clients have them
_CLOSING_SECONDS = 2.0  # that a pack may still run once nobody waits for it
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Server(uvicorn.Server):
    """uvicorn's, which goes on answering while requests that are here finish.

    So who asks for health is told that it ends, and who asks for scores to go elsewhere.
    """

    def __init__(self, config: uvicorn.Config, models: Models, drain_s: float) -> None:
        super().__init__(config)
        self._models, self._drain_s = models, drain_s
        self._connections = Connections()
        self._told: int | None = None  # the signal that ends it
        self._until = 0.0  # when it ends, whatever is left
        self._has_said = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal ends it in order, the second at once; one that is ignored stays so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        known = [one for one in _SIGNALS if signal.getsignal(one) != signal.SIG_IGN]
        before = {number: signal.signal(number, self.handle_exit) for number in known}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no more requests; asked again, end."""
        if self._told is not None:
            os._exit(128 + sig)
        self._told, self._until = sig, time.monotonic() + self._drain_s
        self._models.end()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        for one in sockets or []:
            address = address_of(one, tls=self.config.is_ssl)
            LOG.info("listening", extra={"address": address})

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; True: it is time to end."""
        if counter % 10 == 0:
            self._connections.look(self.server_state.connections)
        if await super().on_tick(counter):
            return True
        if self._told is None:
            return False
        if not self._has_said:  # not by the handler: it may have come while a line was written
            LOG.info("shutting down", extra={"reason": signal.Signals(self._told).name})
            self._has_said = True
        left = self._until - time.monotonic()
        if self._models.in_flight and left > 0:
            return False
        self._models.close()
        sending = max(1.0, min(left, _SENDING_SECONDS))
        self.config.timeout_graceful_shutdown = sending  # type: ignore[assignment]
        return True


def serve(
    open_models: Open,
    settings: Settings,
    sockets: list[socket.socket],
    spans: Spans | None = None,
    **options: Any,
) -> Models:
    """Serve until a signal ends it; returns what was served, which may have failed to open.

    Args:
        open_models: opens them, in a thread; until it returns every request gets 503.
        settings: of the server.
        sockets: where it listens, bound.
        spans: where requests' go, shut down at the end; None: nowhere.
        options: of uvicorn: ssl_keyfile and so on.
    """
    models, metrics = Models(strict=settings.strict_models), Metrics()
    app = create_app(models, settings, metrics, None if spans is None else spans.provider)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="on", ws="none",
        timeout_graceful_shutdown=1, timeout_keep_alive=int(IDLE_SECONDS), **options,
    )  # fmt: skip
    server = Server(config, models, settings.drain_s)
    app.router.lifespan_context = _lifespan(open_models, models, metrics, server)
    try:
        server.run(sockets)
    finally:
        if spans is not None:
            spans.shutdown()
    return models


def _lifespan(
    open_models: Open, models: Models, metrics: Metrics, server: Server
) -> Callable[[FastAPI], Any]:
    async def opening() -> None:
        try:
            models.served = await _apart(lambda: open_models(metrics))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            models.state, models.why = "failed", str(error) or type(error).__name__
            models.error = error
            server.should_exit = True
            return
        if models.state == "warming":
            models.state = "ready"
            for one in models.served:
                LOG.info("ready", extra={"model": one.name})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        task = asyncio.create_task(opening())
        try:
            yield
        finally:
            models.end()
            ends = [task, *(_apart(one.engine.close) for one in models.served)]
            left = (await asyncio.wait(ends, timeout=_CLOSING_SECONDS if task.done() else 0.0))[1]
            models.is_stuck = bool(left)
            task.cancel()

    return lifespan


def _apart(call: Callable[[], Any]) -> "asyncio.Future[Any]":
    """A call in a thread that nobody waits for when the process ends."""
    found: Future[Any] = Future()

    def run() -> None:
        try:
            found.set_result(call())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, name="packrank apart", daemon=True).start()
    return asyncio.wrap_future(found)
