"""Sizes that config.json claims are believed of no one: no memory is taken on its word."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import decoders
import numpy as np
import pytest
import torch

from packrank.errors import ModelError
from packrank.models import load_model
from packrank.models.layers import RotaryTable, rotary_table
from packrank.request import Pack, Sequence

ENCODERS = ("Bert", "Roberta", "Electra", "DistilBert", "ModernBert", "DebertaV2", "Gte")
SPELLED = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}
# Kilobytes that a load of such small models may take.
MOST = 60_000


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name in ENCODERS:
            return checkpoint(name, num_labels=1)
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            decoders.make(name).save_pretrained(made[name])
        return made[name]

    return find


def with_size(whole: Path, target: Path, key: str, value: int) -> Path:
    target.mkdir()
    shutil.copy(whole / "model.safetensors", target)
    raw = json.loads((whole / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(raw | {key: value}))
    return target


def peak() -> int:
    """Kilobytes of the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


CLAIMS = [
    (name, key, value)
    for name in (*ENCODERS, "Llama", "Gemma2")
    for key, value in [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 4096),
        ("hidden_size", 10**9),
        ("vocab_size", 10**9),
        ("intermediate_size", 2**30),
        ("num_attention_heads", 10**9),
        *([("max_position_embeddings", 10**9)] if name in ENCODERS[:4] else []),
        *([("type_vocab_size", 10**9)] if name in ENCODERS[:3] else []),
        *([("embedding_size", 10**9)] if name == "Electra" else []),
        *([("head_dim", 10**9), ("num_key_value_heads", 10**9)] if name not in ENCODERS else []),
        *([("head_dim", 10**9)] if name == "ModernBert" else []),
        ("num_labels", 10**9),
        ("num_labels", int("7" * 400)),
        ("vocab_size", 10**30),
    ]
]


@pytest.mark.parametrize(("name", "key", "value"), CLAIMS)
def test_a_size_that_is_not_there(
    folder: Any, tmp_path: Path, name: str, key: str, value: int
) -> None:
    whole = folder(name)
    load_model(whole, device="cpu", dtype=torch.float32)
    spelled = SPELLED.get(key, key) if name == "DistilBert" else key
    before = peak()
    with pytest.raises(ModelError) as raised:
        claims = with_size(whole, tmp_path / "claims", spelled, value)
        load_model(claims, device="cpu", dtype=torch.float32)
    assert peak() - before < MOST
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("name", ["ModernBert", "Llama", "Gemma2"])
def test_positions_that_no_sequence_comes_to(folder: Any, tmp_path: Path, name: str) -> None:
    """Where they are computed there may be as many as anyone likes."""
    whole = folder(name)
    claims = with_size(whole, tmp_path / "claims", "max_position_embeddings", 10**8)
    ids = np.arange(40, dtype=np.int32) + 3
    pack = Pack.of([Sequence(ids, np.zeros_like(ids))])
    want = load_model(whole, device="cpu", dtype=torch.float32).logits(pack)
    before = peak()
    model = load_model(claims, device="cpu", dtype=torch.float32)
    assert torch.equal(model.logits(pack), want)
    assert peak() - before < MOST
    assert model.config.max_length == model.config.usual_length == 2**20


def test_a_rotary_table_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits of a position do not hang on how the table came to be as long as it is."""
    made: list[int] = []
    original = RotaryTable._make

    def make(table: RotaryTable, count: int) -> Any:
        made.append(count)
        return original(table, count)

    monkeypatch.setattr(RotaryTable, "_make", make)
    grown, whole = (rotary_table(10_000.0, 34, torch.device("cpu")) for _ in range(2))
    first = grown.upto(5)
    for length in (1, 700, 1024, 1025, 1500, 5000):
        cos, sin = grown.upto(length)
        assert cos.shape == sin.shape == (len(cos), 17)
        assert len(cos) >= length
    assert made == [1, 2, 5]
    for one, other in zip(whole.upto(5000), grown.upto(5000), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(first[0], whole.upto(1)[0][:1024])
    exponents = torch.arange(0, 34, 2, dtype=torch.float64) / 34
    angles = torch.arange(5000, dtype=torch.float64)[:, None] * 10_000.0**-exponents
    np.testing.assert_allclose(whole.upto(5000)[1][:5000], angles.sin(), rtol=0, atol=5e-4)
