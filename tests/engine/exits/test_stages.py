"""Requests through stages: windows, failures, several devices; scores by layer are the oracle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import layerwise_minicpm
from prompts import WORDS, byte_bpe

import packrank.text.pairs
from packrank import InputError, PairError, Reranker
from packrank.exits.stages import Stages
from packrank.models import CausalModel, load_model
from packrank.runtime.fleet import Fleet, Recipe
from packrank.runtime.runner import Runner
from packrank.scoring.assembly import Options, assemble
from packrank.scoring.pair_scorer import PairScorer
from packrank_kernels.dispatch import TABLE

CPU = torch.device("cpu")
STOPS = (2, 3, 5)
Requests = list[tuple[str, list[str]]]
USUAL = Options(
    max_length=60,
    truncation="longest_first",
    template=None,
    instruction=None,
    compress_ratio=1,
    compress_layers=(8,),
    head_index="upstream",
    share_prefixes=True,
)


@pytest.fixture(scope="module", autouse=True)
def _no_interpreter() -> Iterator[None]:
    """Triton's is slow, and threads cannot share it; without a GPU nobody else runs there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TABLE, "take_sequences", TABLE["take_sequences"][1:])
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stages") / "model"
    layerwise_minicpm(folder, byte_bpe("<pad>", "<s>"), layers=5)
    return folder


@pytest.fixture(scope="module")
def runner(folder: Path) -> Runner:
    causal = assemble(folder, "", USUAL).causal
    return Runner(load_model(folder, device="cpu", dtype=torch.float32, causal=causal), 400)


@pytest.fixture
def scorer(folder: Path, runner: Runner) -> PairScorer:
    return PairScorer(assemble(folder, "", USUAL), runner)


@pytest.fixture(scope="module")
def requests() -> Requests:
    """Of very different sizes, some with nothing that can be scored."""
    rng = np.random.default_rng(0)

    def text() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, 9)))

    sizes = (3, 0, 13, 1, 7, 2)
    made = [(text(), [text() for _ in range(size)]) for size in sizes]
    made[2][1][4] = "\ud800"
    made[5][1][:] = ["\ud800", "\udfff"]
    return made


def by_pair(scorer: PairScorer, requests: Requests) -> list[np.ndarray]:
    """[n, stops] of each request, a pair at a time."""
    rows = []
    for query, texts in requests:
        one = [scorer.logits([(query, d)], STOPS, lambda *_: None)[0] for d in texts]
        rows.append(np.array(one, dtype=np.float32).reshape(-1, len(STOPS)))
    return rows


def settled(logits: np.ndarray, top_k: int, margins: tuple[float, ...]) -> tuple[Any, Any]:
    """Final logits and layers run of one request, by the rule."""
    layers = np.where(np.isnan(logits[:, 0]), 0, STOPS[0])
    alive = [i for i in range(len(logits)) if layers[i]]
    for stage, margin in enumerate(margins):
        if len(alive) > top_k:
            threshold = sorted(logits[alive, stage].tolist())[-top_k]
            alive = [i for i in alive if float(logits[i, stage]) + margin >= threshold]
        layers[alive] = STOPS[stage + 1]
    final = np.full(len(logits), np.nan, dtype=np.float32)
    final[alive] = logits[alive, -1]
    return final, layers


