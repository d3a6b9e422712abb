"""MaxSim in rounds: bounds by hand, rates of a known speed, and what fails alone."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from small_bench import shorten

from packrank.bench.peers.late import MaxSimPeer, Scores
from packrank.bench.peers.peer import CannotRun
from packrank.bench.report import Ceiling
from packrank.bench.speed import maxsim, offline
from packrank.bench.speed.offline import race
from packrank.bench.speed.roofs import Roofs
from packrank.bench.speed.yardstick import Yardstick
from packrank.bench.watch.energy import Meter

CPU = torch.device("cpu")
ROOFS = Roofs.of(
    [
        Ceiling("read, L2", "bandwidth", "B/s", [1e9], {"bytes": 1 << 40}),
        Ceiling("read, memory", "bandwidth", "B/s", [1e6], {"bytes": 1 << 41}),
        Ceiling("product, float32", "products", "op/s", [1e15], {"dtype": "float32"}),
        Ceiling("product, int8", "products", "op/s", [1e15], {"dtype": "int8"}),
    ]
)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    monkeypatch.setattr(maxsim, "DOCUMENTS", 6)


def test_the_rate_is_that_of_the_documents_and_its_bound_is_memorys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Copies take turns, so that none is left in a cache that would hold one."""
    monkeypatch.setattr(maxsim, "COPIES_BYTES", 1 << 22)
    racers, sentences = maxsim.racers(CPU, ROOFS, Meter)
    assert sentences == []
    assert [one.result.dtype for one in racers][:2] == ["float32", "float16"]
    for one in racers:
        assert one.pairs % 6 == 0
        one.clock = lambda call, n=one.pairs // 6: [call(), 0.25 * n][1]
    race(racers, np.inf, Yardstick({}), lambda: None)
    for one in racers:
        assert one.result.samples == [24.0] * 5
    facts = racers[0].result.facts
    moved = 6 * 180 * 128 * 4
    assert (facts["bytes"], facts["bound_by"]) == (moved, "bytes")
    near = Roofs(ROOFS.operations, ((1 << 22, 1e9), (float("inf"), 1e6)))
    [far, *_], _ = maxsim.racers(CPU, near, Meter)
    assert far.result.facts["possible_s"] == pytest.approx(moved / 1e6)
    monkeypatch.setattr(maxsim, "COPIES_BYTES", 1)
    [alone, *_], _ = maxsim.racers(CPU, near, Meter)
    assert alone.result.facts["possible_s"] == pytest.approx(moved / 1e9)
    assert facts["share_of_ceiling"] == pytest.approx(facts["possible_s"] * 4)


def test_a_format_that_is_wrong_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    places, is_right = count(), maxsim._is_right
    monkeypatch.setattr(maxsim, "_is_right", lambda *given: is_right(*given) and next(places) != 1)
    racers, sentences = maxsim.racers(CPU, ROOFS, Meter)
    assert sentences == ["MaxSim of float16 is not what the reference says"]
    assert [one.result.dtype for one in racers][:2] == ["float32", "bfloat16"]


def test_a_peer_that_fails_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def peer(name: str, fails: bool) -> MaxSimPeer:
        def prepare(query: Any, tokens: Any, lengths: Sequence[int]) -> Callable[[], Scores]:
            if fails and len(lengths) == 6:
                raise CannotRun("it takes 5 documents at once")
            best = (query @ tokens.T).view(len(query), len(lengths), -1).amax(2).sum(0)
            return lambda: best.numpy()

        return MaxSimPeer(name, "float32", prepare)

    some = [peer("one", True), peer("other", False)]
    monkeypatch.setattr(maxsim, "opened_maxsim", lambda device: (some, []))
    monkeypatch.setattr(offline, "ROUNDS", 1)
    racers, sentences = maxsim.racers(CPU, ROOFS, Meter, peers=True)
    assert sentences == ["MaxSim: one does not race: it takes 5 documents at once"]
    assert [one.result.by for one in racers if one.result.by != "packrank"] == ["other"]
    assert "possible_s" not in racers[-1].result.facts
