"""What peers share: batches sorted by length, the best of several sizes, lengths."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from packrank.bench.peers import peer
from packrank.bench.peers.classifier import token_limit
from packrank.bench.peers.peer import (
    CannotRun,
    Logits,
    Task,
    best_batch,
    in_batches,
    is_installed,
    on_cpu_only,
)
from packrank.bench.subjects.texts import Pairs
from packrank.bench.timing import Clock

PAIRS = [("q", "d" * length) for length in (3, 9, 1, 7, 5)]
CUDA = torch.device("cuda")


def task(device: torch.device, pairs: Pairs = PAIRS) -> Task:
    return Task(Path(), device, None, pairs)


def test_batches_are_sorted_and_logits_come_back_in_order() -> None:
    seen = []

    def run(pairs: Pairs) -> Logits:
        lengths = [len(document) for _, document in pairs]
        seen.append(lengths)
        return np.array(lengths, dtype=np.float32)

    assert in_batches(PAIRS, 2, run).tolist() == [3, 9, 1, 7, 5]
    assert seen == [[9, 7], [5, 3], [1]]


def test_what_is_tried_first_is_the_shortest_with_the_longest() -> None:
    assert task(CUDA).uneven == [PAIRS[2], PAIRS[1]]


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ({32: 4.0, 64: 3.0, 128: 2.0, 256: 2.1, 512: 2.5, 1024: 1.0}, 128),  # 512 ends it
        ({32: 1.0, 64: 2.0, 128: 0.1}, 32),
        ({32: 4.0, 64: 3.0}, 64),  # the rest does not fit
    ],
)
def test_a_device_takes_the_fastest_batch(
    monkeypatch: pytest.MonkeyPatch, times: dict[int, float], best: int
) -> None:
    asked = []

    def score(pairs: Pairs, batch: int) -> None:
        asked.append(batch)
        if batch not in times:
            raise torch.cuda.OutOfMemoryError

    def clock_of(device: torch.device) -> Clock:
        assert device == CUDA
        return lambda call: times[asked[-1]]

    monkeypatch.setattr(peer, "clock_of", clock_of)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert best_batch(task(CUDA, PAIRS * 1000), 7, score) == best
    assert best_batch(task(torch.device("cpu")), 7, score) == 7


def test_a_device_without_room_for_any_batch_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def score(pairs: Pairs, batch: int) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with pytest.raises(CannotRun, match="no memory for 32 pairs at a time"):
        best_batch(task(CUDA), 7, score)


def test_some_race_on_a_cpu_only() -> None:
    on_cpu_only(task(torch.device("cpu")), "odd")
    with pytest.raises(CannotRun, match="odd is raced on a CPU only"):
        on_cpu_only(task(CUDA), "odd")


def test_a_part_of_a_package_that_is_not_there_is_not_there() -> None:
    assert is_installed("numpy.linalg")
    assert not is_installed("numpy.unheard_of")
    assert not is_installed("unheard_of.part")


@pytest.mark.parametrize(
    ("kind", "positions", "tokenizer", "asked", "limit"),
    [
        ("bert", 512, int(1e30), None, 512),
        ("bert", 512, 256, None, 256),
        ("bert", 512, 256, 128, 128),
        ("xlm-roberta", 514, int(1e30), None, 512),
        ("xlm-roberta", 514, 512, 1000, 512),
    ],
)
def test_pairs_have_no_more_tokens_than_anything_allows(
    kind: str, positions: int, tokenizer: int, asked: int | None, limit: int
) -> None:
    config = SimpleNamespace(model_type=kind, max_position_embeddings=positions, pad_token_id=1)
    reads = SimpleNamespace(model_max_length=tokenizer)
    assert token_limit(reads, config, asked) == limit
