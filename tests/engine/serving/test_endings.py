"""However an engine, a request or a process ends, nobody waits for ever and nothing is kept."""

import gc
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from held_model import Held, until
from toy_model import Open, ToyModel

from packrank import DeadlineExceeded, Engine, EngineClosed, InputError, Overloaded, PairError
from packrank.errors import PackrankError


def ours() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("packrank ")]


class Text(str):
    """A text that can be watched."""


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


Ask = Callable[[Engine, Text], Any]


@pytest.mark.parametrize(
    "ask",
    [
        lambda engine, text: engine.submit("q", [text]).result(10),
        lambda engine, text: engine.submit("q", [text], timeout=1000).result(10),
        lambda engine, text: engine.submit("q", [text, 7]).exception(10),
        lambda engine, text: engine.submit("q", [text, "nan"]).exception(10),
        lambda engine, text: engine.submit("q", [text, "high"]).exception(10),
        lambda engine, text: engine.submit("q", [text], timeout=1e-9).exception(10),
        lambda engine, text: engine.submit("q", [text]).cancel(),
    ],
    ids=["answered", "in time", "unread", "not finite", "fault", "late", "cancelled"],
)
def test_nothing_is_kept_of_a_request_that_is_over(
    toy: Open, monkeypatch: pytest.MonkeyPatch, uncollected: None, ask: Ask
) -> None:
    """Freed at once, not when Python next looks for cycles: it may be 64 MB of texts."""
    logits = ToyModel.logits

    def failing(model: ToyModel, pack: Any) -> Any:
        if (pack.token_ids == 6).any():
            raise RuntimeError("a fault")
        return logits(model, pack)

    monkeypatch.setattr(ToyModel, "logits", failing)
    with Engine(toy(), cache_bytes=0) as engine:
        text = Text("a b c")
        kept = weakref.ref(text)
        ask(engine, text)
        del text
        until(lambda: kept() is None, 5)


def test_an_answer_keeps_nothing_of_its_request(toy: Open, uncollected: None) -> None:
    with Engine(toy(), cache_bytes=0) as engine:
        text = Text("a b c")
        kept = weakref.ref(text)
        answer = engine.submit_pairs([("q", text)])
        assert answer.result(10).tolist() == [0.0]
        del text
        until(lambda: kept() is None, 5)
        assert answer.usage.tokens == 7


def test_nothing_is_kept_of_a_request_that_is_refused(
    toy: Open, held: Held, uncollected: None
) -> None:
    with Engine(toy(), max_queue_tokens=20, cache_bytes=0) as engine:
        some = [engine.submit("q", ["a"]) for _ in range(4)]
        text = Text("a b c")
        kept = weakref.ref(text)
        with pytest.raises(Overloaded):
            engine.submit("q", [text])
        del text
        assert kept() is None
        held.let_all_go()
        assert all(one.result(10) for one in some)


def test_an_engine_that_nobody_holds_answers_and_ends(toy: Open, held: Held) -> None:
    engine = Engine(toy())
    model = weakref.ref(engine.model)
    answers = [engine.submit("q", ["a", "b"]) for _ in range(3)]
    assert held.begun.acquire(timeout=10)
    del engine
    gc.collect()
    held.let_all_go()
    assert [len(one.result(10)) for one in answers] == [2, 2, 2]
    until(lambda: not ours())
    until(lambda: gc.collect() >= 0 and model() is None)


