"""Requests of pairs that are several sequences: counted, spread over packs, and put together."""

from typing import Any

import numpy as np
import pytest
from held_model import Held, until
from toy_model import Open, ToyModel

from packrank import Engine, PairError
from packrank.serving.request import Part, Request, Taken
from packrank.serving.source import Costs
from packrank.serving.watch import Totals

# Windows of 12 words: a 1, b 2, c -3 each; the best is where the letters b are.
LONG = "c " * 20 + "b " * 5 + "a " * 30 + "c " * 9
DOCUMENTS = ["a", LONG, "b a", "a " * 12, "a " * 13, LONG[::-1]]


class Told(Totals):
    """Notes the pairs of each pack."""

    def __init__(self) -> None:
        super().__init__()
        self.packs_of: list[int] = []

    def has_run(self, pairs: int, tokens: int, budget: int, seconds: float) -> None:
        self.packs_of.append(pairs)
        super().has_run(pairs, tokens, budget, seconds)


@pytest.mark.parametrize("budget", [16, 33, 50, 4096])
def test_windows_of_a_pair_in_several_packs(toy: Open, budget: int) -> None:
    model = toy(long_documents="windows", budget_tokens=budget)
    pairs = [("q", document) for document in DOCUMENTS]
    want, told = model.score(pairs), Told()
    assert want.tolist()[0] == 1.0 and want[1] > 5
    with Engine(model, watch=told) as engine:
        found = [engine.submit_pairs(pairs) for _ in range(4)]
        assert all(np.array_equal(one.result(60), want) for one in found)
        assert {one.index: one.score for one in engine.submit("q", DOCUMENTS).result(60)} == dict(
            enumerate(want.tolist())
        )
    assert sum(told.packs_of) == told.pairs == 5 * len(pairs)
    assert 0 in told.packs_of or budget > 50
    assert max(told.packs_of) <= budget


def test_a_pack_that_fails_midway_fails_its_request_alone(
    toy: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy(long_documents="windows", budget_tokens=16)
    usual, bad = ToyModel.logits, model._assembly.tokenizer.token_id("high")

    def logits(self: ToyModel, pack: Any) -> Any:
        if bad in pack.token_ids:
            raise RuntimeError("broken")
        return usual(self, pack)

    want = model.score([("q", LONG)])
    monkeypatch.setattr(ToyModel, "logits", logits)
    with Engine(model) as engine:
        broken = engine.submit("q", [LONG, LONG + "high " + LONG])
        sound = engine.submit_pairs([("q", LONG)])
        with pytest.raises(RuntimeError, match="broken"):
            broken.result(60)
        assert np.array_equal(sound.result(60), want)
        until(lambda: engine.queue_tokens == engine.queue_requests == 0)


def test_a_window_that_is_no_number_fails_its_pair_by_name(toy: Open) -> None:
    model = toy(long_documents="windows", budget_tokens=16)
    for document in (LONG + "nan", "nan " + LONG, LONG + "nan " + LONG):
        with Engine(model) as engine, pytest.raises(PairError) as raised:
            engine.submit_pairs([("q", LONG), ("q", document), ("q", "a")]).result(60)
        assert raised.value.index == 1
        assert "not finite" in raised.value.reason


def test_one_that_is_cancelled_between_its_windows_leaves_nothing(
    toy: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy(long_documents="windows", budget_tokens=16)
    want = model.score([("q", LONG)])
    held = Held(monkeypatch)
    with Engine(model) as engine:
        answer = engine.submit_pairs([("q", LONG)])
        assert held.begun.acquire(timeout=60)
        assert answer.cancel()
        held.let_all_go()
        until(lambda: engine.queue_tokens == engine.queue_requests == 0)
        assert len(held.packs) <= 2
        assert np.array_equal(engine.submit_pairs([("q", LONG)]).result(60), want)


def test_what_is_counted_while_windows_run(toy: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens of windows that have not run wait in the queue."""
    model = toy(long_documents="windows", budget_tokens=16)
    held = Held(monkeypatch)
    with Engine(model) as engine:
        answer = engine.submit_pairs([("q", LONG)])
        assert held.begun.acquire(timeout=60)
        count = len(model._scorer.reader.window([("q", LONG)]).indices)
        assert count > 4
        for left in range(count, 1, -1):
            until(lambda left=left: engine.queue_tokens == 16 * left)
            held.go.release()
            assert held.begun.acquire(timeout=60)
        held.go.release()
        answer.result(60)
        assert answer.usage.tokens == 16 * count and answer.usage.pairs == 1


def test_a_pair_counts_where_its_first_sequence_is() -> None:
    one: Any = Request(
        [1, 2], None, lambda *_: None, None, 0, None, 0.0, np.zeros((2, 1)), Costs([1, 1], [1, 1]),  # type: ignore[arg-type]
    )  # fmt: skip
    part = Part(None, [0, 0, 0, 1, 1], np.full(5, 3, dtype=np.int32))
    spans = [(0, 2), (2, 3), (2, 4), (4, 5), (0, 5), (3, 5)]
    assert [Taken(one, part, *span, 0, 0).num_pairs for span in spans] == [1, 0, 1, 0, 2, 1]
