import pytest
import torch

from packrank.errors import InputError
from packrank.runtime.device import choose_device, choose_devices


def test_names_mean_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("cpu", "float32") == (torch.device("cpu"), torch.float32)
    assert choose_device("cuda", "float16") == (torch.device("cuda"), torch.float16)
    assert choose_device("cpu", "bfloat16") == (torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize(
    ("gpus", "device", "dtype"),
    [(0, "cpu", torch.float32), (1, "cuda", None)],
)
def test_auto_takes_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, gpus: int, device: str, dtype: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert choose_device("auto", "auto") == (torch.device(device), dtype)


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
def test_cuda_does_not_survive_a_fork(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(InputError, match="before this process was forked"):
        choose_device(device, "auto")
    assert choose_device("cpu", "auto") == (torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        ("abacus", "auto", "device is 'abacus', expected 'auto', 'cpu', 'cuda'"),
        (None, "auto", "device is None, expected 'auto', 'cpu', 'cuda'"),
        ("mps", "auto", "device 'mps' is not supported"),
        ("cuda:2", "auto", "device 'cuda:2' is not here: torch sees 2 CUDA devices"),
        ("cuda:1", "int8", "dtype is 'int8', expected 'auto' or one of 'float32', 'bfloat16', "),
        ("cpu", "float16", "dtype 'float16' is for CUDA devices; on the CPU use 'bfloat16'"),
    ],
)
def test_what_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(InputError, match=message):
        choose_device(device, dtype)


def test_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    several = choose_devices(["cuda:0", "cuda:1"], "auto")
    assert several == ([torch.device("cuda:0"), torch.device("cuda:1")], None)
    assert choose_devices(torch.device("cpu"), "auto")[0] == [torch.device("cpu")]  # type: ignore[arg-type]
    assert choose_devices("cuda", "float16") == ([torch.device("cuda")], torch.float16)
    for names, message in (
        ([], "names no device"),
        (["cuda:1", "cuda:1"], "names a device twice"),
        (["cuda", "cuda:0"], "names a device twice"),
        (["cpu", "cuda"], "name CUDA devices only"),
        (["cuda:0", "cuda:2"], "torch sees 2 CUDA devices"),
    ):
        with pytest.raises(InputError, match=message):
            choose_devices(names, "auto")


def test_a_torch_without_cuda_is_told_from_a_machine_without_a_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(InputError, match=r"this torch \(\S+\) is built without CUDA; use 'cpu'"):
        choose_device("cuda", "auto")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(InputError, match="torch sees 0 CUDA devices; use 'cpu' or 'auto'"):
        choose_device("cuda", "auto")