@pytest.mark.parametrize("window", [1, 4, 1024])
@pytest.mark.parametrize("margins", [(0.0, 0.0), (0.5, 0.3), (np.inf, np.inf)])
def test_however_pairs_fall_into_windows(
    scorer: PairScorer,
    requests: Requests,
    window: int,
    margins: tuple[float, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = by_pair(scorer, requests)
    before = scorer.num_tokens
    monkeypatch.setattr(packrank.text.pairs, "WINDOW_PAIRS", window)
    outcomes, work = scorer.outcomes(requests, Stages(STOPS, 2, margins))
    assert len(outcomes) == len(requests)
    for outcome, logits in zip(outcomes, rows, strict=True):
        final, layers = settled(logits, 2, margins)
        np.testing.assert_array_equal(outcome.logits[:, 0], final)
        assert outcome.num_layers.tolist() == layers.tolist()
    assert [sorted(outcome.failures) for outcome in outcomes] == [[], [], [4], [], [], [0, 1]]
    assert "lone surrogate" in outcomes[2].failures[4]
    assert work is not None
    assert scorer.num_tokens - before == work.total // 5 == before
    saved = work.saved_by_prefix + work.saved_by_exits + work.saved_by_last_layer
    assert work.total + work.recomputed == work.computed + saved


def test_some_stop_at_every_stage(scorer: PairScorer, requests: Requests) -> None:
    """Or the test above would show little."""
    outcomes, _ = scorer.outcomes(requests, Stages(STOPS, 2, (0.5, 0.3)))
    layers = np.concatenate([outcome.num_layers for outcome in outcomes])
    assert set(layers.tolist()) == {0, *STOPS}


def test_a_document_whose_logits_are_not_finite_has_run_no_layer(
    scorer: PairScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    exit_logits = CausalModel.exit_logits

    def broken(self: CausalModel, state: Any, place: int) -> torch.Tensor:
        logits = exit_logits(self, state, place)
        if place == 1:
            logits[-1] = torch.nan
        return logits

    monkeypatch.setattr(CausalModel, "exit_logits", broken)
    [outcome], _ = scorer.outcomes([("a", ["b", "the"])], Stages(STOPS, 2, (np.inf, np.inf)))
    assert outcome.failures == {1: "the model's logits for it are not finite numbers"}
    assert outcome.num_layers.tolist() == [5, 0]
    assert np.isnan(outcome.logits[:, 0]).tolist() == [False, True]


@pytest.mark.parametrize("stops", [(1, 5), (2, 6), (0, 5)])
def test_stages_end_where_there_are_heads(scorer: PairScorer, stops: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"exit layer is \d, and the model has heads after 2 to 5"):
        scorer.outcomes([("a", ["b"])], Stages(stops, 1, (0.0,)))


def test_memory_that_does_not_suffice_is_remembered(
    folder: Path, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    causal = assemble(folder, "", USUAL).causal
    runner = Runner(load_model(folder, device="cpu", dtype=torch.float32, causal=causal), 400)
    scorer = PairScorer(assemble(folder, "", USUAL), runner)
    expected, _ = scorer.outcomes(requests, Stages(STOPS, 2, (0.5, 0.3)))
    advance = CausalModel.advance

    def limited(self: CausalModel, state: Any, stop: int, **options: Any) -> Any:
        if int(state.cu_seqlens[-1]) > 150:
            raise torch.OutOfMemoryError
        return advance(self, state, stop, **options)

    monkeypatch.setattr(CausalModel, "advance", limited)
    outcomes, _ = scorer.outcomes(requests, Stages(STOPS, 2, (0.5, 0.3)))
    for outcome, other in zip(outcomes, expected, strict=True):
        np.testing.assert_array_equal(outcome.logits, other.logits)
        np.testing.assert_array_equal(outcome.num_layers, other.num_layers)
        assert outcome.failures == other.failures
    assert runner.budget_tokens <= 200


@pytest.fixture(scope="module")
def fleet(folder: Path) -> Iterator[Fleet]:
    causal = assemble(folder, "", USUAL).causal
    yield Fleet(Recipe(folder, torch.float32, False, 100, causal), [CPU, CPU])


def test_several_devices_say_what_one_says(
    folder: Path, fleet: Fleet, runner: Runner, requests: Requests
) -> None:
    assembly = assemble(folder, "", USUAL)
    pairs = [(query, document) for query, texts in requests for document in texts]
    failures: list[dict[int, str]] = [{}, {}]
    one, several = PairScorer(assembly, runner), PairScorer(assembly, fleet)
    for layers in (None, (3,), STOPS):
        logits = [
            scorer.logits(pairs, layers, failed.__setitem__)
            for scorer, failed in zip((one, several), failures, strict=True)
        ]
        assert logits[0].shape == (26, 1 if layers is None else len(layers))
        np.testing.assert_array_equal(*logits)
    assert failures[0] == failures[1] and len(failures[0]) == 3
    for stop in (3, 5):
        alone, _ = one.outcomes(requests, Stages((stop,)))
        shared, work = several.outcomes(requests, Stages((stop,)))
        assert work is None
        for outcome, other in zip(shared, alone, strict=True):
            np.testing.assert_array_equal(outcome.logits, other.logits)
            np.testing.assert_array_equal(outcome.num_layers, other.num_layers)
            assert outcome.failures == other.failures
    assert several.num_tokens == one.num_tokens


def test_exits_take_one_device(folder: Path, fleet: Fleet, monkeypatch: Any) -> None:
    monkeypatch.setattr("packrank.scoring.pair_model.run_on", lambda *_: fleet)
    model = Reranker(folder, device=["cpu", "cpu"], max_length=60)
    alone = Reranker(folder, max_length=60)
    assert model.rank("a", ["b", "the"]) == alone.rank("a", ["b", "the"])
    assert model.identity == alone.identity  # one may go on with what the other began
    with pytest.raises(InputError, match="exit takes one device; several share out packs"):
        model.rank("a", ["b"], top_k=1, exit="calibrated")


def test_a_pair_that_fails_is_named_among_all(folder: Path) -> None:
    model = Reranker(folder, max_length=60, budget_tokens=100)
    requests = [("a", ["b", "the"]), ("is", ["it", "\ud800", "a"])]
    with pytest.raises(PairError, match="lone surrogate") as raised:
        model.rank_many(requests)
    assert raised.value.index == 3
    (_, none), (ranking, failures) = model.try_rank_many(requests)
    assert not none and list(failures) == [1]
    assert sorted(ranked.index for ranked in ranking) == [0, 2]
    assert ranking.num_layers.tolist() == [5, 0, 5]
