"""Candidates that leave on the way change nothing for those that stay."""

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from decoders import SIZES, candidates, make, save_layerwise
from recorder import Recorder

from packrank.exits import cascade as cascades
from packrank.exits.cascade import Cascade, Settled
from packrank.models import CausalModel, CausalSettings, load_model
from packrank.models.program import Program
from packrank.request import Pack
from packrank.runtime.graphs import PATIENCE, Graphs
from packrank.runtime.transfer import Fetch
from packrank.work import Work

STOPS = (1, 2, 4)
QUERIES = [
    candidates([3, 9, 1, 14, 30, 2, 7], 11, seed=1),
    candidates([8, 8, 20], 5, seed=2),
    candidates([4] * 12, 17, seed=3),
    candidates([6, 25, 2, 2, 19, 12], 1, seed=4),
]
TOP_K = 2


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CausalModel:
    torch.manual_seed(0)
    base = make("Gemma2", "ForCausalLM", sliding_window=40)
    folder = save_layerwise(
        tmp_path_factory.mktemp("layerwise"),
        base,
        [4 * torch.randn(1, 48) for _ in range(4)],
        architectures=["CostWiseGemmaForCausalLM"],
        model_type="cost_wise_gemma",
        start_layer=1,
        layer_sep=1,
        layer_wise=True,
    )
    settings = CausalSettings(head="layerwise")
    loaded = load_model(folder, device="cpu", dtype=request.param, causal=settings)
    assert isinstance(loaded, CausalModel)
    return loaded


def margin_of(margin: float):
    def keep(stage: int, logits: np.ndarray) -> np.ndarray:
        if len(logits) <= TOP_K:
            return np.ones(len(logits), dtype=bool)
        return logits + margin >= np.sort(logits)[-TOP_K]

    return keep


def run(
    model: CausalModel, queries: list[Pack], margin: float, budget: int, step: int = 100
) -> tuple[dict[int, Settled], Cascade]:
    """All queries through a cascade, handed over `step` candidates at a time."""
    cascade = Cascade(model, STOPS, margin_of(margin), budget)
    settled = {}
    for number, pack in enumerate(queries):
        for first in range(0, len(pack), step):
            places = np.arange(first, min(first + step, len(pack)))
            cascade.add(number, pack.take(places))
            settled |= {one.query: one for one in cascade.run(to_the_end=False)}
        cascade.close(number)
    settled |= {one.query: one for one in cascade.run(to_the_end=True)}
    return settled, cascade


