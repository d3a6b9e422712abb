"""`packrank bench compare` on this machine's own samples: what it finds, and what it does not.

Rounds of a model and of the same made a tenth slower, in turns; then runs drawn from the rounds.
How often a tenth is found hangs on how noisy the machine is, which the rows say.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from packrank.bench.shown.statistics import compared, spread
from packrank.bench.speed import offline
from packrank.bench.speed.offline import Racer, race
from packrank.bench.subjects.checkpoints import write_checkpoint
from packrank.bench.subjects.shapes import SHAPES
from packrank.bench.subjects.subject import Subject
from packrank.bench.subjects.texts import Texts
from packrank.bench.watch.energy import Meter

ROUNDS, RUN, DRAWS = 36, 9, 400
CALL_S = 1.0
SLOWER = 0.1


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
    race(racers, np.inf, [])
    same, again, slow = (np.array(racer.result.samples) for racer in racers)
    for name, other in (("again", again), ("a tenth slower", slow)):
        live = compared(same, other)
        said = f"{live.ratio:.3f} ({live.low:.3f}-{live.high:.3f})"
        rows.say(f"{name}, live: {said}, {'different' if live.different else 'no difference'}")
    rng = np.random.default_rng(0)
    found = {"again": 0, "a tenth slower": 0}
    for _ in range(DRAWS):
        places = [np.sort(rng.choice(ROUNDS, RUN, replace=False)) for _ in range(2)]
        for name, other in (("again", again), ("a tenth slower", slow)):
            found[name] += compared(same[places[0]], other[places[1]]).different
    for name, count in found.items():
        case = f"{RUN} rounds each, {DRAWS} draws of {ROUNDS}, noise {spread(same):.1%}; {name}"
        rows.add(
            {
                "bench": "bench compare",
                "case": case,
                "contestant": "packrank",
                "rate": 100 * count / DRAWS,
                "unit": "% called different",
            }
        )
    assert found["again"] <= 0.05 * DRAWS
