"""What is made of texts where others' are read: in turns with them, under every limit."""

import threading
from typing import Any

import pytest
from held_model import Held, until
from toy_model import Open

from packrank import DeadlineExceeded, Engine, EngineClosed, InputError, LateInteraction, Overloaded
from packrank.demo import default_model


class Gate:
    """A call that waits at each text until it is let go."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.threads: list[threading.Thread] = []
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, text: str) -> int:
        self.texts.append(text)
        self.threads.append(threading.current_thread())
        self.begun.release()
        assert self.go.acquire(timeout=10)
        return len(text)


def test_texts_become_what_is_made_of_them(toy: Open) -> None:
    with Engine(toy()) as engine:
        answer = engine.submit_reading(["a", "", "bcd"] * 2000, len)
        assert answer.result(10) == [1, 0, 3] * 2000
        assert engine.submit_reading([], len).result(10) == []
        assert (engine.queue_tokens, engine.totals.pairs, answer.usage.pairs) == (0, 0, 0)
        assert answer.usage.tokenize_s > 0
        for odd, error in ((["a", 7], InputError), ("a", InputError)):
            with pytest.raises(error):
                engine.submit_reading(odd, len)  # type: ignore[arg-type]
        failing = engine.submit_reading(["a"], lambda text: 1 / 0)
        assert isinstance(failing.exception(10), ZeroDivisionError)
        assert len(engine.submit("q", ["a"]).result(10)) == 1


def test_long_ones_take_turns_with_others(toy: Open) -> None:
    gate = Gate()
    with Engine(toy()) as engine:
        long = engine.submit_reading(["a" * 20_000] * 3, gate)
        assert gate.begun.acquire(timeout=10)
        other = engine.submit("q", ["a"])
        gate.go.release()
        assert other.result(10) and not long.done()
        gate.go.release(2)
        assert long.result(10) == [20_000] * 3
    # None that a process waits for when it ends.
    assert {(one.name, one.daemon) for one in gate.threads} == {("packrank reading", True)}


def test_who_has_gone_or_is_late_has_no_more_of_them_read(toy: Open) -> None:
    gate = Gate()
    with Engine(toy()) as engine:
        gone = engine.submit_reading(["a" * 20_000] * 3, gate)
        assert gate.begun.acquire(timeout=10)
        late = engine.submit_reading(["b" * 20_000] * 3, gate, timeout=0.05)
        assert isinstance(late.exception(10), DeadlineExceeded)
        assert gone.cancel()
        assert engine.queue_requests == engine.queue_tokens == 0
        gate.go.release(10)
        assert engine.submit("q", ["a"]).result(10)
    assert gate.texts == ["a" * 20_000]


def test_it_waits_in_the_queue_and_ends_with_it(toy: Open, held: Held) -> None:
    gate = Gate()
    engine = Engine(toy(), max_queue_tokens=1000)
    first = engine.submit_reading(["a" * 20_000], gate)
    assert gate.begun.acquire(timeout=10)
    waiting = [engine.submit_reading(["a" * 20_000] * 10, gate) for _ in range(2)]
    with pytest.raises(Overloaded):
        engine.submit_reading(["a" * 20_000] * 10, gate)
    closing = threading.Thread(target=engine.close)
    closing.start()
    for one in (first, *waiting):
        assert isinstance(one.exception(10), EngineClosed)
    gate.go.release(10)
    closing.join(10)
    assert not closing.is_alive() and len(gate.texts) == 1


def test_late_interaction_says_what_it_would_cut_before_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = LateInteraction(default_model(), device="cpu")
    ran: list[Any] = []
    try_score = model.try_score
    monkeypatch.setattr(model, "try_score", lambda pairs: ran.extend(pairs) or try_score(pairs))
    pairs = [("the sea", "a sea"), ("the sea", "the sea " * 3000), ("the sea", "a sea")]
    with Engine(model) as engine:
        answer = engine.submit_pairs(pairs, truncation="off")
        error = answer.exception(60)
        assert "pair 1: its document has" in str(error) and "more than the model" in str(error)
        assert [len(text) for _, text in ran] == [5, 5]
        assert engine.submit_pairs(pairs).result(60).shape == (3,)
        for options, said in (({"truncation": "only_second"}, "truncation"), ({"x": 1}, "no x")):
            with pytest.raises(InputError, match=said):
                engine.submit_pairs(pairs, **options)
        assert engine.submit_pairs([("", "\ud800")], truncation="off").exception(60)
    until(lambda: not engine.queue_requests)
