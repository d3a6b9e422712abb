"""Decoder rerankers from texts to scores: transformers on ids laid out by hand is the oracle."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from decoders import compressed_logits, layerwise_logits, layerwise_minicpm, lightweight
from prompts import (
    FLAG,
    QWEN_TASK,
    byte_bpe,
    encoder,
    flag_oracle,
    metaspace,
    mxbai_oracle,
    qwen_oracle,
)
from recorder import Recorder
from reranker_folders import BUILD, LONG, PAIRS, Case, last, saved, sized

from packrank import PairError, Reranker
from packrank.runtime.graphs import PATIENCE, Graphs


@pytest.fixture(params=BUILD)
def case(reranker_case: Callable[[str], Case], request: pytest.FixtureRequest) -> Case:
    return reranker_case(request.param)


def test_scores_are_those_of_the_oracle(case: Case) -> None:
    model = case.open()
    logits = np.array([float(case.want(*pair)) for pair in case.pairs])
    assert np.ptp(logits) > 0.1
    got = model.score(case.pairs, activation="identity")
    np.testing.assert_allclose(got, logits, rtol=0, atol=1e-4)
    np.testing.assert_allclose(model.score(case.pairs), case.activate(logits), rtol=0, atol=1e-4)


def test_what_is_cut_is_what_differs_with_more_room(case: Case) -> None:
    narrow, wide = case.open(), case.open(max_length=200 + case.options.get("max_length", 90))
    assert narrow.max_length < wide.max_length
    same = narrow.score(case.pairs) == wide.score(case.pairs)
    assert same.tolist() == [LONG not in pair for pair in case.pairs]


@pytest.mark.parametrize("name", ["qwen3", "qwen3-classifier", "logit-score"])
def test_a_query_that_leaves_no_room_fails_alone(
    reranker_case: Callable[[str], Case], name: str
) -> None:
    case = reranker_case(name)
    model, requests = case.open(), [("is it", ["a", "the"]), (LONG * 2, ["a", "the"])]
    (ranking, none), (empty, failures) = model.try_rank_many(requests)
    assert ranking == model.rank(*requests[0]) and not none
    assert empty == [] and list(failures) == [0, 1]
    assert empty.num_layers.tolist() == [0, 0]
    assert failures[0] == (
        f"the query leaves no room for a document within max_length {model.max_length}; shorten "
        "it or raise max_length"
    )
    with pytest.raises(PairError) as raised:
        model.rank_many(requests)
    assert raised.value.index == 2
    scores, failures = model.try_score([(LONG * 2, "a"), ("is it", "a")])
    assert list(failures) == [0] and np.isnan(scores[0])
    assert scores[1] == model.score([("is it", "a")])[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_have_the_same_bits_in_any_company(case: Case, dtype: str, thorough: bool) -> None:
    if dtype == "bfloat16" and not thorough:
        pytest.skip("its long form alone: make proofs")
    model = case.open(dtype=dtype)
    alone = np.concatenate([model.score([pair]) for pair in case.pairs])
    assert len(np.unique(alone)) > len(alone) - 2
    order = np.random.default_rng(0).permutation(3 * len(case.pairs)) % len(case.pairs)
    pairs = [case.pairs[i] for i in order]
    # Compression keeps prefixes apart.
    shares = "compress_ratio" in case.options
    others = [{"budget_tokens": 64}, {"budget_tokens": 1000, "share_prefixes": shares}]
    for options in others:
        scores = case.open(dtype=dtype, **options).score(pairs)
        np.testing.assert_array_equal(scores, alone[order], str(options))


def test_rankings_are_the_scores_in_order(case: Case) -> None:
    """One query by itself, or several at once, or in threads."""
    model = case.open(budget_tokens=200)
    queries = dict.fromkeys(query for query, _ in case.pairs)
    requests = [(query, [d for other, d in case.pairs if other == query]) for query in queries]
    requests.insert(1, ("a query without documents", []))
    expected: list[list[tuple[int, float, str]]] = []
    for query, documents in requests:
        scores = model.score([(query, document) for document in documents])
        order = np.argsort(-scores, kind="stable")[:3].tolist()
        expected.append([(i, scores[i], documents[i]) for i in order])
    assert model.rank_many(requests, top_k=3) == expected
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda one: model.rank(*one, top_k=3), requests * 3))
    assert found == expected * 3


@pytest.mark.parametrize(
    ("name", "captures"),
    [("bge-gemma", True), ("bge-minicpm-layerwise", True), ("bge-gemma2-lightweight", False)],
)
def test_graphs_change_no_score(
    reranker_case: Callable[[str], Case], name: str, captures: bool
) -> None:
    """Nor what is said of the work; documents that become shorter run without."""
    case = reranker_case(name)
    plain, model = case.open(), case.open()
    graphs = Graphs(model._runner.model, Recorder())  # type: ignore[union-attr]
    model._runner.graphs = graphs  # type: ignore[union-attr]
    scores, ranking = plain.score(case.pairs), plain.rank("is it", ["a", "the", "is it a"])
    for _ in range(PATIENCE + 2):
        found = model.rank("is it", ["a", "the", "is it a"])
        assert (found, found.work) == (ranking, ranking.work)
    assert (graphs.num_graphs > 0) == captures
    for _ in range(PATIENCE + 2):
        np.testing.assert_array_equal(model.score(case.pairs), scores)
    assert (graphs.num_graphs > 1) == captures


@pytest.fixture(scope="module")
def by_layer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reranker, np.ndarray]:
    """A model with heads after layers 2 to 5, and by the oracle what each says of the pairs."""
    torch.manual_seed(4)
    backend, folder = metaspace(), tmp_path_factory.mktemp("by-layer") / "minicpm"
    theirs, heads = layerwise_minicpm(folder, backend, layers=5)
    rows = [
        layerwise_logits(theirs, heads, flag_oracle(FLAG[1], encoder(backend), [1], *pair, 40))
        for pair in PAIRS
    ]
    return Reranker(folder, max_length=40), np.array(rows)


@pytest.mark.parametrize("asked", [[2, 3, 5], [5, 2, 2, 4], (3,), np.array([5, 3])])
def test_a_score_a_layer(by_layer: tuple[Reranker, np.ndarray], asked: Any) -> None:
    model, rows = by_layer
    got = model.score(PAIRS, cutoff_layers=asked)
    want = rows[:, [layer - 2 for layer in asked]]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", [2, 4, 5])
def test_layers_that_do_not_count_do_not_run(
    by_layer: tuple[Reranker, np.ndarray], layer: int
) -> None:
    model, rows = by_layer
    assert model.exit_layers == (2, 3, 4, 5)
    scores = model.score(PAIRS, cutoff_layers=layer)
    np.testing.assert_allclose(scores, rows[:, layer - 2], rtol=0, atol=1e-4)
    ranking = model.rank(PAIRS[0][0], [document for _, document in PAIRS[:3]], cutoff_layer=layer)
    assert [ranked.score for ranked in ranking] == sorted(scores[:3].tolist(), reverse=True)
    assert ranking.num_layers.tolist() == [layer] * 3
    work = ranking.work
    assert work is not None
    assert work.total % layer == 0
    assert 0 < work.computed < work.total


@pytest.fixture(scope="module")
def gemma2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Callable[..., list[float]]]:
    """A model with heads after every layer; (pair, stop) -> what each head says there."""
    torch.manual_seed(4)
    backend, folder = byte_bpe("<pad>", "<bos>"), tmp_path_factory.mktemp("gemma2") / "lightweight"
    theirs, heads = lightweight(folder, backend)

    def want(pair: tuple[str, str], stop: int) -> list[float]:
        ids = flag_oracle(FLAG[2], encoder(backend), [1], *pair, 40)
        with torch.no_grad():
            each = [compressed_logits(theirs, [h], ids, (0, 0), 1, (), (stop,)) for h in heads]
        return [float(logit) for (logit,) in each]

    return folder, want


@pytest.mark.parametrize("head_index", ["upstream", "layer"])
def test_which_head_a_layer_has(
    gemma2: tuple[Path, Callable[..., list[float]]], head_index: Any
) -> None:
    """Upstream has the i-th head for the i-th layer, in the order of the layers."""
    folder, want = gemma2
    model = Reranker(folder, max_length=40, head_index=head_index)
    for stops in ((4, 1, 3), (2,)):
        places = [sorted(stops).index(s) if head_index == "upstream" else s - 1 for s in stops]
        rows = [
            [want(pair, stop)[place] for stop, place in zip(stops, places, strict=True)]
            for pair in PAIRS
        ]
        got = model.score(PAIRS, cutoff_layers=stops)
        np.testing.assert_allclose(got, rows, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(model.score(PAIRS, cutoff_layers=2), got[:, 0])
    ranking = model.rank(PAIRS[0][0], [PAIRS[0][1]], cutoff_layer=2)
    assert ranking[0].score == got[0, 0]


@pytest.fixture(scope="module")
def qwen2(data_dir: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(data_dir / "tokenizers/qwen2/tokenizer.json"))


@pytest.mark.parametrize("name", ["mxbai-v2", "qwen3"])
def test_with_a_real_vocabulary(
    name: str, qwen2: tokenizers.Tokenizer, tmp_path: Path, thorough: bool
) -> None:
    if name == "mxbai-v2" and not thorough:
        pytest.skip("its long form alone: make proofs")
    backend, encode = qwen2, encoder(qwen2)
    family = {"mxbai-v2": "Qwen2", "qwen3": "Qwen3"}[name]
    options = {"hidden_size": 12, "head_dim": 4, "tie_word_embeddings": True}
    model = sized(family, "ForCausalLM", backend, **options)
    folder = saved(tmp_path / "model", model, backend)
    yes, no = (encode(token)[0] for token in (("1", "0") if name == "mxbai-v2" else ("yes", "no")))
    oracle = {"mxbai-v2": mxbai_oracle, "qwen3": qwen_oracle}[name]
    limit = {"mxbai-v2": 60, "qwen3": 90 + len(encode(QWEN_TASK))}[name]
    pairs = [("Wie groß ist ein Panda?", "熊猫 🐼 is 1.5 m\n\n long"), ("a", " b " * 99), ("é", "")]
    logits = [last(model, oracle(encode, *pair, limit)) for pair in pairs]
    got = Reranker(folder, template=name, max_length=limit).score(pairs, activation="identity")
    want = [float(one[yes] - one[no]) for one in logits]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