def test_its_threads_end_no_process_and_keep_none(thorough: bool) -> None:
    """One that ends while an engine works, and nobody has closed it."""
    program = """
import sys, tempfile, pytest
from pathlib import Path
from toy_model import toy_opener
from packrank import Engine
engine = Engine(toy_opener(Path(tempfile.mkdtemp()), pytest.MonkeyPatch())())
answers = [engine.submit("q", ["a b"] * 50) for _ in range(20)]
if sys.argv[1] == "answered":
    [one.result(10) for one in answers]
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for when in ["working", "answered"] * 5 if thorough else ["working"]:
        done = subprocess.run(
            [sys.executable, "-c", program, when], capture_output=True, text=True,
            env=environment, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_told_to_make_its_own(toy: Open, held: Held) -> None:
    engine = Engine(toy())
    first = engine.submit("q", ["a"])
    assert held.begun.acquire(timeout=10)
    engine._pump._changed.acquire()  # as another thread might hold it
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(20)
            with pytest.raises(EngineClosed, match="make one here"):
                engine.submit("q", ["a"])
            engine.drain()
            engine.close()
            held.let_all_go()
            assert len(Engine(engine.model).submit("q", ["a"]).result(10)) == 1
            status = 0
        finally:
            os._exit(status)
    engine._pump._changed.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    held.let_all_go()
    assert first.result(10)
    engine.close()


@pytest.mark.parametrize("fails", [False, True])
def test_a_deadline_holds_while_the_model_hangs(
    toy: Open, held: Held, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Whatever becomes of it in the end."""
    logits = ToyModel.logits

    def ending(model: ToyModel, pack: Any) -> Any:
        found = logits(model, pack)
        if fails and len(held.packs) == 1:
            raise RuntimeError("it was stuck")
        return found

    monkeypatch.setattr(ToyModel, "logits", ending)
    with Engine(toy()) as engine:
        hung = engine.submit("q", ["a"], timeout=0.05)
        assert held.begun.acquire(timeout=10)
        waiting = engine.submit("q", ["a"], timeout=0.05)
        for one in (hung, waiting):
            with pytest.raises(DeadlineExceeded):
                one.result(10)
        assert engine.queue_tokens == engine.queue_requests == 0
        held.let_all_go()
        assert len(engine.submit("q", ["a"]).result(10)) == 1
        assert engine.totals.turned_away == {"deadline": 2}


@pytest.mark.parametrize("forever", [math.inf, 1e10, 10**400])
def test_who_waits_for_ever_ends_no_thread(toy: Open, held: Held, forever: float) -> None:
    """No lock can be told to wait so long, and what a thread fails by ends it for all."""
    with Engine(toy()) as engine:
        first = engine.submit("q", ["a"], timeout=forever)
        assert held.begun.acquire(timeout=10)
        engine.submit("q", ["a"], timeout=0.05).exception(10)  # both threads have looked at it
        held.let_all_go()
        assert first.result(10) and engine.submit("q", ["b"]).result(10)
        assert engine.drain(forever)


@pytest.mark.parametrize("odd", [math.nan, -1, "1", True, -math.inf])
def test_what_is_no_time_is_refused(toy: Open, odd: Any) -> None:
    with Engine(toy()) as engine:
        with pytest.raises(InputError, match=r"timeout is .*, expected seconds above 0"):
            engine.submit("q", ["a"], timeout=odd)
        with pytest.raises(InputError, match=r"seconds is .*, expected seconds from 0, or None"):
            engine.drain(odd)
        assert engine.submit("q", ["a"]).result(10)


class Panic(BaseException):
    """As that of a library in Rust is."""


