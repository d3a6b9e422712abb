"""Graphs on the CPU: a recorded forward is one that runs again on the buffers it was made for."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorder import Forward, Recorder
from torch import Tensor

import packrank_kernels
from packrank.models import Model, load_model
from packrank.models.base import Inputs
from packrank.models.program import Extent
from packrank.request import Pack, Sequence
from packrank.runtime import graphs
from packrank.runtime.graphs import PATIENCE, Graphs, bucket_of, can_capture
from packrank.runtime.runner import Runner
from packrank.runtime.transfer import Fetch

LENGTHS = [[5, 1, 40], [40] * 9, [3] * 30, [17], [1], [5, 1, 39], [2, 2], [40] * 9]


def submit(runner: Graphs, pack: Pack) -> Fetch:
    return runner.submit(runner.model.scoring(pack))


@pytest.fixture(scope="module", params=["Bert", "Electra", "mean", "DebertaV2", "Gte"])
def model(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> Model:
    name, options = request.param, {}
    if name == "mean":
        name, options = "ModernBert", {"classifier_pooling": "mean"}
    return load_model(checkpoint(name, num_labels=3, **options), device="cpu", dtype=torch.float32)


@pytest.fixture
def packs(model: Model, make_sequences: Callable[..., list[Sequence]]) -> list[Pack]:
    name = model.config.architecture.removesuffix("ForSequenceClassification")
    return [Pack.of(make_sequences(name, lengths, seed)) for seed, lengths in enumerate(LENGTHS)]


def test_a_graph_says_what_the_model_says(model: Model, packs: list[Pack]) -> None:
    """Also where a pack was before another in the same buffers, and with results left waiting."""
    expected = [model.logits(pack).numpy() for pack in packs]
    recorder = Recorder()
    runner = Graphs(model, recorder)
    for _ in range(PATIENCE + 2):
        waiting = [submit(runner, pack) for pack in packs]
        for wait, logits in zip(waiting, expected, strict=True):
            np.testing.assert_array_equal(wait(), logits)
    buckets = {bucket_of(Extent.of(pack), model.config.max_length) for pack in packs}
    assert runner.num_graphs == recorder.num_graphs == len(buckets) > 2


def test_states_of_the_tokens_that_are_wanted(
    model: Model, packs: list[Pack], checkpoint: Callable[..., Path]
) -> None:
    """All or some, with keys left out or not, and what is made of them; none are overwritten."""
    name = model.config.architecture.removesuffix("ForSequenceClassification")
    encoder = load_model(checkpoint(name, "Model"), device="cpu", dtype=torch.float32, head=False)
    runner, found = Graphs(encoder, Recorder()), []
    all_are_keys = encoder.config.family == "deberta-v2"
    random = np.random.default_rng(0)
    for turn in range(PATIENCE + 2):
        for pack in (packs[0], packs[5]):  # of one bucket
            least = pack.lengths if all_are_keys else 1
            keys = random.integers(least, 1 + pack.lengths, dtype=np.int32)
            rows = np.flatnonzero(random.random(len(pack.token_ids)) < 0.7).astype(np.int32)
            for options in ((None, None), (keys, None), (None, rows), (keys, rows)):
                program = encoder.encoding(pack, *options)
                made = program.then(torch.neg) if turn % 2 else program
                expected = encoder.hidden_states(pack, *options)
                found.append((runner.run(made), -expected if turn % 2 else expected))
    assert runner.num_graphs == 4 * 2
    for states, expected in found:
        assert torch.equal(states, expected)


def test_threads_share_graphs(model: Model, packs: list[Pack]) -> None:
    expected = [model.logits(pack).numpy() for pack in packs]
    runner = Graphs(model, Recorder())
    with ThreadPoolExecutor(4) as pool:
        for i, logits in pool.map(lambda i: (i, submit(runner, packs[i])()), list(range(8)) * 6):
            np.testing.assert_array_equal(logits, expected[i])


def test_a_bucket_is_captured_when_it_has_been_used_often(model: Model, packs: list[Pack]) -> None:
    runner = Graphs(model, Recorder())
    for uses in range(2 * PATIENCE):
        submit(runner, packs[(0, 5)[uses % 2]])  # 46 and 45 tokens: the same bucket
        assert runner.num_graphs == (uses >= PATIENCE)


def test_a_caller_may_change_torchs_mode(model: Model, packs: list[Pack]) -> None:
    """What was made in inference mode is written outside it, and vectors are not of that mode."""
    runner, program = Graphs(model, Recorder()), model.scoring(packs[0])
    with torch.inference_mode():
        waiting = [runner.submit(program) for _ in range(PATIENCE + 1)]
    assert runner.num_graphs == 1
    kept = runner.run(program)
    assert not kept.is_inference()
    np.testing.assert_array_equal(kept, waiting[0]())


def broken(forward: Forward) -> Forward:
    raise RuntimeError("operation not permitted when stream is capturing")


def full(forward: Forward) -> Forward:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("capture", [broken, full])
def test_what_cannot_be_captured_runs_as_it_is(
    model: Model, packs: list[Pack], capture: Callable[[Forward], Forward]
) -> None:
    runner = Graphs(model, capture)
    for _ in range(PATIENCE + 2):
        for pack in packs:
            np.testing.assert_array_equal(submit(runner, pack)(), model.logits(pack).numpy())
    assert runner.num_graphs == 0


def test_the_graph_longest_unused_makes_room(
    model: Model, packs: list[Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 2)
    recorder = Recorder()
    runner = Graphs(model, recorder)
    different = [packs[i] for i in (0, 1, 2)]
    for pack in [*different, different[0]]:
        for _ in range(PATIENCE + 2):
            np.testing.assert_array_equal(submit(runner, pack)(), model.logits(pack).numpy())
        assert runner.num_graphs <= 2
    assert recorder.num_graphs == 4


def test_graphs_hold_their_share_of_memory_and_no_more(
    model: Model, packs: list[Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(graphs, "_total_memory", lambda device: 100.0)
    # 20 bytes a graph, and a quarter of 100 to hold.
    monkeypatch.setattr(graphs, "_reserved_memory", lambda device: 20 * recorder.num_graphs)
    runner = Graphs(model, recorder)
    for _ in range(PATIENCE + 2):
        for pack in packs:
            np.testing.assert_array_equal(submit(runner, pack)(), model.logits(pack).numpy())
    assert runner.num_graphs == 2


def test_clear_forgets_everything(model: Model, packs: list[Pack]) -> None:
    runner = Graphs(model, Recorder())
    for _ in range(PATIENCE + 1):
        submit(runner, packs[0])
    assert runner.num_graphs == 1
    runner.clear()
    assert runner.num_graphs == 0
    np.testing.assert_array_equal(submit(runner, packs[0])(), model.logits(packs[0]).numpy())


def test_a_runner_survives_want_of_memory_in_its_graphs(
    model: Model, packs: list[Pack], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it comes in a pack that runs as it is or in one that is captured."""
    runner = Runner(model, 400)
    runner.graphs = Graphs(model, Recorder())
    score = Model.score
    room = 1000

    def cramped(self: Model, inputs: Inputs) -> Tensor:
        if len(inputs.token_ids) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(self, inputs)

    monkeypatch.setattr(Model, "score", cramped)
    expected = model.logits(packs[1]).numpy()
    runner.warm_up([40, 20])
    assert runner.graphs.num_graphs > 0
    room = 100
    np.testing.assert_array_equal(runner.logits(packs[1]), expected)
    assert runner.budget_tokens <= 360 / 2


