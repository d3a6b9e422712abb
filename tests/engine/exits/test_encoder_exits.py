"""Encoders with heads at several layers go through the same cascade as decoders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from recorder import Recorder
from safetensors.torch import load_file, save_file

from packrank import Margins, Reranker
from packrank.errors import InputError, ModelError
from packrank.exits.cascade import Cascade
from packrank.models import load_model
from packrank.models.staged import StagedModel
from packrank.request import Pack, Sequence
from packrank.runtime.graphs import PATIENCE, Graphs

_HEAD = [
    f"{name}.{part}" for name in ("bert.pooler.dense", "classifier") for part in ("weight", "bias")
]
LENGTHS = [3, 17, 9, 1, 24, 12, 5, 8]


@pytest.fixture(scope="module")
def pack() -> Pack:
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, 40, n).astype(np.int32) for n in LENGTHS]
    return Pack.of(Sequence(one, np.arange(len(one), dtype=np.int32) % 2) for one in ids)


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a head after each of its three layers."""
    out = tmp_path_factory.mktemp("exits") / "model"
    shutil.copytree(checkpoint("Bert", num_labels=1), out)
    tensors = load_file(out / "model.safetensors")
    torch.manual_seed(3)
    for layer in (1, 2):
        for name in ("bert.pooler.dense", "classifier"):
            for part in ("weight", "bias"):
                like = tensors[f"{name}.{part}"]
                tensors[f"exits.{layer}.{name}.{part}"] = 0.3 * torch.randn_like(like)
    save_file(tensors, out / "model.safetensors")
    raw = json.loads((out / "config.json").read_text()) | {"exit_layers": [1, 2]}
    (out / "config.json").write_text(json.dumps(raw))
    return out


def load(folder: Path, dtype: torch.dtype = torch.float32) -> StagedModel:
    model = load_model(folder, device="cpu", dtype=dtype)
    assert isinstance(model, StagedModel)
    return model


def test_every_head_against_transformers(folder: Path, pack: Pack) -> None:
    theirs = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    tensors = load_file(folder / "model.safetensors")
    want = []
    for sequence in pack:
        ids, types = (
            torch.from_numpy(x)[None].long() for x in (sequence.token_ids, sequence.token_types)
        )
        with torch.no_grad():
            states = theirs.bert(ids, token_type_ids=types, output_hidden_states=True).hidden_states
        row = []
        for layer, stem in ((1, "exits.1."), (2, "exits.2."), (3, "")):
            part = {name: tensors[f"{stem}{name}"] for name in _HEAD}
            pooled = torch.tanh(
                part["bert.pooler.dense.weight"] @ states[layer][0, 0]
                + part["bert.pooler.dense.bias"]
            )
            row.append(float(part["classifier.weight"][0] @ pooled + part["classifier.bias"][0]))
        want.append(row)
    model = load(folder)
    assert model.exit_layers == (1, 2, 3)
    np.testing.assert_allclose(model.logits_at(pack, (1, 2, 3)), want, rtol=0, atol=2e-5)
    assert torch.equal(model.logits_at(pack, (3,)), model.logits(pack))
    assert torch.equal(model.logits_at(pack, (2,)), model.logits_at(pack, (1, 2, 3))[:, 1:2])


def test_a_bucket_changes_no_bit(folder: Path, pack: Pack) -> None:
    """Also one with a token for every sequence, most of which have more."""
    model, ids = load(folder), np.arange(5, 65, dtype=np.int32) % 30 + 5
    ends = np.cumsum([0, *[1] * 20, *[2] * 20]).astype(np.int32)
    runner = Graphs(model, Recorder())
    for one in (pack, Pack(ids, ids % 2, ends)):
        for stops in ((1, 2, 3), (2,)):
            want = model.logits_at(one, stops).numpy()
            for _ in range(PATIENCE + 2):
                got = runner.submit(model.exit_scoring(one, stops))()
                np.testing.assert_array_equal(got, want)
    assert runner.num_graphs == 4


@pytest.mark.parametrize("budget", [20, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_those_that_stay_have_the_same_bits(
    folder: Path, pack: Pack, dtype: torch.dtype, budget: int
) -> None:
    model = load(folder, dtype)
    full = model.logits_at(pack, (1, 2, 3)).numpy()

    def keep(stage: int, logits: np.ndarray) -> np.ndarray:
        return logits >= np.median(logits)

    cascade = Cascade(model, (1, 2, 3), keep, budget)
    cascade.add(0, pack)
    cascade.close(0)
    (settled,) = cascade.run(to_the_end=True)
    alive = np.arange(len(pack))
    layers = np.full(len(pack), 1)
    for stage in (0, 1):
        alive = alive[keep(stage, full[alive, stage])]
        layers[alive] = stage + 2
    final = np.full(len(pack), np.nan, dtype=np.float32)
    final[alive] = full[alive, 2]
    np.testing.assert_array_equal(settled.logits, final)
    np.testing.assert_array_equal(settled.num_layers, layers)
    assert 0 < len(alive) < len(pack)
    work = cascade.work
    assert work.total == work.computed + work.saved_by_exits + work.saved_by_last_layer
    assert work.saved_by_exits == int(((3 - layers) * pack.lengths).sum())


def test_through_the_front_door(folder: Path, save_tokenizer: Callable[..., None]) -> None:
    save_tokenizer(folder, "red fox owl blue night")
    model = Reranker(folder)
    texts = ["fox", "red owl", "blue night fox", "owl owl", "night"]
    assert model.exit_layers == (1, 2, 3)
    pairs = [("red", text) for text in texts]
    every = model.score(pairs, cutoff_layers=[3, 1, 2], activation="identity")
    np.testing.assert_array_equal(every[:, 0], model.score(pairs, activation="identity"))
    cut = model.rank("red", texts, cutoff_layer=2)
    assert [one.index for one in cut] == np.argsort(-every[:, 2], kind="stable").tolist()
    assert cut.num_layers.tolist() == [2] * 5
    margins = Margins(
        model="here",
        fingerprint=model._fingerprint,
        settings=model.exit_settings,
        top_k=1,
        final_layer=3,
        layers=(1, 2),
        margins=(0.0, np.inf),
        recall=0.9,
        held_out_recall=0.9,
        held_out_low=0.8,
        held_out_high=1.0,
        dropped=(0.5, 0.5),
        saved=0.3,
        num_fitted=1,
        num_held_out=1,
        num_left_out=0,
        num_candidates=5,
        extrapolated=False,
    )
    best = model.rank("red", texts, top_k=1, exit=margins)
    (first,) = np.flatnonzero(best.num_layers == 3)
    assert first == every[:, 1].argmax() == best[0].index
    assert sorted(best.num_layers.tolist()) == [1, 1, 1, 1, 3]


@pytest.mark.parametrize("layers", [[2, 1], [0], [3], ["1"], [True], [1, 1]])
def test_layers_that_make_no_sense(folder: Path, tmp_path: Path, layers: list[object]) -> None:
    out = shutil.copytree(folder, tmp_path / "model")
    raw = json.loads((out / "config.json").read_text()) | {"exit_layers": layers}
    (out / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match=r"exit_layers is .*, expected ascending numbers below"):
        load(out)


def test_a_layer_without_a_head(folder: Path) -> None:
    model = Reranker(folder)
    with pytest.raises(InputError, match="cutoff_layer is 4, and the model has heads after 1 to 3"):
        model.rank("red", ["fox"], cutoff_layer=4)
