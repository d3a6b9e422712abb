"""What cannot run on a CUDA device says so in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from packrank.errors import InputError, RangeError
from packrank.models import load_model
from packrank.runtime.device import choose_device
from packrank_kernels import attention, backends, maxsim
from packrank_kernels.testing import cu_seqlens

pytestmark = pytest.mark.gpu


def test_a_device_that_is_not_there(cuda: torch.device) -> None:
    count = torch.cuda.device_count()
    with pytest.raises(InputError, match=rf"'cuda:{count}' is not here: torch sees {count} CUDA"):
        choose_device(f"cuda:{count}", "auto")


@pytest.fixture
def too_large(checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkpoint with a weight beyond float16."""
    folder = shutil.copytree(checkpoint("Bert", num_labels=1), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.0.output.dense.weight"][3, 4] = 1e5
    save_file(weights, folder / "model.safetensors")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    return folder


def test_weights_beyond_float16(cuda: torch.device, too_large: Path) -> None:
    assert load_model(too_large, device=cuda, dtype=None).dtype == torch.bfloat16
    with pytest.raises(RangeError, match=r"layer\.0\.output\.dense\.weight holds 1e\+05"):
        load_model(too_large, device=cuda, dtype=torch.float16)


def test_backends_of_the_cpu(cuda: torch.device) -> None:
    q = torch.randn(5, 2, 32, device=cuda)
    cu = cu_seqlens([2, 3]).to(cuda)
    with pytest.raises(ValueError, match=r"cannot run this call: .*not on the CPU"):
        attention(q, q, q, cu, cu, backend="scalar")
    with pytest.raises(ValueError, match="cu_seqlens_q is on cpu, expected cuda"):
        attention(q, q, q, cu.cpu(), cu.cpu())
    with pytest.raises(ValueError, match="no backend 'cutlass'"):
        attention(q, q, q, cu, cu, backend="cutlass")


def test_tensors_on_two_devices(cuda: torch.device) -> None:
    x = torch.randn(3, 4, device=cuda)
    with pytest.raises(ValueError, match="is on c"):
        maxsim(x, x.cpu(), cu_seqlens([3], torch.int64).to(cuda))


def test_every_op_has_a_backend_that_is_not_the_reference(cuda: torch.device) -> None:
    """Else a build or an import failed, and all would be right and slow."""
    for op, row in backends(cuda, torch.float16).items():
        usable = [name for name, reason in row if reason is None]
        assert usable[-1] == "reference"
        if op != "maxsim":
            assert len(usable) > 1, f"{op}: {row}"
