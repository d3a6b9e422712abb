"""Folders of Stanford ColBERT over every body: vectors are those of its own Checkpoint."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colbert.infra import ColBERTConfig
from colbert.modeling.checkpoint import Checkpoint
from colbert_folders import PREFIXES, TEXTS, save_colbert

from packrank import LateInteraction
from packrank.errors import PackrankError

# Where a window of ModernBERT holds nothing but fillers, this transformers attends to all of the
# sequence, as newer ones do not; its windows are longer than any query.
SIZES: dict[str, dict[str, Any]] = {"ModernBert": {"local_attention": 128}}
# Lengths, and what queries are filled to, are those of the folder.
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "attended": {"attend_to_mask_tokens": True},
    "long": {"query_maxlen": 40, "doc_maxlen": 40},
    "short": {"query_maxlen": 5, "doc_maxlen": 5},
    "markers": {"query_token_id": "the", "doc_token_id": "sea"},
}
# Another value of every key of artifact.metadata.
KEYS: dict[str, Any] = {
    "query_token_id": "[unused1]",
    "doc_token_id": "the",
    "query_token": "[X]",
    "doc_token": "[Y]",
    "checkpoint": "/elsewhere",
    "triples": "triples",
    "collection": "collection",
    "queries": "queries",
    "index_name": "index",
    "dim": 9,
    "doc_maxlen": 6,
    "mask_punctuation": False,
    "query_maxlen": 21,
    "attend_to_mask_tokens": True,
    "interaction": "flipr",
    "similarity": "l2",
    "bsize": 7,
    "accumsteps": 3,
    "lr": 0.5,
    "maxsteps": 3,
    "save_every": 4,
    "resume": True,
    "warmup": 5,
    "warmup_bert": 5,
    "relu": True,
    "nway": 8,
    "use_ib_negatives": True,
    "reranker": True,
    "distillation_alpha": 0.5,
    "ignore_scores": True,
    "index_path": "index",
    "index_bsize": 3,
    "nbits": 4,
    "kmeans_niters": 9,
    "pool_factor": 2,
    "clustering_mode": "hierarchical",
    "protected_tokens": 3,
    "ncells": 4,
    "centroid_score_threshold": 0.3,
    "ndocs": 9,
    "load_index_with_mmap": True,
    "overwrite": True,
    "root": "/elsewhere",
    "experiment": "other",
    "index_root": "/elsewhere",
    "name": "other",
    "rank": 0,
    "nranks": 1,
    "amp": False,
    "gpus": 0,
    "avoid_fork_if_possible": True,
    "unheard_of": 5,
}


@pytest.fixture(scope="module", autouse=True)
def _no_extension() -> None:
    """It compiles a kernel for scores; vectors need none."""
    Checkpoint.loaded_extensions = True


def vectors(folder: Path) -> list[list[np.ndarray]]:
    """Queries and documents, one at a time, of colbert-ai."""
    checkpoint = Checkpoint(str(folder), ColBERTConfig(), verbose=0)
    if not checkpoint.colbert_config.mask_punctuation:
        checkpoint.skiplist = {}  # which it forgets to make
    queries = [checkpoint.queryFromText([text])[0].numpy() for text in TEXTS]
    documents = [checkpoint.docFromText([text], keep_dims=False)[0].numpy() for text in TEXTS]
    return [queries, documents]


def check(ours: list[Any], theirs: list[np.ndarray]) -> None:
    for text, a, b in zip(TEXTS, ours, theirs, strict=True):
        assert a.shape == b.shape, text
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=1e-5, err_msg=text)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", PREFIXES)
def test_vectors_are_those_of_colbert(
    checkpoint: Callable[..., Path], tmp_path: Path, name: str, options: str
) -> None:
    folder = tmp_path / "colbert"
    encoder = checkpoint(name, "Model", **SIZES.get(name, {}))
    save_colbert(encoder, folder, name, **OPTIONS[options])
    model = LateInteraction(folder, device="cpu")
    queries, documents = vectors(folder)
    check(model.encode_queries(TEXTS), queries)
    check(model.encode_documents(TEXTS), documents)


def test_a_folder_that_colbert_saved(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    save_colbert(checkpoint("XLMRoberta", "Model"), tmp_path / "made", "XLMRoberta")
    Checkpoint(str(tmp_path / "made"), ColBERTConfig(), verbose=0).save(str(tmp_path / "saved"))
    model = LateInteraction(tmp_path / "saved", device="cpu")
    queries, documents = vectors(tmp_path / "made")
    check(model.encode_queries(TEXTS), queries)
    check(model.encode_documents(TEXTS), documents)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_applied_or_refused(
    checkpoint: Callable[..., Path], tmp_path: Path, key: str
) -> None:
    folder = tmp_path / "colbert"
    save_colbert(checkpoint("Bert", "Model"), folder, "Bert")
    path = folder / "artifact.metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: KEYS[key]}))
    try:
        model = LateInteraction(folder, device="cpu")
    except PackrankError:
        return
    queries, documents = vectors(folder)
    check(model.encode_queries(TEXTS), queries)
    check(model.encode_documents(TEXTS), documents)


def test_most_keys_are_not_refused(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """So that the test above compares something."""
    folder, refused = tmp_path / "colbert", []
    save_colbert(checkpoint("Bert", "Model"), folder, "Bert")
    raw = json.loads((folder / "artifact.metadata").read_text())
    for key, value in KEYS.items():
        other = shutil.copytree(folder, tmp_path / key)
        (other / "artifact.metadata").write_text(json.dumps(raw | {key: value}))
        try:
            LateInteraction(other, device="cpu")
        except PackrankError:
            refused.append(key)
    assert refused == ["dim", "interaction", "similarity", "pool_factor"]
