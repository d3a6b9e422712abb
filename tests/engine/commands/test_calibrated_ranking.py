"""What packrank calibrate measures of a model is what its rankings then go by."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import make, save_layerwise
from prompts import WORDS, metaspace

from packrank import Reranker
from packrank.commands.cli import main
from packrank.errors import InputError
from packrank.exits.calibration import reached
from packrank.exits.margins import FILE, load
from packrank.reranker import calibrated_counts


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def layerwise(tmp_path: Path) -> Path:
    """A MiniCPM of four layers that all share a head, so that scores resemble one another."""
    torch.manual_seed(2)
    backend = metaspace()
    model = make(
        "Llama",
        "ForCausalLM",
        rope_parameters=None,
        attention_bias=False,
        mlp_bias=False,
        vocab_size=backend.get_vocab_size(),
        max_position_embeddings=600,
    )
    folder = save_layerwise(
        tmp_path / "bge-layerwise",
        model,
        [torch.randn(1, 48)] * 3,
        architectures=["LayerWiseMiniCPMForCausalLM"],
        model_type="minicpm",
        start_layer=2,
        head_type="simple",
        head_multi=True,
        scale_emb=12,
        scale_depth=0.5,
    )
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    return folder


def test_a_ranking_drops_what_was_measured(layerwise: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(120)]
    queries = [{"id": str(i), "text": texts[-1 - i]} for i in range(24)]
    documents = [{"query": str(i % 24), "text": text} for i, text in enumerate(texts)]
    files = ["--queries", str(write(tmp_path / "queries.jsonl", queries))]
    files += ["--candidates", str(write(tmp_path / "candidates.jsonl", documents))]
    assert main(["calibrate", str(layerwise), *files, "--top-k", "2", "--recall", "0.6"]) == 0
    [margins] = load(layerwise / FILE)
    assert (margins.layers, margins.final_layer) == ((2, 3), 4)

    model = Reranker(layerwise)
    stopped = 0
    for query in queries[:3]:
        pairs = [(query["text"], text) for text in texts[:10]]
        logits = model.score(pairs, cutoff_layers=[2, 3, 4], activation="identity")
        ran = reached(logits, 2, margins.margins)
        ranking = model.rank(query["text"], texts[:10], top_k=2, exit="calibrated")
        assert ranking.num_layers.tolist() == [[2, 3, 4][n - 1] for n in ran.sum(1)]
        survivors = np.flatnonzero(ran[:, -1])
        best = survivors[np.argsort(-logits[survivors, -1], kind="stable")][:2]
        assert [ranked.index for ranked in ranking] == best.tolist()
        stopped += 10 - len(survivors)
    assert stopped > 5
    with pytest.raises(
        InputError, match="a query has 11 documents, and the margins hold for up to"
    ):
        model.rank("a", texts[:11], top_k=2, exit="calibrated")
    with pytest.raises(InputError, match="measured with top_k 2, not with top_k 3;"):
        model.rank("a", ["b"], top_k=3, exit="calibrated")
    with pytest.raises(InputError, match="not with max_length 40;"):
        Reranker(layerwise, max_length=40).rank("a", ["b"], top_k=2, exit="calibrated")
    assert calibrated_counts(model) == [2]
    assert calibrated_counts(Reranker(layerwise, max_length=40)) == []
    (layerwise / FILE).write_text("damaged")
    assert calibrated_counts(model) == []
