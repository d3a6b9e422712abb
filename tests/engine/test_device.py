import pytest
import torch

from packrank.device import choose_device
from packrank.errors import InputError


def test_names_mean_what_they_say() -> None:
    assert choose_device("cpu", "float32") == (torch.device("cpu"), torch.float32)
    assert choose_device("cpu", "bfloat16") == (torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize(
    ("gpus", "device", "dtype"),
    [(0, "cpu", torch.float32), (1, "cuda", torch.bfloat16)],
)
def test_auto_takes_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, gpus: int, device: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert choose_device("auto", "auto") == (torch.device(device), dtype)


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        ("abacus", "auto", "device is 'abacus', expected 'auto', 'cpu', 'cuda'"),
        (None, "auto", "device is None, expected 'auto', 'cpu', 'cuda'"),
        ("mps", "auto", "device 'mps' is not supported"),
        ("cuda:2", "auto", "device 'cuda:2' is not here: torch sees 2 CUDA devices"),
        ("cuda:1", "float16", "dtype is 'float16', expected 'auto', 'float32' or 'bfloat16'"),
    ],
)
def test_what_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=message):
        choose_device(device, dtype)
