"""An engine over every kind of model gives what the model gives: decoders, exits, late, several."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import layerwise_minicpm
from prompts import byte_bpe
from reranker_folders import PAIRS, gemma2, minicpm, qwen3

from packrank import Engine, InputError, LateInteraction, Reranker
from packrank.demo import default_model
from packrank.exits.margins import Margins
from packrank.reranker import scorer_of
from packrank.serving.source import LateSource, PairSource
from packrank.serving.watch import Totals
from packrank_kernels.dispatch import TABLE

QUERIES = ["what is a panda", "", "is it"]
DOCUMENTS = [document for _, document in PAIRS]


@pytest.fixture(scope="module", autouse=True)
def _no_interpreter() -> Iterator[None]:
    """Triton's is slow, and threads cannot share it; without a GPU nobody else runs there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TABLE, "take_sequences", TABLE["take_sequences"][1:])
        yield


@pytest.mark.parametrize("make", [minicpm, gemma2, qwen3])
def test_decoders_in_company(make: Any, tmp_path: Path) -> None:
    model = make(tmp_path).open()
    with Engine(model) as engine:
        futures = [engine.submit(query, DOCUMENTS) for query in QUERIES]
        for query, future in zip(QUERIES, futures, strict=True):
            assert future.result(60) == model.rank(query, DOCUMENTS)
        pairs = PAIRS[:6]  # of the others some templates say that the query is too long
        assert np.array_equal(engine.submit_pairs(pairs).result(60), model.score(pairs))


def test_packs_of_decoders_are_as_full_as_what_runs(tmp_path: Path) -> None:
    """What the candidates of a query begin with runs once, and takes room once."""
    model = qwen3(tmp_path).open(budget_tokens=400)
    query, documents = "what is a panda " * 8, ["a bear", "it is", "the sea"] * 20
    pairs = [(query, document) for document in documents]
    pack = scorer_of(model).reader.window(pairs).sequences
    assert pack.shared is not None and min(pack.shared) > 60
    ran: list[tuple[int, int]] = []

    class Watching(Totals):
        def has_run(self, pairs: int, tokens: int, budget: int, seconds: float) -> None:
            ran.append((pairs, tokens))

    with Engine(model, watch=Watching()) as engine:
        answer = engine.submit(query, documents)
        assert answer.result(60) == model.rank(query, documents)
        assert answer.usage.tokens == len(pack.token_ids) == sum(tokens for _, tokens in ran)
        assert engine.queue_tokens == 0
    assert (
        len(ran) < len(pack.token_ids) / 400
    )  # of whole sequences there would be as many at least


def layerwise(folder: Path) -> Reranker:
    torch.manual_seed(3)
    layerwise_minicpm(folder / "model", byte_bpe("<pad>", "<s>"), layers=4)
    return Reranker(folder / "model")


def some_margins(model: Reranker) -> Margins:
    return Margins(
        model="m", fingerprint=model._fingerprint, settings=model.exit_settings, top_k=2,
        final_layer=4, layers=(2, 3), margins=(0.5, 0.5), recall=0.8, held_out_recall=1.0,
        held_out_low=0.9, held_out_high=1.0, dropped=(0.1, 0.1), saved=0.1, num_fitted=20,
        num_held_out=20, num_left_out=0, num_candidates=12, extrapolated=False,
    )  # fmt: skip


def test_layers_and_exits_beside_each_other(tmp_path: Path) -> None:
    model = layerwise(tmp_path)
    margins = some_margins(model)
    options: list[dict[str, Any]] = [
        {}, {"cutoff_layer": 2}, {"cutoff_layer": 3}, {"exit": margins, "top_k": 2}
    ]  # fmt: skip
    with Engine(model) as engine:
        futures = [engine.submit("is it", DOCUMENTS, **one) for one in options]
        for one, future in zip(options, futures, strict=True):
            want = model.rank("is it", DOCUMENTS, **one)
            found = future.result(60)
            assert found == want
            assert found.num_layers.tolist() == want.num_layers.tolist()
            assert future.usage.pairs == len(DOCUMENTS)
        # One whose candidates stop early is counted as the others are.
        assert len({one.usage.tokens for one in futures}) == 1
        assert engine.totals.pairs == 4 * len(DOCUMENTS)
        assert engine.totals.tokens == sum(one.usage.tokens for one in futures)
        several = engine.submit_pairs(PAIRS[:6], cutoff_layers=[4, 2]).result(60)
        assert np.array_equal(several, model.score(PAIRS[:6], cutoff_layers=[4, 2]))


