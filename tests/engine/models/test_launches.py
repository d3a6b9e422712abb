"""What a forward launches on a CUDA device: told by one that is not there, see `pretend`."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from decoders import make
from pretend.process import run

pytest.importorskip("triton")

from packrank_kernels.backend.triton.linear import DESCRIPTOR_TILES

# Shaped as models are, so that products go through tensor maps.
SIZES: dict[str, dict[str, int]] = {
    "Bert": {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "ModernBert": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 576},
    "Qwen2": {
        "hidden_size": 384,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": 1152,
    },
}
SAME = 4  # of the packs, as many as differ in nothing that decides on a kernel


@pytest.fixture(params=[None, "older"])
def triton(request: pytest.FixtureRequest) -> tuple[Path, ...]:
    """What comes before this environment's packages."""
    if request.param is None:
        return ()
    older = request.config.getoption("--older-triton")
    if older is None or not older.is_dir():
        pytest.skip("needs another Triton: make older-triton, make proofs")
    return (older,)


@pytest.fixture
def told(
    name: str,
    checkpoint: Callable[..., Path],
    tmp_path: Path,
    thorough: bool,
    compiled_folder: Path,
    triton: tuple[Path, ...],
) -> list[list[dict[str, Any]]]:
    """Of models of two and of three layers: launches, ops and kernels of each pack."""
    if name != "Bert" and not thorough:
        pytest.skip("its long form alone: make proofs")
    options = {"max_position_embeddings": 512, "num_labels": 1, **SIZES[name]}
    folders = []
    for layers in (2, 3):
        if name != "Qwen2":
            folders.append(checkpoint(name, num_hidden_layers=layers, **options))
            continue
        folders.append(tmp_path / str(layers))
        make(name, num_hidden_layers=layers, **options).save_pretrained(folders[-1])
    more = ["--more", 40] if thorough else []
    found = run("forwards.py", *folders, "--keep", compiled_folder, *more, path=triton)
    return [model["packs"] for model in found]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("Bert", {"descriptor_gemm": 4, "attend": 1, "_add_norm_kernel": 2}),
        ("ModernBert", {"descriptor_gemm": 4, "attend": 1, "_add_norm_kernel": 2}),
        ("Qwen2", {"descriptor_gemm": 4, "attend": 1, "_add_norm_kernel": 2}),
    ],
)
def test_launches_of_a_layer_and_kernels_of_a_model(
    told: list[list[dict[str, Any]]], layer: dict[str, int]
) -> None:
    """Seven a post-norm layer, nothing of torch's among them; and few kernels for any packs."""
    for two, three in zip(*told, strict=True):
        assert Counter(three["launches"]) - Counter(two["launches"]) == layer
    first, *same = told[0][:SAME]
    assert first["kernels"]
    assert [pack["kernels"] for pack in same] == [[]] * len(same)
    # After the first pack, which has the tables of rotary angles made.
    assert [pack["ops"] for pack in told[0][1:]] == [pack["ops"] for pack in told[1][1:]]
    kernels = [kernel for pack in told[0] for kernel in pack["kernels"]]
    assert len(kernels) == len(set(kernels))
    # With and without an activation; attention by bounds, of two windows; norms, embedding, head.
    assert len(kernels) <= 2 * len(DESCRIPTOR_TILES) + 2 * 6 + 5
