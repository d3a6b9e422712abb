"""Models as they are measured: what they compute is what their front doors say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recorder import Recorder

from packrank import Reranker
from packrank.bench.subjects.checkpoints import write_checkpoint
from packrank.bench.subjects.shapes import SHAPES
from packrank.bench.subjects.subject import Subject, added_memory, padding_shares
from packrank.bench.subjects.texts import Texts
from packrank.demo import default_model
from packrank.errors import InputError
from packrank.runtime.graphs import PATIENCE, Graphs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = replace(SHAPES["MiniLM-L6"], layers=2, hidden=64, heads=4, inner=96)
    return write_checkpoint(shape, tmp_path_factory.mktemp("small"))


def opened(folder: Path, lengths: str = "msmarco-like") -> Subject:
    return Subject.open(folder, "small", "cpu", "float32", Texts.named(lengths))


def test_it_scores_as_the_front_door_does(folder: Path) -> None:
    subject = opened(folder)
    pairs = subject.texts.pairs(30, 10, seed=0)
    expected = Reranker(folder, device="cpu").score(pairs)
    assert np.array_equal(subject.score(pairs), expected)
    query = pairs[0][0]
    documents = [document for _, document in pairs[:10]]
    assert subject.rank(query, documents) == Reranker(folder).rank(query, documents)


def test_its_tokens_are_those_that_the_model_reads(folder: Path) -> None:
    subject = opened(folder)
    pairs = subject.texts.pairs(30, 10, seed=0)
    model = Reranker(folder)
    model.score(pairs)
    [lengths] = subject.lengths(pairs)
    assert len(lengths) == len(pairs)
    assert lengths.sum() == model.num_tokens


def test_a_fixed_length_is_that_of_every_pair(folder: Path) -> None:
    subject = opened(folder, "fixed:96")
    [lengths] = subject.lengths(subject.texts.pairs(20, 5, seed=0))
    assert lengths.tolist() == [96] * 20
    with pytest.raises(InputError, match="max_length is 1000"):
        opened(folder, "fixed:1000")


def test_a_profile_has_the_ops_of_the_model_and_they_fit_into_the_whole(folder: Path) -> None:
    subject = opened(folder)
    pairs = subject.texts.pairs(30, 10, seed=0)
    tokens = int(subject.lengths(pairs)[0].sum())
    profile = subject.profile(pairs)
    by_name = {op.name.split(",")[0]: op for op in profile.ops}
    assert by_name["linear 64 -> 192"].operations == 2 * tokens * 64 * 192  # but for the last layer
    assert profile.seconds >= sum(op.seconds for op in profile.ops) + profile.waited
    assert profile.waited > 0
    on_device = subject.profile_on_device(lambda: 0.0, pairs)
    for op in on_device.ops:
        expected = by_name.get(op.name.split(",")[0])
        if expected is not None and expected.part == "products":
            assert op.operations == pytest.approx(expected.operations, rel=0.05)
    assert {"launches", "host", "products", "attention"} <= on_device.parts.keys()


def in_graphs(subject: Subject) -> Graphs:
    """As on a CUDA device: what it runs from now on is captured, and then shows no op."""
    graphs = Graphs(subject.runner.model, Recorder())  # type: ignore[arg-type]
    subject.runner.graphs = graphs
    return graphs


@pytest.mark.parametrize("kind", ["cross-encoder", "late interaction"])
def test_what_runs_in_graphs_is_taken_apart_op_by_op(folder: Path, kind: str) -> None:
    subject = opened(folder if kind == "cross-encoder" else default_model())
    pairs = subject.texts.pairs(30, 10, seed=0)[: 30 if kind == "cross-encoder" else 4]
    expected = subject.score(pairs)

    def apart() -> dict[str, int]:
        profile = subject.profile_on_device(lambda: 0.0, pairs)
        return {op.name: op.calls for op in profile.ops}

    launched = apart()
    graphs = in_graphs(subject)
    for _ in range(PATIENCE + 2):
        assert apart() == launched
        subject.score(pairs)
    assert graphs.num_graphs > 0
    np.testing.assert_array_equal(subject.score(pairs), expected)
    assert apart() == launched
    assert subject.runner.graphs is graphs


def test_on_a_device_the_layers_that_are_asked_for_count(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    shape = replace(SHAPES["MiniCPM-2B"], layers=10, hidden=64, heads=4, inner=96)
    folder = write_checkpoint(shape, tmp_path_factory.mktemp("layers"))
    calls = []
    for layer in (8, 10):
        subject = Subject.open(folder, "it", "cpu", "float32", Texts.named("msmarco-like"), layer)
        profile = subject.profile_on_device(lambda: 0.0, subject.texts.pairs(4, 2, seed=0))
        calls.append(sum(op.calls for op in profile.ops if op.part == "attention"))
    assert calls == [8, 10]


def test_random_packs_are_of_one_length_as_far_as_the_model_goes(folder: Path) -> None:
    subject = opened(folder)
    packs = subject.random_packs(128, 1000, seed=0)
    assert packs is not None
    assert packs[0].lengths.tolist() == [128] * 7
    assert subject.random_packs(513, 1000, seed=0) is None
    subject.forward(packs)


def test_late_interaction_is_measured_too() -> None:
    subject = opened(default_model())
    pairs = subject.texts.pairs(6, 3, seed=0)
    assert np.isfinite(subject.score(pairs)).all()
    queries, documents = subject.lengths(pairs)
    assert (len(queries), len(documents)) == (2, 6)
    before = subject.model.num_tokens
    subject.score(pairs)
    assert subject.model.num_tokens - before == queries.sum() + documents.sum()
    assert len(set(documents.tolist())) > 1
    assert {op.part for op in subject.profile(pairs).ops} >= {"products", "attention"}
    with pytest.raises(InputError, match="query and document apart"):
        opened(default_model(), "fixed:128")


def test_memory_that_an_earlier_call_left_behind_counts_again() -> None:
    """As the C library keeps it: what a process holds does not grow by what it uses once more."""
    size = 20 << 20
    np.ones(size + (10 << 20), dtype=np.uint8)  # so much is taken from the heap from now on
    for _ in range(2):
        added = added_memory(lambda: np.ones(size, dtype=np.uint8).sum(), torch.device("cpu"))
        assert added is not None
        assert added == pytest.approx(size, rel=0.1)


def test_memory_is_that_of_weights_graphs_and_a_call(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = opened(folder)
    monkeypatch.setattr("packrank.bench.subjects.subject.added_memory", lambda call, device: 7)
    assert subject.memory(lambda: None) == subject.weights_bytes + 7
    in_graphs(subject)
    monkeypatch.setattr(Graphs, "num_bytes", 1000)
    assert subject.memory(lambda: None) == subject.weights_bytes + 1007


@pytest.mark.parametrize(
    ("lengths", "batch", "sorted_share", "unsorted_share"),
    [
        ([4, 4, 4, 4], 2, 0.0, 0.0),
        ([1, 3, 1, 3], 2, 0.0, 4 / 12),
        ([5, 1, 2], 2, 1 / 9, 4 / 12),
        ([7], 32, 0.0, 0.0),
    ],
)
def test_padding_by_hand(
    lengths: list[int], batch: int, sorted_share: float, unsorted_share: float
) -> None:
    found = padding_shares([np.array(lengths)], batch)
    assert found == pytest.approx((sorted_share, unsorted_share))


def test_queries_and_documents_are_padded_apart() -> None:
    found = padding_shares([np.array([1, 1]), np.array([4, 2, 2])], 2)
    assert found == pytest.approx((0.0, 1 - 10 / 12))
