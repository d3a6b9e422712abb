"""Peers of MaxSim."""

import importlib.util

import numpy as np
import pytest
import torch

from packrank.bench.peers import opening
from packrank.bench.peers.late import MaxSimPeer, disagreement
from packrank.bench.peers.opening import opened_maxsim
from packrank.bench.peers.peer import CannotRun

CPU = torch.device("cpu")
PEER = MaxSimPeer("odd", "float32", lambda query, tokens, lengths: lambda: np.zeros(1, "f4"))


@pytest.mark.parametrize("lengths", [[6, 6, 6], [1, 9, 4], [5]])
def test_scores_are_those_of_maxsim(lengths: list[int]) -> None:
    peers, _ = opened_maxsim(CPU)
    if not peers:
        pytest.skip("needs maxsim-cpu")
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(5, 32, generator=generator)
    tokens = torch.randn(sum(lengths), 32, generator=generator)
    ends = np.cumsum(lengths)
    expected = [
        sum(max(float(q @ tokens[t]) for t in range(end - length, end)) for q in query)
        for length, end in zip(lengths, ends, strict=True)
    ]
    for peer in peers:
        found = peer.prepare(query, tokens, lengths)()
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert disagreement(peer, found, np.float32(expected)) is None


def test_those_that_are_not_here_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    elsewhere = "late-interaction-kernels runs on a CUDA device"
    absent = "maxsim-cpu is not installed; pip install maxsim-cpu"
    assert opened_maxsim(CPU) == ([], [absent, elsewhere])
    absent = "late-interaction-kernels is not installed; pip install late-interaction-kernels"
    assert opened_maxsim(torch.device("cuda")) == ([], ["maxsim-cpu runs on a CPU", absent])


def test_one_that_fails_or_is_wrong_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: torch.device) -> list[MaxSimPeer]:
        raise OSError("undefined symbol: x\nmore")

    def wrong(device: torch.device) -> list[MaxSimPeer]:
        return [PEER]

    monkeypatch.setattr(opening.maxsim_cpu, "peers", broken)
    monkeypatch.setattr(opening.late_interaction_kernels, "peers", wrong)
    peers, [first, second] = opened_maxsim(CPU)
    assert peers == []
    assert first.endswith(" does not run here: undefined symbol: x")
    assert second == "odd gives scores that are wrong"


def test_a_score_that_is_off_is_a_sentence() -> None:
    expected = np.float32([2.0, 8.0])
    assert disagreement(PEER, expected + np.float32([7e-4, 0]), expected) is None
    assert disagreement(PEER, expected - np.float32([9e-4, 0]), expected) == (
        "odd does not race: its scores are up to 0.0009 from the reference's, "
        "where 0.0008 is allowed"
    )
    assert disagreement(PEER, expected * np.float32(np.nan), expected) is not None


def test_a_package_of_the_device_is_wanted() -> None:
    with pytest.raises(CannotRun, match="runs on a CUDA device"):
        opening.late_interaction_kernels.peers(CPU)
