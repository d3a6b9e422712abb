"""`packrank bench compare` on this machine's own samples: what it finds, and what it does not.

Rounds of a model, of the same again and of the same made a tenth slower, in turns; then runs drawn
from them, each of rounds that followed one another, as a run's do, and no round in both.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from packrank.bench.report import Result
from packrank.bench.shown.compare import mean_beside
from packrank.bench.shown.statistics import Comparison, compared, spread
from packrank.bench.speed import offline
from packrank.bench.speed.offline import Racer, race
from packrank.bench.speed.yardstick import Yardstick
from packrank.bench.subjects.checkpoints import write_checkpoint
from packrank.bench.subjects.shapes import SHAPES
from packrank.bench.subjects.subject import Subject
from packrank.bench.subjects.texts import Texts
from packrank.bench.watch.energy import Meter

ROUNDS, RUN, DRAWS = 192, 48, 400
CALL_S = 0.4
SLOWER = 0.1


@dataclass(frozen=True)
class Samples:
    """Rates, and beside each what fixed work did."""

    rates: list[float]
    beside: list[float]

    @classmethod
    def of(cls, result: Result) -> "Samples":
        return cls(result.samples, mean_beside(result.beside))

    def part(self, start: int) -> "Samples":
        return Samples(self.rates[start : start + RUN], self.beside[start : start + RUN])

    def compared(self, other: "Samples") -> Comparison:
        return compared(self.rates, other.rates, self.beside, other.beside)


def bench_compare(rows: Any, tmp_path: Path, monkeypatch: Any) -> None:
    torch.manual_seed(0)
    folder = write_checkpoint(SHAPES["MiniLM-L6"], tmp_path / "model")
    subject = Subject.open(folder, "MiniLM-L6", "cpu", "float32", Texts.named("msmarco-like"))
    one = offline.prepare(subject, 100, CALL_S, Meter(), seed=0)

    def slowed() -> None:
        start = time.perf_counter()
        subject.score(one.pairs)
        until = time.perf_counter() + SLOWER * (time.perf_counter() - start)
        while time.perf_counter() < until:
            pass

    racers = [Racer(one.result, lambda: subject.score(one.pairs), len(one.pairs), Meter())]
    for name, call in (("again", racers[0].score), ("a tenth slower", slowed)):
        result = subject.result("Offline", "rate", "candidates/s")
        result.by, result.facts = name, dict(one.result.facts)
        racers.append(Racer(result, call, len(one.pairs), Meter()))
    monkeypatch.setattr(offline, "ROUNDS", ROUNDS)
    monkeypatch.setattr(offline, "LEAST_ROUNDS", ROUNDS)
    race(racers, np.inf, Yardstick.of(torch.device("cpu")), lambda: None)
    same, again, slow = (Samples.of(racer.result) for racer in racers)
    for name, other in (("again", again), ("a tenth slower", slow)):
        live = same.compared(other)
        said = f"{live.ratio:.3f} ({live.low:.3f}-{live.high:.3f})"
        rows.say(f"{name}, live: {said}, {'different' if live.different else 'no difference'}")
    rng = np.random.default_rng(0)
    found = {"again": 0, "a tenth slower": 0}
    apart = [
        (one, other)
        for one in range(ROUNDS - RUN + 1)
        for other in range(ROUNDS - RUN + 1)
        if abs(one - other) >= RUN
    ]
    raw = dict(found)
    for one, two in rng.choice(apart, DRAWS):
        for name, other in (("again", again), ("a tenth slower", slow)):
            runs = same.part(one), other.part(two)
            found[name] += runs[0].compared(runs[1]).different
            raw[name] += compared(runs[0].rates, runs[1].rates).different
    for name, count in found.items():
        noise = spread(same.rates)
        case = f"{RUN} rounds each, {DRAWS} draws of {ROUNDS}, noise {noise:.1%}; {name}"
        for how, called in (("", count), (", by rates alone", raw[name])):
            rows.add(
                {
                    "bench": "bench compare",
                    "case": case + how,
                    "contestant": "packrank",
                    "rate": 100 * called / DRAWS,
                    "unit": "% called different",
                }
            )
    assert found["again"] <= 0.05 * DRAWS
    assert found["a tenth slower"] >= 0.95 * DRAWS