def test_late_interaction_and_its_store(tmp_path: Path) -> None:
    texts = ["the sea", "", "a sea of the", "x", "the sea " * 30]
    model = LateInteraction(default_model(), device="cpu")
    ids = [f"d{n}" for n in range(len(texts))]
    model.encode_documents(texts, store=tmp_path / "store", ids=ids)
    model.attach(tmp_path / "store")
    with Engine(model) as engine:
        futures = [engine.submit(f"the sea {n}", texts, 3) for n in range(4)]
        for n, future in enumerate(futures):
            assert future.result(60) == model.rank(f"the sea {n}", texts, 3)
        pairs = [("the sea", text) for text in texts]
        assert np.array_equal(engine.submit_pairs(pairs).result(60), model.score(pairs))
        stored = engine.submit("the sea", None, 2, candidates=["d0", "d3", "d2"]).result(60)
        assert stored == model.rank("the sea", None, 2, candidates=["d0", "d3", "d2"])
        with pytest.raises(InputError, match="no cutoff_layer"):
            engine.submit("q", ["a"], cutoff_layer=2)
        with pytest.raises(InputError, match="missing"):
            engine.submit("the sea", None, candidates=["missing"]).result(60)


@pytest.mark.parametrize("is_early", [False, True])
def test_what_runs_alone_waits_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_early: bool
) -> None:
    """Of the tokens that its pairs have, whether they share packs or not."""
    model = layerwise(tmp_path)
    options: dict[str, Any] = {"exit": some_margins(model)} if is_early else {}
    begun, go = threading.Event(), threading.Event()
    start = PairSource.start
    monkeypatch.setattr(
        PairSource, "start", lambda *given: begun.set() or (go.wait(60) and start(*given))
    )
    with Engine(model) as engine:
        first = engine.submit("is it", ["a"])
        assert begun.wait(60)
        before = engine.queue_tokens
        rate, fixed = engine._guess.rate, scorer_of(model).reader.fixed_tokens
        monkeypatch.setattr(engine._pump, "_read", lambda *_: None)  # as if it took its time
        answer = engine.submit("is it", ["a" * 30] * 5, 2, **options)
        expected = 5 * (fixed + 1 + int(5 * rate) + int(30 * rate))
        assert engine.queue_tokens - before == expected
        assert answer.cancel()
        go.set()
        assert first.result(60)


def test_documents_of_a_store_count_for_a_share_of_their_tokens(tmp_path: Path) -> None:
    texts = ["the sea " * 60] * 20
    model = LateInteraction(default_model(), device="cpu")
    ids = [f"d{n}" for n in range(len(texts))]
    model.encode_documents(texts, store=tmp_path / "store", ids=ids)
    model.attach(tmp_path / "store")
    assert model.store is not None
    stored = int(model.store.embeddings.cu_seqlens[-1])
    with Engine(model) as engine:
        of_query = LateSource(model, 4096).tokens(len("the sea"), 0)
        for candidates, count in ((None, 20), (ids[:10], 10), ([], 0)):
            answer = engine.submit("the sea", None, candidates=candidates)
            assert len(answer.result(60)) == answer.usage.pairs == count
            assert answer.usage.tokens == of_query + stored * count // 20 // 256
        assert engine.totals.pairs == 30


def test_texts_of_a_pack_of_late_interaction_take_no_longer_than_it_does() -> None:
    """They are tokenized whole where they run, while everyone waits."""
    model = LateInteraction(default_model(), device="cpu")
    source = LateSource(model, 4096)
    [one] = source.lengths([("q", "a" * 1_000_000)])
    assert one > 4096
    for characters in (10, 300, 3000):
        [cost] = source.lengths([("q", "a" * characters)])
        read = source.tokens(1, characters)
        assert read <= cost <= read + characters // 48
    with Engine(model) as engine:
        answer = engine.submit("the sea", ["the sea " * 3000])
        assert answer.result(60)
        assert answer.usage.tokens == source.tokens(7, 24_000)  # what was read, not what was not


def test_explanations_have_their_turn(tmp_path: Path) -> None:
    model = LateInteraction(default_model())
    with Engine(model) as engine:
        found = engine.submit_explain("a panda", "the giant panda").result(60)
        assert found == model.explain("a panda", "the giant panda")
        for query, document, said in ((1, "b", "query"), ("a", ["b"], "document")):
            with pytest.raises(InputError, match=said):
                engine.submit_explain(query, document)
    made = minicpm(tmp_path).open()
    with Engine(made) as engine, pytest.raises(InputError, match="only late interaction"):
        engine.submit_explain("a", "b")