@pytest.mark.parametrize("error", [Panic("lost"), SystemExit(3), ArithmeticError()])
def test_whatever_a_model_raises_fails_its_request_alone(
    toy: Open, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    logits = ToyModel.logits

    def failing(model: ToyModel, pack: Any) -> Any:
        if (pack.lengths > 5).any():
            raise error
        return logits(model, pack)

    monkeypatch.setattr(ToyModel, "logits", failing)
    with Engine(toy()) as engine:
        answers = [engine.submit("q", ["a b"]), engine.submit("q", ["a"])]
        found = answers[0].exception(10)
        assert isinstance(found, Exception) and type(error).__name__ in repr(found)
        assert len(answers[1].result(10)) == 1
        assert len(engine.submit("q", ["a"]).result(10)) == 1


def test_pack_after_pack_that_fails_is_a_failed_engine(
    toy: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a device that is lost, until a pack runs again; a request's own fault is none."""
    logits, is_lost = ToyModel.logits, [False]

    def failing(model: ToyModel, pack: Any) -> Any:
        if is_lost[0] or (pack.lengths > 5).any():
            raise RuntimeError("of secret words: CUDA error: an illegal memory access")
        return logits(model, pack)

    def ask(text: str, count: int) -> None:
        for _ in range(count):
            answer = engine.submit("q", [text])
            assert isinstance(answer.exception(10), RuntimeError | None)

    monkeypatch.setattr(ToyModel, "logits", failing)
    with Engine(toy()) as engine:
        for _ in range(3):
            ask("a b", 4)
            ask("a", 1)
        assert engine.failed is None
        is_lost[0] = True
        ask("a", 5)
        assert engine.failed == "the last 5 packs have failed, the last with RuntimeError"
        is_lost[0] = False
        ask("a", 1)
        assert engine.failed is None
    assert engine.failed is None  # closed is not failed


def test_of_a_pack_that_fails_only_what_is_waited_for_is_run_again(
    toy: Open, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = ToyModel.logits

    def failing(model: ToyModel, pack: Any) -> Any:
        found = logits(model, pack)
        if len(pack.lengths) > 1:
            raise RuntimeError("no such kernel")
        return found

    monkeypatch.setattr(ToyModel, "logits", failing)
    with Engine(toy()) as engine:
        first = engine.submit("q", ["a"])
        assert held.begun.acquire(timeout=10)
        late, gone, stays = (engine.submit("q", ["a"], timeout=t) for t in (0.3, None, None))
        until(lambda: engine._pump._scheduler.ready == 15)
        held.go.release()
        assert first.result(10) and held.begun.acquire(timeout=10)
        assert gone.cancel()
        assert isinstance(late.exception(10), DeadlineExceeded)
        held.let_all_go()
        assert len(stays.result(10)) == 1
    assert held.packs == [[5], [5] * 3, [5]]


def test_callbacks_of_both_threads_may_close_it(toy: Open, held: Held) -> None:
    """At the same time: neither waits for the other."""
    engine = Engine(toy())
    both, closed = threading.Barrier(2, timeout=10), threading.Semaphore(0)

    def close(_: Any) -> None:
        both.wait()
        engine.close()
        closed.release()

    run = engine.submit("q", ["a"])
    run.add_done_callback(close)
    assert held.begun.acquire(timeout=10)
    late = engine.submit("q", ["a"], timeout=1e-9)  # the thread that reads turns it away
    late.add_done_callback(close)
    held.let_all_go()
    assert run.result(10)
    assert closed.acquire(timeout=10) and closed.acquire(timeout=10)
    for thread in engine._pump._threads:
        thread.join(10)
        assert not thread.is_alive()


def test_callbacks_may_fail_and_ask_again(toy: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("concurrent.futures", "packrank.serving.pump"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    again: list[Any] = []

    def fail(_: Any) -> None:
        sys.exit("callbacks must not")

    with Engine(toy()) as engine:
        for callback in (fail, lambda _: 1 / 0):
            engine.submit("q", ["a"]).add_done_callback(callback)
        for _ in range(3):
            answer = engine.submit("q", ["a"])
            answer.add_done_callback(lambda _: again.append(engine.submit("q", ["a", "b"])))
        until(lambda: len(again) == 3)
        assert all(len(one.result(10)) == 2 for one in again)


def test_a_watch_that_fails_is_not_heeded(toy: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("packrank.serving.pump"), "disabled", True)
    told: list[str] = []

    class Failing:
        def __getattr__(self, name: str) -> Callable[..., None]:
            told.append(name)
            return lambda *_: 1 / 0

    with Engine(toy(), watch=Failing(), max_queue_tokens=20) as engine:
        assert engine.submit("q", ["a"]).result(10)
        with pytest.raises(PairError):
            engine.submit("q", [7]).result(10)
        assert engine.totals.requests == 2
    with pytest.raises(EngineClosed):
        engine.submit("q", ["a"])
    assert told[-1] == "rejected" and {"admitted", "has_read", "has_run", "answered"} <= {*told}


def test_thousands_that_wait_come_and_go_at_once(toy: Open, held: Held) -> None:
    """None of it takes the longer the more there are: refusals, cancels and the end of all."""
    with Engine(toy(), max_queue_tokens=14_000) as engine:
        begun = time.process_time()
        answers = [engine.submit("q", ["a"], caller="one", timeout=1000) for _ in range(2000)]
        each = (time.process_time() - begun) / 2000
        begun = time.process_time()
        for _ in range(500):
            with pytest.raises(Overloaded) as refused:
                engine.submit("q", ["a"] * 1000)
        assert 0 < refused.value.retry_after <= 60
        assert (time.process_time() - begun) / 500 < 60 * each  # of a thousand pairs
        begun = time.process_time()
        assert all(one.cancel() for one in answers[:1000])
        assert (time.process_time() - begun) / 1000 < each
        begun = time.process_time()
        held.let_all_go()
        engine.close()
        assert (time.process_time() - begun) / 1000 < each
    assert sum(isinstance(one.exception(), PackrankError) for one in answers[1000:]) >= 500
