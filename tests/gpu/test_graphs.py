"""CUDA graphs of whole models: a replay has the bits of the eager forward in the same bucket."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from decoders import ON_DEVICE, candidates, make

from packrank.models import Model, load_model
from packrank.models.program import Extent
from packrank.request import Pack, Sequence
from packrank.runtime.graphs import PATIENCE, Graphs, bucket_of
from packrank.runtime.runner import Runner
from packrank.runtime.transfer import Fetch

pytestmark = pytest.mark.gpu


@pytest.fixture
def model(cuda: torch.device, folder: Path) -> Model:
    return load_model(folder, device=cuda, dtype=torch.float16)


def submit(graphs: Graphs, pack: Pack) -> Fetch:
    return graphs.submit(graphs.model.scoring(pack))


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
    assert len({bucket_of(Extent.of(pack), model.config.max_length) for pack in packs}) == 1
    # A bucket's first packs are never captured.
    eager = [submit(Graphs(model), pack)() for pack in packs]
    graphs = Graphs(model)
    for _ in range(PATIENCE):
        submit(graphs, packs[0])()
    waiting = [submit(graphs, pack) for pack in packs * 2]
    assert graphs.num_graphs == 1
    for wait, expected in zip(waiting, eager * 2, strict=True):
        np.testing.assert_array_equal(wait(), expected)


@pytest.mark.parametrize("family", ["Qwen2", "Gemma2"])
@pytest.mark.parametrize("deterministic", [False, True], ids=["fastest", "deterministic"])
def test_decoders(cuda: torch.device, tmp_path: Path, family: str, deterministic: bool) -> None:
    """With prefixes and without; deterministic, the bits are those of a forward in no bucket."""
    make(family, num_labels=3, **ON_DEVICE).save_pretrained(tmp_path)
    model = load_model(tmp_path, device=cuda, dtype=torch.bfloat16, deterministic=deterministic)
    graphs, packs = Graphs(model), [candidates([40] * 20, 60), candidates([30, 1, 200], 9, seed=1)]
    packs += [candidates([30, 1, 200], 9, share=False), candidates([41] * 19, 59, seed=2)]
    eager = [Graphs(model).submit(model.scoring(pack))() for pack in packs]
    for turn in range(PATIENCE + 3):
        waiting = [submit(graphs, pack) for pack in packs]
        for wait, expected in zip(waiting, eager, strict=True):
            np.testing.assert_array_equal(wait(), expected, err_msg=f"turn {turn}")
    assert graphs.num_graphs == 3
    for pack, expected in zip(packs, eager, strict=True):
        whole = model.logits(pack).cpu().numpy()
        if deterministic:
            np.testing.assert_array_equal(whole, expected)
        assert np.abs(whole - expected).max() <= 2**-4 * np.abs(whole).max()


def test_buckets_do_not_disturb_each_other(model: Model, sequences: list[Sequence]) -> None:
    """They share a pool of memory."""
    packs = [Pack.of(sequences[start::step]) for start, step in ((0, 1), (1, 2), (2, 9), (0, 30))]
    buckets = {bucket_of(Extent.of(pack), model.config.max_length) for pack in packs}
    assert len(buckets) > 2
    expected = [submit(Graphs(model), pack)() for pack in packs]
    graphs = Graphs(model)
    for turn in range(PATIENCE + 4):
        order = np.random.default_rng(turn).permutation(len(packs))
        waiting = [(i, submit(graphs, packs[i])) for i in order]
        for i, wait in waiting:
            np.testing.assert_array_equal(wait(), expected[i])
    assert graphs.num_graphs == len(buckets)


def test_a_caller_may_change_torchs_mode(model: Model, sequences: list[Sequence]) -> None:
    graphs, pack = Graphs(model), Pack.of(sequences)
    with torch.inference_mode():
        waiting = [submit(graphs, pack) for _ in range(PATIENCE)]
    waiting += [submit(graphs, pack) for _ in range(3)]
    for wait in waiting:
        np.testing.assert_array_equal(wait(), waiting[0]())


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
    expected = [submit(graphs, Pack.of(sequences))() for _ in range(PATIENCE + 1)]
    assert graphs.num_graphs == 1
    graphs.clear()
    assert graphs.num_graphs == 0
    before = torch.cuda.memory_reserved(cuda)
    for _ in range(3):
        for logits in expected:
            np.testing.assert_array_equal(submit(graphs, Pack.of(sequences))(), logits)
        assert graphs.num_graphs == 1
        graphs.clear()
    assert torch.cuda.memory_reserved(cuda) <= before
