"""Checkpoints of named shapes: of their sizes, and read by transformers as they are here."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from packrank import Reranker
from packrank.bench.subjects.checkpoints import write_checkpoint
from packrank.bench.subjects.shapes import SHAPES, Shape
from packrank.checkpoint.config import load_config

PAIRS = [
    ("what do snakes eat", "a python eats mice"),
    ("owls", "A barn owl hears a mouse, at 3 m."),
]


def small(shape: Shape) -> Shape:
    layers = 9 if shape.family == "minicpm" else 2
    keys = 2 if shape.key_heads else None
    return replace(shape, layers=layers, hidden=64, heads=4, inner=96, key_heads=keys)


@pytest.mark.parametrize("name", ["MiniLM-L6", "base", "ModernBERT-base", "Qwen2.5-0.5B"])
def test_transformers_scores_a_checkpoint_alike(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = write_checkpoint(small(SHAPES[name]), tmp_path / name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    for query, document in PAIRS:
        with torch.inference_mode():
            expected = model(**tokenizer(query, document, return_tensors="pt")).logits[0, 0]
        ours = Reranker(folder, activation="identity")
        assert load_config(folder).usual_length == SHAPES[name].positions
        found = ours.score([(query, document)])[0]
        assert found == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)


def test_a_layerwise_model_has_its_exits(tmp_path: Path) -> None:
    model = Reranker(write_checkpoint(small(SHAPES["MiniCPM-2B"]), tmp_path / "it"))
    assert model.exit_layers == (8, 9)
    assert np.isfinite(model.score(PAIRS, cutoff_layers=[8, 9])).all()


@pytest.mark.parametrize("name", SHAPES)
def test_products_of_a_shape_are_those_of_its_checkpoint(name: str, tmp_path: Path) -> None:
    shape = small(SHAPES[name])
    folder = write_checkpoint(shape, tmp_path / "it")
    with safe_open(folder / "model.safetensors", "pt") as file:
        sizes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    inner = [size for key, size in sizes.items() if "layer" in key and len(size) == 2]
    assert sum(rows * columns for rows, columns in inner) == shape.parameters


# By the tables of their cards and of shared arithmetic: products of the layers, in millions.
@pytest.mark.parametrize(
    ("name", "millions"),
    [("MiniLM-L6", 10.6), ("base", 84.9), ("large", 302), ("ModernBERT-base", 110),
     ("Qwen2.5-0.5B", 358), ("Qwen2.5-1.5B", 1310), ("MiniCPM-2B", 2442)],
)  # fmt: skip
def test_shapes_have_published_sizes(name: str, millions: float) -> None:
    assert SHAPES[name].parameters / 1e6 == pytest.approx(millions, rel=0.006)


def test_the_same_shape_gives_the_same_bytes(tmp_path: Path) -> None:
    shape = small(SHAPES["base"])
    folders = [write_checkpoint(shape, tmp_path / name) for name in "ab"]
    for name in ("model.safetensors", "config.json", "tokenizer_config.json"):
        first, second = ((folder / name).read_bytes() for folder in folders)
        assert first == second
    config = json.loads((folders[0] / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
