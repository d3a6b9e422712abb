"""Decoders as a CUDA device runs them, in Triton's interpreter: every op by its Triton kernel."""

from pathlib import Path
from typing import Any

import encoder_decoders
import numpy as np
import pytest
import torch
from decoders import candidates, make, save_layerwise
from recorder import Recorder
from torch import Tensor

from packrank.exits.cascade import Cascade
from packrank.models import CausalModel, CausalSettings, T5Settings, load_model
from packrank.models.decoder_layers import Projections
from packrank.request import Pack
from packrank.runtime.graphs import Graphs
from packrank_kernels import dispatch, linear
from packrank_kernels.testing import assert_close

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is a CUDA device, which tests/gpu is for"
)
LENGTHS, PREFIX = [5, 1, 18], 9


@pytest.fixture(autouse=True)
def only_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    for op, row in dispatch.TABLE.items():
        kept = tuple(backend for backend in row if backend.name == "triton")
        monkeypatch.setitem(dispatch.TABLE, op, kept)


@torch.no_grad()
def their_logits(model: Any, pack: Pack) -> Tensor:
    """One sequence at a time, so that there is nothing to pad."""
    exact = model.double()
    rows = [exact(torch.from_numpy(one.token_ids)[None].long()).logits[0] for one in pack]
    return torch.stack(rows)


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Gemma2"])
def test_logits(family: str, tmp_path: Path, thorough: bool) -> None:
    small = {"num_hidden_layers": 2, "initializer_range": 0.1}
    model = make(family, num_labels=2, **small)
    model.save_pretrained(tmp_path)
    pack = candidates(LENGTHS, PREFIX)
    expected = their_logits(model, pack)
    # float16: values of two layers, each rounded to 2^-11.
    tolerances = {torch.float32: 1e-5, torch.float16: 2**-7}
    if family != "Qwen3" and not thorough:
        del tolerances[torch.float16]
    for dtype, tolerance in tolerances.items():
        ours = load_model(tmp_path, device="cpu", dtype=dtype)
        assert_close(ours.logits(pack), expected, tolerance)


@pytest.mark.parametrize("kind", ["relu", "gated"])
def test_encoder_decoders(kind: str, tmp_path: Path, thorough: bool) -> None:
    """And in a bucket with room to spare no bit is another, where that is promised."""
    if kind == "gated" and not thorough:
        pytest.skip("its long form alone: make proofs")
    model = encoder_decoders.save(tmp_path, kind, num_layers=1, num_decoder_layers=1)
    pack, labels = encoder_decoders.pack([5, 1, 18]), (3, 7, 50)
    expected = encoder_decoders.their_logits(model, pack, (0, 5), labels)
    ours = load_model(
        tmp_path,
        device="cpu",
        dtype=torch.float32,
        causal=T5Settings((0, 5), labels),
        deterministic=True,
    )
    found = ours.logits(pack)
    assert_close(found, torch.from_numpy(expected), 1e-5)
    runner = Graphs(ours, Recorder())
    np.testing.assert_array_equal(runner.submit(ours.scoring(pack))(), found.numpy())


@pytest.mark.parametrize("whole", [True, False])
def test_queries_keys_and_values_are_one_product(
    whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what computes some of them has no weight of its own."""
    calls: list[Any] = []

    def counted(x: Tensor, layer: Any) -> Tensor:
        calls.append(layer)
        return linear(x, layer)

    monkeypatch.setattr("packrank.models.layers.linear", counted)
    weight, bias, x = torch.randn(24 + 16, 32), torch.randn(24 + 16), torch.randn(7, 32)
    qkv = Projections(weight, bias, 24, whole=whole, deterministic=False)
    expected = x.double() @ weight.double().T + bias
    found = [*qkv(x), *qkv(x, x[4:6])]
    wanted = [expected[:, :24], expected[:, 24:], expected[4:6, :24], expected[:, 24:]]
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, 1e-5)
    assert len(calls) == (3 if whole else 4)
    assert len({layer.data.untyped_storage().data_ptr() for layer in calls}) == 1


def test_exits_and_determinism(tmp_path: Path) -> None:
    """Buckets, candidates that leave, how packs are cut: no bit changes where that is promised."""
    base = make("Gemma2", "ForCausalLM", num_hidden_layers=2, sliding_window=40)
    folder = save_layerwise(
        tmp_path / "model",
        base,
        [4 * torch.randn(1, 48) for _ in range(2)],
        architectures=["CostWiseGemmaForCausalLM"],
        model_type="cost_wise_gemma",
        start_layer=1,
        layer_sep=1,
        layer_wise=True,
    )
    settings = CausalSettings(head="layerwise")
    model = load_model(
        folder, device="cpu", dtype=torch.float16, causal=settings, deterministic=True
    )
    assert isinstance(model, CausalModel)
    queries = [candidates([3, 9, 1, 14], 11, seed=1), candidates([8, 20], 5, seed=2)]
    full = [model.logits_at(pack, (1, 2)).numpy() for pack in queries]
    runner = Graphs(model, Recorder())
    program = model.exit_scoring(queries[1], (1, 2))
    np.testing.assert_array_equal(runner.submit(program)(), full[1])
    cascade = Cascade(model, (1, 2), lambda stage, s: s >= np.median(s), 40)
    for number, pack in enumerate(queries):
        cascade.add(number, pack)
        cascade.close(number)
    for settled in cascade.run(to_the_end=True):
        logits = full[settled.query]
        stays = logits[:, 0] >= np.median(logits[:, 0])
        np.testing.assert_array_equal(settled.logits, np.where(stays, logits[:, 1], np.nan))