@pytest.mark.parametrize("lacking", [None, "attention", "add_rms_norm", "score_head"])
def test_graphs_are_for_devices_on_which_no_op_waits(
    monkeypatch: pytest.MonkeyPatch, lacking: str | None
) -> None:
    def backends(device: torch.device, dtype: torch.dtype) -> dict[str, list[Any]]:
        row = [("avx512", "not on the CPU"), ("triton", None), ("reference", None)]
        waits = [("avx512", "not on the CPU"), ("triton", "too old"), ("reference", None)]
        return {op: waits if op in (lacking, "maxsim") else row for op in (*graphs._OPS, "maxsim")}

    monkeypatch.setattr(packrank_kernels, "backends", backends)
    on_cuda = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float16)
    assert can_capture(on_cuda) == (lacking is None)  # type: ignore[arg-type]
    on_cpu = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32)
    assert not can_capture(on_cpu)  # type: ignore[arg-type]


@given(lengths=st.lists(st.integers(1, 512), min_size=1, max_size=300), prefix=st.integers(0, 99))
def test_a_bucket_has_room_and_little_more(lengths: list[int], prefix: int) -> None:
    tokens, longest = sum(lengths), max(lengths)
    bucket = bucket_of(Extent(tokens, len(lengths), longest, longest + prefix), 512 + prefix)
    assert tokens <= bucket.tokens <= max(tokens * 1.125, 64)
    assert len(lengths) <= bucket.sequences <= max(2 * len(lengths) - 1, 8)
    for length, room in ((longest, bucket.max_seqlen), (longest + prefix, bucket.max_seqlen_k)):
        assert length <= room <= max(2 * length, 1024 if prefix and length > 64 else 64)
        assert room <= 512 + prefix


def test_there_are_few_buckets() -> None:
    sizes = {bucket_of(Extent(n, 1, n, n), n).tokens for n in range(1, 16385)}
    assert len(sizes) == 1 + 8 * 8  # eight to each doubling from 64 to 16384
    assert 16384 in sizes
    # Behind a prefix two for all lengths that candidates have.
    lengths = {bucket_of(Extent(4096, 9, n, n + 60), 32768).max_seqlen for n in range(1, 961)}
    assert lengths == {64, 1024}
