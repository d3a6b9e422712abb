"""Decoders on the device against transformers in float64, and what company does to them there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from decoders import ON_DEVICE, PECULIAR, SIZES, candidates, make, save_layerwise

from packrank.exits.cascade import Cascade
from packrank.models import CausalModel, CausalSettings, load_model
from packrank.request import Pack
from packrank.runtime.runner import Runner

pytestmark = pytest.mark.gpu

HALVES = [torch.float16, torch.bfloat16]
# Heads of other sizes, and windows that cut.
SHAPES = {
    "Llama": ON_DEVICE | {"rope_parameters": None},
    "Mistral": ON_DEVICE | {"sliding_window": 100},
    "Qwen2": ON_DEVICE | {"use_sliding_window": False},
    "Qwen3": ON_DEVICE | {"head_dim": 128},
    "Gemma": ON_DEVICE | {"head_dim": 256, "num_key_value_heads": 1},
    "Gemma2": ON_DEVICE
    | {
        "head_dim": 256,
        "sliding_window": 90,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 20.0,
    },
}
LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65, 128, 129, 7, 90, 31, 300]
PREFIX = 77


@pytest.fixture(scope="module", params=SHAPES)
def checkpoint_and_oracle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, np.ndarray, Callable[[torch.dtype], np.ndarray]]:
    """A folder, its logits in float64, and those of transformers on the device in a dtype."""
    torch.manual_seed(1)
    model = make(request.param, num_labels=3, **SHAPES[request.param])
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    pack = candidates(LENGTHS, PREFIX)

    @torch.no_grad()
    def theirs(device: str, dtype: torch.dtype) -> np.ndarray:
        moved = model.to(device=device, dtype=dtype)
        ids = [torch.from_numpy(one.token_ids)[None].long().to(device) for one in pack]
        return torch.cat([moved(one).logits for one in ids]).double().cpu().numpy()

    exact = theirs("cpu", torch.float64)
    return folder, exact, lambda dtype: theirs("cuda", dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
@pytest.mark.parametrize("deterministic", [False, True], ids=["fastest", "deterministic"])
def test_halves_are_as_near_as_transformers_own(
    cuda: torch.device,
    checkpoint_and_oracle: tuple[Path, np.ndarray, Callable[[torch.dtype], np.ndarray]],
    rms: Callable[[np.ndarray], float],
    dtype: torch.dtype,
    deterministic: bool,
) -> None:
    folder, exact, theirs = checkpoint_and_oracle
    allowed = 1.5 * rms(theirs(dtype) - exact)
    model = load_model(folder, device=cuda, dtype=dtype, deterministic=deterministic)
    for share in (True, False):
        pack = candidates(LENGTHS, PREFIX, share=share)
        for budget in (300, 100_000):
            assert rms(Runner(model, budget).logits(pack) - exact) <= allowed


def test_float32(
    cuda: torch.device,
    checkpoint_and_oracle: tuple[Path, np.ndarray, Callable[[torch.dtype], np.ndarray]],
) -> None:
    folder, exact, _ = checkpoint_and_oracle
    model = load_model(folder, device=cuda, dtype=torch.float32)
    logits = Runner(model, 700).logits(candidates(LENGTHS, PREFIX))
    assert np.abs(logits - exact).max() <= 5e-5 * np.abs(exact).max()


@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
def test_deterministic_logits_and_exits(
    cuda: torch.device, tmp_path: Path, dtype: torch.dtype
) -> None:
    base = make("Llama", "ForCausalLM", **SHAPES["Llama"], attention_bias=False, mlp_bias=False)
    layers = SIZES["num_hidden_layers"]
    folder = save_layerwise(
        tmp_path / "model",
        base,
        [torch.randn(1, ON_DEVICE["hidden_size"]) for _ in range(layers)],
        architectures=["LayerWiseMiniCPMForCausalLM"],
        model_type="minicpm",
        start_layer=1,
        head_type="simple",
        scale_emb=12,
        scale_depth=1.4,
    )
    settings = CausalSettings(head="layerwise")
    model = load_model(folder, device=cuda, dtype=dtype, causal=settings, deterministic=True)
    assert isinstance(model, CausalModel)
    queries = [candidates(LENGTHS[n:] + LENGTHS[:n], 5 + 31 * n, seed=n) for n in range(6)]
    full = [Runner(model, 100_000).submit(pack, (1, 2, layers)).result() for pack in queries]

    def keep(stage: int, logits: np.ndarray) -> np.ndarray:
        return logits >= np.sort(logits)[len(logits) // 3]

    for budget in (1, 500, 100_000):
        for settled in _run(model, queries, keep, budget):
            logits, alive = full[settled.query], np.arange(len(LENGTHS))
            for stage in (0, 1):
                alive = alive[keep(stage, logits[alive, stage])]
            expected = np.full(len(LENGTHS), np.nan, dtype=np.float32)
            expected[alive] = logits[alive, 2]
            np.testing.assert_array_equal(settled.logits, expected)


def _run(model: CausalModel, queries: list[Pack], keep: Any, budget: int) -> Any:
    cascade = Cascade(model, (1, 2, SIZES["num_hidden_layers"]), keep, budget)
    for number, pack in enumerate(queries):
        cascade.add(number, pack)
        cascade.close(number)
    return cascade.run(to_the_end=True)


def test_every_family_is_here() -> None:
    assert SHAPES.keys() == PECULIAR.keys()