def expected(model: CausalModel, pack: Pack, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits and layers run of one query by itself: all layers for all, then the rule by hand."""
    logits = model.logits_at(pack, STOPS).numpy()
    alive, layers = np.arange(len(pack)), np.zeros(len(pack), dtype=int)
    for stage, stop in enumerate(STOPS):
        layers[alive] = stop
        if stage + 1 < len(STOPS):
            alive = alive[margin_of(margin)(stage, logits[alive, stage])]
    final = np.full(len(pack), np.nan, dtype=np.float32)
    final[alive] = logits[alive, -1]
    return final, layers


@pytest.mark.parametrize("budget", [1, 40, 90, 4096])
@pytest.mark.parametrize("margin", [np.inf, 0.4, 0.0])
def test_the_same_bits_as_alone(model: CausalModel, margin: float, budget: int) -> None:
    settled, _ = run(model, QUERIES, margin, budget, step=5)
    assert settled.keys() == {0, 1, 2, 3}
    for number, pack in enumerate(QUERIES):
        logits, layers = expected(model, pack, margin)
        np.testing.assert_array_equal(settled[number].logits, logits)
        np.testing.assert_array_equal(settled[number].num_layers, layers)
        assert not settled[number].failures


def test_some_leave_and_some_stay(model: CausalModel) -> None:
    settled, _ = run(model, QUERIES, 0.4, 4096)
    layers = np.concatenate([one.num_layers for one in settled.values()])
    assert set(layers.tolist()) == {1, 2, 4}


@pytest.mark.parametrize("margin", [np.inf, 0.4])
def test_the_work_adds_up(model: CausalModel, margin: float) -> None:
    settled, cascade = run(model, QUERIES, margin, 4096)
    work, num_layers = cascade.work, SIZES["num_hidden_layers"]
    assert work.total == num_layers * sum(len(pack.token_ids) for pack in QUERIES)
    assert work.saved_by_compression == 0
    ahead = [
        int(((num_layers - settled[n].num_layers) * pack.lengths).sum())
        for n, pack in enumerate(QUERIES)
    ]
    assert work.saved_by_exits == sum(ahead)
    if margin == np.inf:  # one pack a stage, every prefix in it once
        once = sum(int(pack.shared[0]) * (len(pack) - 1) for pack in QUERIES)
        assert work.saved_by_prefix == num_layers * once
        tokens = work.total // num_layers - once
        assert work.saved_by_last_layer == tokens - sum(map(len, QUERIES)) - len(QUERIES)


@pytest.mark.parametrize("stop", [2, 4])
def test_a_single_stage_runs_in_graphs(model: CausalModel, stop: int) -> None:
    """With the scores and the work of one that does not; small packs in graphs, large ones not."""
    graphs = Graphs(model, Recorder())

    def settle(graphs: Graphs | None) -> tuple[list[list[float]], Work]:
        cascade = Cascade(model, (stop,), margin_of(0.0), 90, graphs)
        for number, pack in enumerate(QUERIES):
            cascade.add(number, pack)
            cascade.close(number)
        settled = sorted(cascade.run(to_the_end=True), key=lambda one: one.query)
        return [one.logits.tolist() for one in settled], cascade.work

    expected = settle(None)
    for _ in range(PATIENCE + 1):
        assert settle(graphs) == expected
    assert graphs.num_graphs > 1


def test_graphs_give_way_before_packs_become_smaller(
    model: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = Graphs(model, Recorder())
    submit, full = graphs.submit, [torch.OutOfMemoryError("CUDA out of memory")]

    def cramped(program: Program) -> Fetch:
        if graphs.num_graphs and full:
            raise full.pop()
        return submit(program)

    monkeypatch.setattr(graphs, "submit", cramped)
    for _ in range(PATIENCE + 2):
        cascade = Cascade(model, (4,), margin_of(0.0), 4096, graphs)
        cascade.add(0, QUERIES[0])
        cascade.close(0)
        (settled,) = cascade.run(to_the_end=True)
        np.testing.assert_array_equal(settled.logits, model.logits(QUERIES[0]).numpy()[:, 0])
        assert cascade.budget_tokens == 4096
    assert not full and graphs.num_graphs == 0


def test_freed_room_is_filled_with_the_next_query(model: CausalModel, monkeypatch) -> None:
    """Of many queries, packs of later stages are as full as those of the first."""
    sizes: dict[int, list[int]] = {}
    advance = CausalModel.advance

    def counted(self, state, stop, **options):
        sizes.setdefault(stop, []).append(int(state.cu_seqlens[-1]))
        return advance(self, state, stop, **options)

    monkeypatch.setattr(CausalModel, "advance", counted)
    queries = [candidates([5] * 10, 4, seed=seed) for seed in range(20)]
    run(model, queries, 0.0, 200)
    for stop in STOPS:
        assert np.mean(sizes[stop][:-1]) > 150, (stop, sizes[stop])
    assert len(sizes[4]) < len(sizes[1]) / 2


@pytest.mark.parametrize("full", [torch.OutOfMemoryError, MemoryError])
def test_out_of_memory_halves_the_pack(model: CausalModel, monkeypatch, full) -> None:
    advance = CausalModel.advance

    def limited(self, state, stop, **options):
        if int(state.cu_seqlens[-1]) > 60:
            raise full
        return advance(self, state, stop, **options)

    monkeypatch.setattr(CausalModel, "advance", limited)
    large = candidates([70], 3, seed=9)
    settled, cascade = run(model, [QUERIES[0], large], 0.4, 4096)
    monkeypatch.undo()
    logits, layers = expected(model, QUERIES[0], 0.4)
    np.testing.assert_array_equal(settled[0].logits, logits)
    np.testing.assert_array_equal(settled[0].num_layers, layers)
    assert cascade.budget_tokens <= 70
    assert "73 tokens do not fit in the memory of cpu" in settled[1].failures[0]
    assert np.isnan(settled[1].logits).all()


@pytest.mark.parametrize(("most", "budget"), [(0, 40), (1, 40), (3, 40), (1, 200)])
def test_what_there_is_no_room_for_runs_once_more(
    model: CausalModel, monkeypatch, most: int, budget: int
) -> None:
    """The same bits, whatever waits without its hidden states."""
    monkeypatch.setattr(cascades, "MOST_HELD", most)
    settled, cascade = run(model, QUERIES, 0.4, budget)
    for number, pack in enumerate(QUERIES):
        logits, layers = expected(model, pack, 0.4)
        np.testing.assert_array_equal(settled[number].logits, logits)
        np.testing.assert_array_equal(settled[number].num_layers, layers)
    assert cascade.work.recomputed > 0
    assert cascade.work.saved_by_compression == 0


def test_what_waits_goes_on_before_it_is_dropped(model: CausalModel, monkeypatch) -> None:
    """Stages with less than a pack each run all the same when they hold much together."""
    monkeypatch.setattr(cascades, "MOST_HELD", 4)
    queries = [candidates([5] * 8, 4, seed=seed) for seed in range(60)]
    cascade = Cascade(model, STOPS, margin_of(0.3), 60)
    for number, pack in enumerate(queries):
        cascade.add(number, pack)
        cascade.close(number)
    assert len(list(cascade.run(to_the_end=True))) == len(queries)
    assert cascade.work.recomputed == 0


def test_memory_that_waiting_states_fill_is_given_back(model: CausalModel, monkeypatch) -> None:
    """Out of memory while states wait: they run once more, nothing fails, packs stay large."""
    advance, alive = CausalModel.advance, weakref.WeakSet()

    def limited(self, state, stop, **options):
        if sum(len(one.x) for one in alive) > 150:
            raise torch.OutOfMemoryError
        done = advance(self, state, stop, **options)
        alive.add(done)
        return done

    monkeypatch.setattr(CausalModel, "advance", limited)
    query = candidates([6, 9, 12, 3] * 12, 5, seed=8)
    settled, cascade = run(model, [query], 0.4, 64)
    monkeypatch.undo()
    logits, layers = expected(model, query, 0.4)
    np.testing.assert_array_equal(settled[0].logits, logits)
    np.testing.assert_array_equal(settled[0].num_layers, layers)
    assert not settled[0].failures
    assert cascade.budget_tokens == 64
    assert not alive


def test_those_that_leave_keep_nothing(model: CausalModel, monkeypatch) -> None:
    """Once a query is decided, packs that it shares with others are gone: its survivors stay."""
    advance, states = CausalModel.advance, weakref.WeakSet()
    before = []

    def seen(self, state, stop, **options):
        before.append((stop, sum(len(one.x) for one in states if one.num_layers == 1)))
        done = advance(self, state, stop, **options)
        states.add(done)
        return done

    monkeypatch.setattr(CausalModel, "advance", seen)
    run(model, [candidates([5] * 40, 4, seed=1)], 0.0, 60)
    held = [tokens for stop, tokens in before if stop > 1]
    assert held
    assert not any(held)


def test_compression_on_the_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = save_layerwise(
        tmp_path / "model",
        make("Gemma2", "ForCausalLM", sliding_window=40),
        [4 * torch.randn(1, 48) for _ in range(4)],
        architectures=["CostWiseGemmaForCausalLM"],
        model_type="cost_wise_gemma",
        start_layer=1,
        layer_sep=1,
        layer_wise=True,
    )
    settings = CausalSettings(
        head="layerwise", compress_ratio=2, compress_layers=(1, 3), tail=1, head_index="layer"
    )
    model = load_model(folder, device="cpu", dtype=torch.bfloat16, causal=settings)
    assert isinstance(model, CausalModel)
    for budget in (30, 4096):
        settled, cascade = run(model, QUERIES, 0.4, budget)
        for number, pack in enumerate(QUERIES):
            logits, layers = expected(model, pack, 0.4)
            np.testing.assert_array_equal(settled[number].logits, logits)
            np.testing.assert_array_equal(settled[number].num_layers, layers)
        assert cascade.work.saved_by_compression > 0


def test_a_candidate_without_finite_logits_fails_alone(model: CausalModel, monkeypatch) -> None:
    exit_logits = CausalModel.exit_logits
    (wanted,) = np.flatnonzero(QUERIES[1].lengths == 25)

    def broken(self, state, place):
        logits = exit_logits(self, state, place)
        logits[np.diff(state.cu_seqlens) == 20] = torch.nan
        return logits

    monkeypatch.setattr(CausalModel, "exit_logits", broken)
    settled, _ = run(model, [QUERIES[1]], np.inf, 4096)
    assert settled[0].failures.keys() == {int(wanted)}
    assert np.isfinite(np.delete(settled[0].logits, wanted)).all()


def test_a_query_without_candidates(model: CausalModel) -> None:
    cascade = Cascade(model, STOPS, margin_of(0.0), 100)
    cascade.close(7)
    (settled,) = cascade.run(to_the_end=False)
    assert settled.query == 7
    assert len(settled.logits) == 0
