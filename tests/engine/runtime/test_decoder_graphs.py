"""Decoders' packs in buckets with room to spare, on the CPU: no bit of a score is another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import candidates, make, save_layerwise
from recorder import Recorder

from packrank.checkpoint.scoring_modules import NormalizeModule, ScoringModules
from packrank.models import CausalModel, CausalSettings, load_model
from packrank.request import Pack
from packrank.runtime import graphs
from packrank.runtime.graphs import PATIENCE, Graphs
from packrank.runtime.runner import Runner
from packrank.runtime.transfer import Fetch

NOBODYS = 0  # the id of tokens past a pack's own, which no candidate has


def layerwise(folder: Path, **settings: Any) -> CausalModel:
    heads = [torch.randn(1, 48) for _ in range(4)]
    raw = {"architectures": ["CostWiseGemmaForCausalLM"], "model_type": "cost_wise_gemma"}
    raw |= {"start_layer": 1, "layer_sep": 1, "layer_wise": True}
    save_layerwise(folder, make("Gemma2", "ForCausalLM"), heads, **raw)
    return load(folder, CausalSettings(head="layerwise", **settings))


def load(folder: Path, settings: CausalSettings | None = None, **options: Any) -> CausalModel:
    model = load_model(folder, device="cpu", dtype=torch.float32, causal=settings, **options)
    assert isinstance(model, CausalModel)
    return model


def classifier(family: str, **options: Any) -> Callable[[Path], CausalModel]:
    def make_one(folder: Path) -> CausalModel:
        make(family, num_labels=3, **options).save_pretrained(folder)
        return load(folder)

    return make_one


def of_tokens(folder: Path) -> CausalModel:
    make("Qwen3", "ForCausalLM").save_pretrained(folder)
    return load(folder, CausalSettings(head="tokens", true_token_id=7, false_token_id=11))


def of_labels(folder: Path) -> CausalModel:
    make("Gemma2", "ForCausalLM").save_pretrained(folder)
    return load(folder, CausalSettings(head="labels", label_token_ids=(7, 11, 3)))


def pooled(folder: Path) -> CausalModel:
    make("Qwen2", "Model").save_pretrained(folder)
    unit, modes = NormalizeModule("sentence_embedding", "scores"), ("weightedmean", "max")
    modules = ScoringModules((), modes, (unit,), 48 * len(modes), skipped=1)
    return load(folder, CausalSettings(head="modules"), modules=modules)


MODELS: dict[str, Callable[[Path], CausalModel]] = {
    "Qwen2": classifier("Qwen2"),
    "Gemma2": classifier("Gemma2"),  # windows, and a cap on weights and logits
    "both ways": classifier("Qwen2", is_causal=False, pad_token_id=3),
    "tokens": of_tokens,
    "labels": of_labels,
    "pooled": pooled,
    "layerwise": layerwise,
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CausalModel:
    """What reads a token of nobody's reads NaN, and so does what reads memory not written."""
    torch.default_generator.manual_seed(0)
    found = MODELS[request.param](tmp_path_factory.mktemp("decoder") / "model")
    found._tokens[NOBODYS] = torch.nan
    return found


def joined(*packs: Pack) -> Pack:
    """Packs of several queries as one."""
    whole = Pack.of(sequence for pack in packs for sequence in pack)
    queries = [np.full(len(pack), number, np.int32) for number, pack in enumerate(packs)]
    shared = [pack.shared for pack in packs if pack.shared is not None]
    return Pack(
        *(whole.token_ids, whole.token_types, whole.cu_seqlens),
        np.concatenate(queries),
        np.concatenate(shared),
    )


# Some share a bucket, with as many tokens or fewer, with other prefixes or others' lengths.
PACKS = [
    candidates([1, 5, 20, 8, 2], 9),
    candidates([20, 2, 7], 20, seed=1),
    candidates([1, 5, 20, 8, 2], 9, seed=2, share=False),
    candidates([30], 3, seed=3),
    joined(candidates([3] * 4, 5, seed=4), candidates([9, 1], 12, seed=5)),
    joined(*(candidates([2, 3], 4, seed=n) for n in range(8))),  # 64 tokens, a sequence a few
    candidates([1] * 9, 1, seed=6),
    candidates([40, 50], 9, seed=7),
    candidates([10, 12, 20], 3, seed=8, share=False),  # in the bucket of the first
]
# Ends in tokens that a classifier with this padding does not read.
PACKS[2].token_ids[-2:] = PACKS[0].token_ids[-1] = 3


def submit(runner: Graphs, pack: Pack) -> Fetch:
    return runner.submit(runner.model.scoring(pack))


def test_a_bucket_changes_no_bit(model: CausalModel) -> None:
    """Nor does a pack that was in its buffers before, nor a prefix that the next has not."""
    expected = [model.logits(pack).numpy() for pack in PACKS]
    assert all(np.isfinite(logits).all() for logits in expected)
    recorder = Recorder()
    runner = Graphs(model, recorder)
    for _ in range(PATIENCE + 2):
        waiting = [submit(runner, pack) for pack in PACKS]
        for wait, logits in zip(waiting, expected, strict=True):
            np.testing.assert_array_equal(wait(), logits)
    assert 2 < runner.num_graphs == recorder.num_graphs < len(PACKS)


def test_layers_that_are_asked_for_have_lanes_of_their_own(tmp_path: Path) -> None:
    model = layerwise(tmp_path)
    model._tokens[NOBODYS] = torch.nan
    recorder = Recorder()
    runner = Runner(model, 100)
    runner.graphs = Graphs(model, recorder)
    for _ in range(PATIENCE + 2):
        for stops in ((1, 3, 4), (3,), None):
            for pack in PACKS[:3]:
                want = model.logits_at(pack, stops or (4,)).numpy()
                np.testing.assert_array_equal(runner.submit(pack, stops).result(), want)
    assert recorder.num_graphs >= 3 * 2


def test_documents_that_become_shorter_run_as_they_are(tmp_path: Path) -> None:
    """How many tokens are left of them hangs on their lengths, which no bucket knows."""
    model = layerwise(tmp_path, compress_ratio=2, compress_layers=(2,), tail=1)
    runner = Graphs(model, Recorder())
    for _ in range(PATIENCE + 2):
        for pack in PACKS:
            np.testing.assert_array_equal(submit(runner, pack)(), model.logits(pack).numpy())
    assert runner.num_graphs == 0


def test_large_packs_run_as_they_are(model: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = PACKS[7], PACKS[6]
    monkeypatch.setattr(graphs, "DECODER_TOKENS", 98)
    assert model.scoring(large).extent.tokens > 98 > model.scoring(small).extent.tokens
    runner = Graphs(model, Recorder())
    for _ in range(PATIENCE + 2):
        for pack in (large, small):
            np.testing.assert_array_equal(submit(runner, pack)(), model.logits(pack).numpy())
    assert runner.num_graphs == 1
