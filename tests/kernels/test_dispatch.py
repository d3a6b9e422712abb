"""Which backend "auto" takes."""

import pytest
import torch

from packrank_kernels.dispatch import TABLE, choose

DEVICES = [torch.device(kind) for kind in ("cpu", "cuda", "meta", "mps")]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("op", TABLE)
def test_auto_takes_the_first_that_accepts(op: str) -> None:
    for device in DEVICES:
        if device.type == "cuda" and not torch.cuda.is_available():
            continue  # backends ask the device what it can
        for dtype in DTYPES:
            accepting = [b for b in TABLE[op] if b.why_not(device, dtype) is None]
            assert choose(op, "auto", device, dtype) is accepting[0]


@pytest.mark.parametrize("op", TABLE)
def test_a_backend_of_one_type_of_device_refuses_the_others(op: str) -> None:
    ours = [b for b in TABLE[op] if b.device_type is not None]
    for backend in ours:
        for device in DEVICES:
            if device.type != backend.device_type:
                assert backend.why_not(device, torch.float16) is not None, (backend.name, device)
