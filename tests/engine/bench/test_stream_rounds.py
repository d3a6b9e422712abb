"""SingleStream in rounds: samples with what was beside each, and who fails ends alone."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from packrank.bench.load import stream_rounds
from packrank.bench.load.stream_rounds import ROUNDS, Streamed, stream
from packrank.bench.report import Ceiling
from packrank.bench.speed.ceilings import Measured, Repeated
from packrank.bench.speed.yardstick import Yardstick
from packrank.bench.subjects.subject import Subject
from packrank.bench.subjects.texts import Texts


class Ranks(Subject):
    """Answers at once, but for some of its queries."""

    fails: Any = ()
    asked: Any = None

    def rank(self, query: str, documents: Sequence[str]) -> object:
        if next(self.asked) in self.fails:
            raise ValueError("no such text")
        return len(documents)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


def streamed(name: str, *fails: int) -> Streamed:
    subject = Ranks(Path(), name, "float32", Texts.named("nq-like"), None)  # type: ignore[arg-type]
    subject.fails, subject.asked = fails, count()
    return Streamed.of(subject, 3, seed=0)


def yardstick(clock: Any = lambda call: 1.0) -> Yardstick:
    ceiling = Ceiling("x", "products", "op/s", [])
    work = Measured("x", "products", "op/s", lambda times: None, 1.0, {})
    return Yardstick({"x": Repeated(work, 1, ceiling, clock)})


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_rounds, "_REQUESTS", 3)


def test_who_fails_ends_and_the_others_go_on() -> None:
    # A query a round and one that warms up: the fourth round of the one that fails has none.
    good, bad = streamed("good"), streamed("bad", 4)
    stream([bad, good], [0.0, 0.0], yardstick())
    assert bad.failure == "ValueError: no such text"
    assert good.failure is None
    assert (len(bad.result.samples), bad.result.facts["rounds"]) == (3, [1, 1, 1, 0])
    assert (len(good.result.samples), good.result.facts["rounds"]) == (ROUNDS, [1] * ROUNDS)
    assert bad.result.accompanied and good.result.accompanied
    assert bad.result.facts["p50"] > 0
    none = streamed("none", 1)
    stream([none], [0.0], yardstick())
    assert none.result.samples == []
    assert "p50" not in none.result.facts


def test_an_interruption_leaves_what_has_its_neighbours_and_sums_it_up() -> None:
    looks = count()

    def clock(call: object) -> float:
        if next(looks) == 5:
            raise KeyboardInterrupt
        return 1.0

    one = streamed("one")
    with pytest.raises(KeyboardInterrupt):
        stream([one], [0.0], yardstick(clock))
    assert len(one.result.samples) == 2  # of the third query the second look is missing
    assert one.result.accompanied
    assert one.result.facts["queries_per_s"] > 0


def test_each_round_begins_with_another_query() -> None:
    one = streamed("one")
    first = [query for query, _ in one.requests]
    stream([one], [0.0], yardstick())
    assert [query for query, _ in one.requests] == [*first[1:], first[0]]  # 7 rounds of 3
