"""CUDA graphs of whole models: a replay has the bits of the eager forward in the same bucket."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from packrank.models import Model, load_model
from packrank.request import Pack, Sequence
from packrank.runtime.graphs import PATIENCE, Bucket, Graphs
from packrank.runtime.runner import Runner

pytestmark = pytest.mark.gpu


@pytest.fixture
def model(cuda: torch.device, folder: Path) -> Model:
    return load_model(folder, device=cuda, dtype=torch.float16)


def packs_of_one_bucket(sequences: list[Sequence]) -> list[Pack]:
    """The same tokens in another order; one sequence fewer; and the first again."""
    several = sequences[: len(sequences) // 2]
    shortest = min(range(len(several)), key=lambda i: len(several[i].token_ids))
    fewer = several[:shortest] + several[shortest + 1 :]
    return [Pack.of(chosen) for chosen in (several, several[::-1], fewer, several)]


def test_a_replay_has_the_bits_of_the_eager_forward(
    model: Model, sequences: list[Sequence]
) -> None:
    packs = packs_of_one_bucket(sequences)
    assert len({Bucket.of(pack, model.config.max_length) for pack in packs}) == 1
    # A bucket's first packs are never captured.
    eager = [Graphs(model).submit(pack)() for pack in packs]
    graphs = Graphs(model)
    for _ in range(PATIENCE):
        graphs.submit(packs[0])()
    waiting = [graphs.submit(pack) for pack in packs * 2]
    assert graphs.num_graphs == 1
    for wait, expected in zip(waiting, eager * 2, strict=True):
        np.testing.assert_array_equal(wait(), expected)


def test_buckets_do_not_disturb_each_other(model: Model, sequences: list[Sequence]) -> None:
    """They share a pool of memory."""
    packs = [Pack.of(sequences[start::step]) for start, step in ((0, 1), (1, 2), (2, 9), (0, 30))]
    buckets = {Bucket.of(pack, model.config.max_length) for pack in packs}
    assert len(buckets) > 2
    expected = [Graphs(model).submit(pack)() for pack in packs]
    graphs = Graphs(model)
    for turn in range(PATIENCE + 4):
        order = np.random.default_rng(turn).permutation(len(packs))
        waiting = [(i, graphs.submit(packs[i])) for i in order]
        for i, wait in waiting:
            np.testing.assert_array_equal(wait(), expected[i])
    assert graphs.num_graphs == len(buckets)


def test_threads_share_graphs(model: Model, sequences: list[Sequence]) -> None:
    runner = Runner(model, 500)
    expected = runner.logits(sequences)
    with ThreadPoolExecutor(4) as pool:
        for logits in pool.map(lambda _: runner.logits(sequences), range(12)):
            np.testing.assert_array_equal(logits, expected)


def test_clearing_gives_memory_back(
    cuda: torch.device, model: Model, sequences: list[Sequence]
) -> None:
    graphs = Graphs(model)
    expected = [graphs.submit(Pack.of(sequences))() for _ in range(PATIENCE + 1)]
    assert graphs.num_graphs == 1
    graphs.clear()
    assert graphs.num_graphs == 0
    before = torch.cuda.memory_reserved(cuda)
    for _ in range(3):
        for logits in expected:
            np.testing.assert_array_equal(graphs.submit(Pack.of(sequences))(), logits)
        assert graphs.num_graphs == 1
        graphs.clear()
    assert torch.cuda.memory_reserved(cuda) <= before
