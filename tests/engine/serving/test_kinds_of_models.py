"""An engine over every kind of model gives what the model gives: decoders, exits, late, several."""

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


def test_layers_and_exits_beside_each_other(tmp_path: Path) -> None:
    torch.manual_seed(3)
    layerwise_minicpm(tmp_path / "model", byte_bpe("<pad>", "<s>"), layers=4)
    model = Reranker(tmp_path / "model")
    margins = Margins(
        model="m", fingerprint=model._fingerprint, settings=model.exit_settings, top_k=2,
        final_layer=4, layers=(2, 3), margins=(0.5, 0.5), recall=0.8, held_out_recall=1.0,
        held_out_low=0.9, held_out_high=1.0, dropped=(0.1, 0.1), saved=0.1, num_fitted=20,
        num_held_out=20, num_left_out=0, num_candidates=12, extrapolated=False,
    )  # fmt: skip
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
