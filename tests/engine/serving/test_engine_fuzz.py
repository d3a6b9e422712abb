"""Thousands of requests from many threads, under failures, cancels, deadlines and endings."""

import asyncio
import logging
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from held_model import until
from toy_model import BROKEN, VALUES, Open, ToyModel

from packrank import DeadlineExceeded, Engine, EngineClosed, Overloaded, PairError
from packrank.serving.request import Answer
from packrank.serving.source import PairSource, Started

SOUND = ["a", "b", "c", "q"]
BAD: list[Any] = ["nan", "inf", "unembedded", 7, None, ("id",), {"no": "text"}, "\ud800"]


class Unforeseen(BaseException):
    """As a panic of a library's is."""


@pytest.fixture
def unruly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that fails at some packs, at random, and takes its time over others."""
    logits, draw = ToyModel.logits, Random(5)

    def some(model: ToyModel, pack: Any) -> Any:
        chance = draw.random()
        if chance < 0.02:
            raise Unforeseen("a panic") if chance < 0.01 else RuntimeError("a fault")
        if chance < 0.1:
            time.sleep(chance / 20)
        return logits(model, pack)

    monkeypatch.setattr(ToyModel, "logits", some)
    start = PairSource.start

    def started(source: PairSource, some: Any) -> Started:
        result = start(source, some)
        if draw.random() < 0.02:
            return lambda: result() and 1 / 0  # as a device fails, after the start
        return result

    monkeypatch.setattr(PairSource, "start", started)


class Client:
    """Asks at random, and knows what should come of each request."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine, self.draw = engine, Random(seed)
        self.asked: list[tuple[Answer, list[list[Any]]]] = []
        self.settled: Counter[int] = Counter()
        self.refused: Counter[str] = Counter()

    def ask(self) -> Answer | None:
        draw = self.draw
        texts = [draw.choices(SOUND, k=draw.randrange(6)) for _ in range(draw.choice([0, 1, 3, 9]))]
        documents: list[Any] = [" ".join(text) for text in texts]
        if documents and draw.random() < 0.05:
            documents[draw.randrange(len(documents))] = draw.choice(BAD)
        try:
            answer = self.engine.submit_pairs(
                [("q", document) for document in documents],
                priority=draw.choice([0, 0, 1, 7]),
                caller=draw.choice([None, None, "one", "two"]),
                timeout=draw.choice([None, None, 1e-4, 0.01, 60]),
            )
        except (Overloaded, EngineClosed) as error:
            self.refused[type(error).__name__] += 1
            return None
        place = len(self.asked)
        self.asked.append((answer, [[document] for document in documents]))
        answer.add_done_callback(lambda _: self.settled.update([place]))
        if draw.random() < 0.05:
            answer.add_done_callback(lambda _: 1 / 0)
        if draw.random() < 0.05:
            answer.add_done_callback(self._again)
        if draw.random() < 0.1:
            answer.cancel()
        elif self.asked and draw.random() < 0.1:
            self.asked[draw.randrange(len(self.asked))][0].cancel()
        return answer

    def _again(self, _: Any) -> None:
        """A callback that comes back to the engine, from one of its own threads."""
        with suppress(Overloaded, EngineClosed):
            self.engine.submit("q", ["a"]).cancel()

    def ask_all(self, count: int) -> None:
        for _ in range(count):
            self.ask()
            if self.draw.random() < 0.1:
                time.sleep(0.002)

    async def await_all(self, count: int) -> None:
        async def one() -> None:
            answer = self.ask()
            if answer is not None:
                waiting = asyncio.wrap_future(answer)
                with suppress(Exception, asyncio.CancelledError):
                    await asyncio.wait_for(waiting, self.draw.choice([0.001, 30]))

        for _ in range(count // 10):
            await asyncio.gather(*[one() for _ in range(10)])

    def check(self) -> Counter[str]:
        """Every answer is there, once, and is the model's own; returns what became of them."""
        kinds: Counter[str] = Counter()
        for place, (answer, documents) in enumerate(self.asked):
            assert answer.done() and self.settled[place] == 1
            kind = "answered"
            try:
                found = answer.result(0).tolist()
            except (PairError, DeadlineExceeded, EngineClosed, CancelledError) as error:
                kind = type(error).__name__
                assert kind != "PairError" or documents[error.index][0] in BAD
            except (RuntimeError, ZeroDivisionError) as error:
                kind = str(error)
                assert kind in ("a fault", "Unforeseen: a panic", "division by zero")
            else:
                assert found == [score(document) for [document] in documents]
            kinds[kind] += 1
        return kinds + self.refused


def score(document: str) -> float:
    return sum(VALUES[word] for word in document.split())


def nothing_is_left(engine: Engine) -> None:
    scheduler = engine._pump._scheduler
    until(lambda: not len(scheduler))
    assert (scheduler.tokens, scheduler.load, scheduler.ready) == (0, 0, 0)
    assert not scheduler._queued
    for order in (scheduler._reading, scheduler._running):
        assert not [*order] and order.first() is None
        assert not (order._flows or order._callers or order._turns or order._events)


@pytest.fixture
def no_word_of_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("concurrent.futures", "packrank.serving.pump"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)


@pytest.mark.parametrize(("ending", "depth"), [("drain", 1), ("drain", 3), ("close", 2)])
def test_every_request_is_settled_once_and_as_it_should_be(
    toy: Open, unruly: None, no_word_of_callbacks: None, thorough: bool, ending: str, depth: int
) -> None:
    assert BROKEN.keys() <= set(map(str, BAD))
    each = 4000 if thorough else 150
    engine = Engine(toy(budget_tokens=48), max_queue_tokens=4000)
    engine._pump._depth = depth  # as where a device works on several
    clients = [Client(engine, seed) for seed in range(8)]
    threads = [threading.Thread(target=one.ask_all, args=(each,)) for one in clients[:6]]
    threads += [
        threading.Thread(target=lambda one=one: asyncio.run(one.await_all(each)))
        for one in clients[6:]
    ]
    for thread in threads:
        thread.start()
    if ending == "close":
        until(lambda: sum(len(one.asked) for one in clients) > 2 * each)
        engine.close()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if ending == "drain":
        assert engine.drain(60)
    nothing_is_left(engine)
    engine.close()
    kinds = sum((one.check() for one in clients), Counter())
    if ending == "drain":
        assert "EngineClosed" not in kinds  # as where a thread has failed
    else:
        assert kinds["EngineClosed"]
    assert kinds.keys() >= {"answered", "DeadlineExceeded"}
    assert ending == "close" or kinds.keys() >= {"CancelledError", "Overloaded", "PairError"}
