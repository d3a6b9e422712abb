"""Offline: the known rate of a model of known speed, and nothing timed but scoring."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from recorder import Recorder

from packrank.bench.load.clock import VirtualClock
from packrank.bench.report import Ceiling, Result
from packrank.bench.speed import offline
from packrank.bench.speed.ceilings import Measured, Repeated
from packrank.bench.speed.offline import CALIBRATED, Racer, curves, prepare, product_shapes, race
from packrank.bench.speed.yardstick import Yardstick
from packrank.bench.subjects.checkpoints import write_checkpoint
from packrank.bench.subjects.shapes import SHAPES
from packrank.bench.subjects.subject import Subject
from packrank.bench.subjects.texts import Pairs, Texts
from packrank.bench.watch.energy import Meter
from packrank.demo import default_model
from packrank.runtime.graphs import Graphs

NOTHING = Yardstick({})
MSMARCO = Texts.named("msmarco-like")


@dataclass
class Known(Subject):
    """Scores in virtual time: so much a call, and so much a pair."""

    call_s: float = 0.0
    pair_s: float = 0.0
    time: VirtualClock = field(default_factory=VirtualClock)

    def score(self, pairs: Pairs) -> Any:
        self.time.sleep_until(self.time.now() + self.call_s + self.pair_s * len(pairs))
        return np.zeros(len(pairs), dtype=np.float32)

    def lengths(self, pairs: Pairs) -> Any:
        return [10 + np.arange(len(pairs)) % 2]

    @property
    def runner(self) -> Any:
        return SimpleNamespace(graphs=None)

    @property
    def clock(self) -> Callable[[Callable[[], object]], float]:
        def clock(call: Callable[[], object]) -> float:
            begun = self.time.now()
            call()
            return self.time.now() - begun

        return clock


def known(call_s: float, pair_s: float) -> Known:
    return Known(Path(), "known", "float32", MSMARCO, None, None, call_s, pair_s)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call_s", "pair_s", "pairs"), [(0.0, 1e-3, 400), (3e-3, 1e-4, 3984), (0.0, 1.0, 16),
                                    (1e-3, 1e-6, 8192)]
)  # fmt: skip
def test_a_call_takes_as_long_as_asked_and_gives_the_known_rate(
    monkeypatch: pytest.MonkeyPatch, call_s: float, pair_s: float, pairs: int
) -> None:
    """As far as pairs go, from 16 to 8192; also where a call costs as much as 30 of them."""
    monkeypatch.setattr(offline, "ROUNDS", 6)
    one = prepare(known(call_s, pair_s), 100, 0.4, Meter(), seed=0)
    assert len(one.pairs) == pytest.approx(pairs, rel=0.05)
    race([one.racer], np.inf, NOTHING, lambda: None)
    rate = len(one.pairs) / (call_s + pair_s * len(one.pairs))
    assert one.result.samples == pytest.approx([rate] * 6)
    assert one.result.facts["tokens_per_s"] == pytest.approx(10.5 * rate)
    # However few they are, sorted by length they fill more than a batch.
    assert one.result.facts["padding_share"] == 0.0
    assert one.result.facts["padding_share_unsorted"] == pytest.approx(0.5 / 11)


def test_padding_is_that_of_many_pairs(tmp_path: Path) -> None:
    """However few are timed."""
    shape = replace(SHAPES["MiniLM-L6"], layers=2, hidden=64, heads=4, inner=96)
    shares = []
    for folder in (write_checkpoint(shape, tmp_path), default_model()):
        subject = Subject.open(folder, "it", "cpu", "float32", Texts.named("nq-like"))
        facts = prepare(subject, 4, 1e-9, Meter(), seed=0).result.facts
        assert facts["candidates"] == CALIBRATED
        shares.append([facts[f"padding_share{end}"] for end in ("", "_unsorted")])
    assert 0 < shares[0][0] < 0.2 < shares[0][1]
    # Of late interaction queries and documents have batches of their own.
    assert 0 <= shares[1][0] < shares[1][1]


def racer(score: Callable[[], object], meter: Any = None) -> Racer:
    result = Result("Offline", "m", "float32", "long", "rate", "candidates/s", [])
    result.facts = {"tokens_per_candidate": 2.0}
    return Racer(result, score, 500, meter or Meter(), lambda call: [call(), 0.5][1])


def test_what_was_measured_before_an_interruption_is_summed_up() -> None:
    calls = iter(range(9))

    def clock(call: Callable[[], object]) -> float:
        call()
        if next(calls) == 6:
            raise KeyboardInterrupt
        return 1.0

    work = Measured("x", "products", "op/s", lambda times: None, 1.0, {})
    works = {"x": Repeated(work, 1, Ceiling("x", "products", "op/s", []), clock)}
    one = racer(lambda: None)
    with pytest.raises(KeyboardInterrupt):
        race([one], np.inf, Yardstick(works), lambda: None)
    assert one.result.samples == [1000.0] * 3
    assert one.result.accompanied
    assert one.result.facts["tokens_per_s"] == 2000.0


def test_energy_is_that_of_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that moves in steps gives some rounds nothing and others twice."""
    monkeypatch.setattr(offline, "ROUNDS", 5)

    class Steps(Meter):
        seen: Iterator[float] = iter([0.0, 30.0, 0.0, 0.0, 20.0])

        def __exit__(self, *given: Any) -> None:
            self.parts = {"GPU 0": next(self.seen)}

    one = racer(lambda: None, Steps())
    race([one], np.inf, NOTHING, lambda: None)
    assert one.result.facts["joules_per_1000"] == 20.0
    assert one.result.facts["watts"] == 20.0


@pytest.fixture(params=[None, 8], ids=["all layers", "an exit"])
def in_graphs(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    name, layers = ("MiniLM-L6", 2) if request.param is None else ("MiniCPM-2B", 9)
    shape = replace(SHAPES[name], layers=layers, hidden=64, heads=4, inner=96)
    folder = write_checkpoint(shape, tmp_path)
    subject = Subject.open(folder, "small", "cpu", "float32", MSMARCO, request.param)
    recorder: Any = Recorder()
    subject.runner.graphs = Graphs(subject.runner.model, recorder)
    return subject


def test_nothing_is_captured_while_it_is_timed(
    in_graphs: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capture takes as long as many packs, and what is not captured is launched op by op."""
    graphs, timed = in_graphs.runner.graphs, []
    assert graphs is not None
    one = prepare(in_graphs, 20, 0.02, Meter(), seed=0)

    def clock(call: Callable[[], object]) -> float:
        before = graphs.num_graphs
        call()
        timed.append(graphs.num_graphs - before)
        return 0.02

    monkeypatch.setattr(Subject, "clock", property(lambda subject: clock))
    one.racer.clock = clock
    race([one.racer], 0.0, NOTHING, lambda: None)
    curves(one, 0.2, seed=0)
    assert graphs.num_graphs > 5
    assert timed == [0] * len(timed)


def test_shapes_are_seen_and_nothing_is_captured_for_it(in_graphs: Subject) -> None:
    one, graphs = prepare(in_graphs, 20, 0.01, Meter(), seed=0), in_graphs.runner.graphs
    assert graphs is not None
    before, found = graphs.num_graphs, [product_shapes(one) for _ in range(5)]
    assert graphs.num_graphs == before
    in_graphs.runner.graphs = None
    assert found == [product_shapes(one)] * 5
    assert {(64, 192), (96, 64)} <= set(found[0])
