"""What a reader does on the page of a server, and what is then to be seen."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from browser import Tab
from fastapi import FastAPI


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """Its address while it is served."""
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


def the(id: str) -> str:
    return f"document.getElementById('{id}')"


def choose(tab: Tab, id: str, value: str) -> None:
    found = the(id)
    tab.run(f"{found}.value = {json.dumps(value)}; {found}.dispatchEvent(new Event('change'))")


def fill(tab: Tab, query: str, candidates: list[str] | str) -> None:
    typed = candidates if isinstance(candidates, str) else "\n".join(candidates)
    for id, text in (("query", query), ("candidates", typed)):
        found = the(id)
        tab.run(f"{found}.value = {json.dumps(text)}; {found}.dispatchEvent(new Event('input'))")


def ranked(tab: Tab) -> list[str]:
    """Press the button; the texts of the candidates in the order that then is shown."""
    tab.run(f"{the('rank')}.click()")
    tab.wait(f"{the('running')}.hidden")
    assert tab.run(f"{the('error')}.textContent") == ""
    found: list[str] = tab.run("[...document.querySelectorAll('.text')].map(x => x.textContent)")
    return found


def refused(tab: Tab) -> str:
    """Press the button; the words that then say why not."""
    tab.run(f"{the('rank')}.click()")
    tab.wait(f"{the('running')}.hidden && {the('error')}.textContent")
    words: str = tab.run(f"{the('error')}.textContent")
    return words


def rows(tab: Tab) -> list[list[str]]:
    """Rank, movement as it is read out, and score of every row."""
    cells = "[...row.cells].slice(0, 3).map(cell => cell.textContent)"
    found: list[list[str]] = tab.run(
        f"[...document.querySelectorAll('#ranking tbody > tr:not(.heat)')].map(row => {cells})"
    )
    return found


def see(tab: Tab, code: str) -> None:
    """Wait, and let the page look at once, not in a second."""
    tab.run("document.dispatchEvent(new Event('visibilitychange'))")
    tab.wait(code)


def overflow(tab: Tab) -> int:
    """Pixels that the page is wider than what is seen of it."""
    pixels: int = tab.run("document.documentElement.scrollWidth - innerWidth")
    return pixels
