"""What scores by sentence-transformers' and FlagEmbedding's classes, unmodified, with ours."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import FlagEmbedding
import numpy as np
import pyarrow
import pytest
import sentence_transformers
from beir.reranking import Rerank
from lancedb.rerankers import CrossEncoderReranker
from mteb._create_dataloaders import create_dataloader
from mteb.models import CrossEncoderWrapper
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from sentence_transformers.util import mine_hard_negatives

import packrank

WORDS = "red blue fox owl dog snake cat hen"
PAIRS = [
    ["red owl", "blue fox"],
    ["dog", "dog snake"],
    ["snake " * 40, "red"],
    ["cat", "hen " * 50],
]


def texts(seed: int, count: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [
        " ".join(random.choice(WORDS.split(), 1 + n % 6)) + f" {'fox ' * n}" for n in range(count)
    ]


@pytest.fixture(scope="module")
def folder(
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    made = tmp_path_factory.mktemp("reranker") / "model"
    shutil.copytree(checkpoint("Bert", num_labels=1), made)
    save_tokenizer(made, WORDS)
    return made


@pytest.fixture(scope="module")
def both(folder: Path) -> tuple[Any, Any]:
    """Ours and theirs."""
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    return packrank.CrossEncoder(str(folder), device="cpu"), theirs


def test_columns_of_datasets(both: tuple[Any, Any]) -> None:
    table = datasets.Dataset.from_dict({"pair": PAIRS})
    ours, theirs = (model.predict(table["pair"]) for model in both)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("options", [{}, {"use_multi_process": True}], ids=str)
def test_mine_hard_negatives(
    both: tuple[Any, Any],
    options: dict[str, Any],
    checkpoint: Callable[..., Path],
    save_tokenizer: Callable[..., None],
    tmp_path: Path,
) -> None:
    body = tmp_path / "body"
    shutil.copytree(checkpoint("Bert", "Model"), body)
    save_tokenizer(body, WORDS)
    encoder = Transformer(str(body))
    embedder = sentence_transformers.SentenceTransformer(
        modules=[encoder, Pooling(encoder.get_embedding_dimension())], device="cpu"
    )
    table = datasets.Dataset.from_dict({"query": texts(1, 12), "answer": texts(2, 12)})
    mined = [
        mine_hard_negatives(
            table,
            embedder,
            cross_encoder=model,
            corpus=texts(3, 20),
            range_max=8,
            num_negatives=2,
            max_score=0.95,
            absolute_margin=0.0,
            use_faiss=False,
            verbose=False,
            output_format="labeled-pair",
            output_scores=True,
            # Theirs would start four processes; ours has the same bits with them.
            **(options if model is both[0] else {}),
        )
        for model in both
    ]
    assert mined[0].num_rows == mined[1].num_rows > 12
    for ours, theirs in zip(*mined, strict=True):
        assert ours.pop("score") == pytest.approx(theirs.pop("score"), abs=2e-5)
        assert ours == theirs


def test_beirs_rerank(both: tuple[Any, Any]) -> None:
    corpus = {f"d{n}": {"title": "red", "text": text} for n, text in enumerate(texts(4, 15))}
    queries = {"a": "red fox", "b": "owl"}
    first = {key: {name: 1.0 / (n + 1) for n, name in enumerate(corpus)} for key in queries}
    ours, theirs = (Rerank(model, batch_size=4).rerank(corpus, queries, first, 6) for model in both)
    assert ours.keys() == theirs.keys()
    for key in queries:
        assert ours[key] == pytest.approx(theirs[key], abs=2e-5) and len(ours[key]) == 6


def test_lancedbs_reranker(both: tuple[Any, Any]) -> None:
    rows = texts(5, 9)
    table = pyarrow.table({"text": rows, "_distance": [float(n) for n in range(9)]})
    found = []
    for model in both:
        reranker = CrossEncoderReranker("any")
        reranker.model = model
        found.append(reranker.rerank_vector("red fox", table).to_pydict())
    assert found[0]["text"] == found[1]["text"] != rows
    np.testing.assert_allclose(*(one["_relevance_score"] for one in found), atol=2e-5)


def test_mtebs_wrapper(both: tuple[Any, Any]) -> None:
    # It asks isinstance of what it is given.
    sentence_transformers.CrossEncoder.register(packrank.CrossEncoder)
    from mteb import get_task

    metadata = get_task("SciFact").metadata
    sides = [
        datasets.Dataset.from_dict({"id": list(map(str, range(8))), "text": texts(n, 8)})
        for n in (6, 7)
    ]
    found = []
    for model in both:
        wrapper = CrossEncoderWrapper(model, query_prefix="red ")
        loaders = [create_dataloader(side, task_metadata=metadata, batch_size=3) for side in sides]
        scores = wrapper.predict(
            *loaders, task_metadata=metadata, hf_split="test", hf_subset="default"
        )
        assert wrapper.mteb_model_meta.model_type == ["cross-encoder"]
        found.append(np.asarray(scores))
    assert found[0].shape == found[1].shape == (8,)
    np.testing.assert_allclose(*found, atol=2e-5)


def test_flagembeddings_reranker(folder: Path) -> None:
    options = {"max_length": 20, "devices": ["cpu"]}
    theirs = FlagEmbedding.FlagReranker(str(folder), **options)
    ours = packrank.FlagReranker(str(folder), **options)
    for pairs in (PAIRS, PAIRS[0], [tuple(pair) for pair in PAIRS]):
        for call in ({}, {"normalize": True}, {"max_length": 16}, {"query_max_length": 4}):
            found, expected = (one.compute_score(pairs, **call) for one in (ours, theirs))
            assert type(found) is type(expected) and type(found[0]) is type(expected[0])
            np.testing.assert_allclose(found, expected, atol=2e-5)
    given = {"query_instruction_for_rerank": "owl ", "passage_instruction_for_rerank": "red "}
    theirs = FlagEmbedding.FlagReranker(str(folder), **options, **given)
    ours = packrank.FlagReranker(str(folder), **options, **given)
    np.testing.assert_allclose(ours.compute_score(PAIRS), theirs.compute_score(PAIRS), atol=2e-5)
